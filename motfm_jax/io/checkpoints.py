"""Checkpoints: the training state with the config and the facts of its data, through Orbax.

On disk: checkpoints/STEP/{state/ (arrays), config/, facts/, sums/, metrics/ (JSON)}. A checkpoint
appears under its number once it is complete; older ones go only after that. `sums` holds a digest
of every array and of the JSON beside it, and the step, made before anything is written: what is
read back is compared with it, and where a checkpoint is damaged the one before is used.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from motfm_jax.io.folders import sync
from motfm_jax.io.hashes import hash_each, hash_json
from motfm_jax.io.orbax_files import (
    ITEMS,
    LOSS,
    Damaged,
    Which,
    candidates,
    first_line,
    loss_of,
    open_manager,
    read_arrays,
    read_json,
    saved_arrays,
)
from motfm_jax.io.run_folder import mark_saved

_Read = TypeVar("_Read")


class Weights(NamedTuple):
    """What sampling and export take from a run.

    Attributes:
      params: the moving average of the parameters where the run keeps one, else the parameters;
        numpy float32 by name.
      step: the checkpoint's step.
      config: the run's resolved config, plain JSON.
      facts: the facts of its data, plain JSON.
      path: the checkpoint's folder.
    """

    params: dict[str, np.ndarray]
    step: int
    config: dict[str, Any]
    facts: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one run while it trains.

    All processes call every method; arrays are written by process 0 alone, from host memory.

    Args:
      folder: where they are.
      config, facts: JSON-able, saved with each.
      keep_every: besides the last two and the best, keep each step that is a multiple; 0 for none.
      named: state -> what is saved of it.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        facts: Mapping[str, Any],
        keep_every: int = 0,
        named: Callable[[Any], Any] = lambda state: state,
    ):
        self.folder = Path(folder).absolute()
        self._named = named
        self._beside = {"config": dict(config), "facts": dict(facts)}
        keep = [
            policies.LatestN(2),
            policies.BestN(
                get_metric_fn=loss_of, reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._manager = open_manager(
            self.folder,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint."""
        return sorted(self._manager.all_steps())

    @property
    def best_loss(self) -> float:
        """Lowest validation loss among the checkpoints; inf where none has one."""
        step = self._manager.best_step()
        return math.inf if step is None else loss_of(self._manager.metrics(step) or {})

    def save(self, step: int, state: Any, valid_loss: float | None = None) -> None:
        """Copies the state to host memory and writes it in the background.

        Args:
          step: the number it goes by; a step that is already there is left as it is.
          state: a NamedTuple of pytrees of arrays.
          valid_loss: validation loss of exactly this state, where it was measured.

        Raises:
          ValueError: this checkpoint or the one before could not be written.
        """
        if step in self.steps:
            return
        self.wait()  # for the last one: this save may delete what came before it
        # Copies, not views: the next update donates the buffers while Orbax still writes.
        saved = _flatten(self._named(state))
        host = {name: np.array(leaf, copy=True) for name, leaf in saved.items()}
        metrics = None if valid_loss is None else {LOSS: float(valid_loss)}
        sums = {"step": step, "arrays": hash_each(host), "metrics": hash_json(metrics)}
        sums |= {name: hash_json(value) for name, value in self._beside.items()}
        with _writable(self.folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(host),
                    sums=ocp.args.JsonSave(sums),
                    **{name: ocp.args.JsonSave(value) for name, value in self._beside.items()},
                ),
                metrics=metrics,
            )

    def restore(self, template: Any, which: Which = "last") -> Any:
        """The state saved, as numpy arrays in the template's structure.

        A damaged checkpoint is said to be so on the terminal and set aside under the name
        damaged-STEP; the one before it is taken. One asked for by its step is not replaced.

        Args:
          template: a state of the same structure, shapes and types (arrays or their shapes).
          which: "last", "best" or a step.

        Raises:
          ValueError: no such checkpoint; one of another architecture or optimiser; none readable.
        """
        wanted = _flatten(template)

        def read(step: int) -> dict[str, np.ndarray]:
            path = self.folder / str(step)
            found = saved_arrays(self._manager, step, path)
            check_parameters(_under("params/", found), _under("params/", wanted), str(path))
            if {name: leaf.shape for name, leaf in found.items()} != {
                name: leaf.shape for name, leaf in wanted.items()
            }:
                raise ValueError(
                    f"{path}: was saved with another optimiser or moving average; resume with the "
                    "run's own config, or start another run"
                )
            return read_arrays(self._manager, step, path, wanted)

        arrays, damaged = _first_whole(candidates(self._manager, which, self.folder), read)
        for step in damaged if jax.process_index() == 0 else ():
            (self.folder / str(step)).rename(_free_name(self.folder / f"damaged-{step}"))
        if damaged:
            self._manager.reload()
        return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])

    def wait(self) -> None:
        """Returns once everything saved is on the disk itself, where a power cut leaves it.

        Raises:
          ValueError: it could not be written.
        """
        with _writable(self.folder):
            self._manager.wait_until_finished()
            if self.steps and jax.process_index() == 0:  # Orbax leaves names and JSON in buffers
                last = self.folder / str(self.steps[-1])
                for path in (*last.rglob("*"), last, self.folder):
                    sync(path)
                mark_saved(self.folder.parent)

    def close(self) -> None:
        with _writable(self.folder):
            self._manager.close()


def restore_weights(run: Path, which: Which = "last") -> Weights:
    """Weights to sample with, with their config and facts; needs no optimiser.

    Args:
      run: run directory (or a folder that holds `checkpoints/` alone).
      which: "last", "best" (lowest validation loss) or a step.

    A damaged checkpoint is said to be so on the terminal, and the one before it is taken (the last,
    where it was the best); one asked for by its step is not replaced.

    Raises:
      ValueError: no such checkpoint, or none that is readable.
    """
    folder = Path(run).absolute() / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"{run}: no checkpoints/ in it; give the --workdir of a training run")
    with contextlib.closing(open_manager(folder, read_only=True)) as manager:

        def read(step: int) -> Weights:
            path = folder / str(step)
            found = saved_arrays(manager, step, path)
            prefix = "ema/" if _under("ema/", found) else "params/"
            names = {name: leaf for name, leaf in found.items() if name.startswith(prefix)}
            params = _under(prefix, read_arrays(manager, step, path, names))
            return Weights(params, step, *(read_json(path / item) for item in ITEMS), path)

        return _first_whole(candidates(manager, which, folder), read)[0]


def check_parameters(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Compares parameters by name and shape.

    Args:
      found: name -> array or shape, as saved.
      wanted: name -> array or shape, as the network has them.
      where: the file or folder, for the message.

    Raises:
      ValueError: naming the first ten that are missing, extra, or of another shape.
    """
    shapes = [{name: tuple(leaf.shape) for name, leaf in tree.items()} for tree in (found, wanted)]
    problems = [f"{name} missing" for name in shapes[1] if name not in shapes[0]]
    problems += [f"{name} extra" for name in shapes[0] if name not in shapes[1]]
    problems += [
        f"{name} is {shapes[0][name]}, needs {shape}"
        for name, shape in shapes[1].items()
        if name in shapes[0] and shapes[0][name] != shape
    ]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"{where}: a checkpoint of another architecture ({len(problems)} differences "
            f"from the {len(shapes[1])} parameters needed): {'; '.join(problems[:10])}{more}; use "
            "the config it was trained with"
        )


def _first_whole(candidates: list[int], read: Callable[[int], _Read]) -> tuple[_Read, list[int]]:
    """What the first undamaged checkpoint holds, and the steps of those before it."""
    damaged = []
    for step in candidates:
        if damaged:
            print(f"WARNING: trying step {step} instead", file=sys.stderr, flush=True)
        try:
            return read(step), damaged
        except Damaged as error:
            if len(candidates) == 1:
                raise
            print(f"WARNING: {error}", file=sys.stderr, flush=True)
            damaged.append(step)
    raise Damaged(
        f"all {len(damaged)} checkpoints are damaged ({', '.join(map(str, damaged))}); restore the "
        "run's checkpoints/ from a copy, or train again"
    )


def _free_name(path: Path) -> Path:
    """The path, or one beside it that nothing has yet."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, "params/unet/conv_in/kernel" or "opt_state/1/0/mu/...".

    Saved like this a checkpoint does not depend on the classes an optimiser's state is made of.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _under(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): leaf for name, leaf in tree.items() if name.startswith(prefix)
    }


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turns whatever a full or forbidden disk makes the writers raise into one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{folder}: a checkpoint cannot be written ({first_line(error)}); those before it are "
            "whole: make room or give the right to write, then --resume goes on"
        ) from error
