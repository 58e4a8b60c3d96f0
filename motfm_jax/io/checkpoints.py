"""Checkpoints: the training state with the config and the facts of its data, through Orbax.

On disk: checkpoints/STEP/{state/ (arrays), config/, facts/, sums/, metrics/ (JSON)}. A checkpoint
appears under its number once it is complete; older ones go only after that. `sums` holds a digest
of every array and of the JSON beside it, made before anything is written: what is read back is
compared with it, and where a checkpoint is damaged the one before is used.
"""

import contextlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from motfm_jax.io import files
from motfm_jax.io.hashes import hash_each, hash_json

Which = str | int  # "last", "best" (lowest validation loss), or a step

_LOSS = "valid_loss"
_ITEMS = ("config", "facts")
_USE_ANOTHER = "use another one of the run (--checkpoint=STEP), or a copy"
_Read = TypeVar("_Read")


class Damaged(ValueError):
    """A checkpoint that cannot be read, or is not what was saved."""


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
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        facts: Mapping[str, Any],
        keep_every: int = 0,
    ):
        self.folder = Path(folder).absolute()
        self._beside = {"config": dict(config), "facts": dict(facts)}
        keep = [
            policies.LatestN(2),
            policies.BestN(
                get_metric_fn=_valid_loss, reverse=True, n=1,
                keep_checkpoints_without_metrics=False),
        ]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._manager = _manager(
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
        return math.inf if step is None else _valid_loss(self._manager.metrics(step) or {})

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
        # Copies, not views: the next update donates the buffers while Orbax still writes.
        host = {name: np.array(leaf, copy=True) for name, leaf in _flatten(state).items()}
        metrics = None if valid_loss is None else {_LOSS: float(valid_loss)}
        sums = {"arrays": hash_each(host), "metrics": hash_json(metrics)}
        sums |= {name: hash_json(value) for name, value in self._beside.items()}
        with _writable(self.folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(host), sums=ocp.args.JsonSave(sums),
                    **{name: ocp.args.JsonSave(value) for name, value in self._beside.items()}),
                metrics=metrics,
            )  # fmt: skip

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
            found = _saved_arrays(self._manager, step, path)
            check_parameters(_under("params/", found), _under("params/", wanted), str(path))
            if {name: leaf.shape for name, leaf in found.items()} != {
                name: leaf.shape for name, leaf in wanted.items()
            }:
                raise ValueError(
                    f"{path}: was saved with another optimiser or moving average; resume with the "
                    "run's own config, or start another run")
            return _read_arrays(self._manager, step, path, wanted)

        arrays, damaged = _first_whole(_candidates(self._manager, which, self.folder), read)
        for step in damaged if jax.process_index() == 0 else ():
            (self.folder / str(step)).rename(_free_name(self.folder / f"damaged-{step}"))
        if damaged:
            self._manager.reload()
        return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])

    def wait(self) -> None:
        """Returns once everything saved is on disk.

        Raises:
          ValueError: it could not be written.
        """
        with _writable(self.folder):
            self._manager.wait_until_finished()

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
    with contextlib.closing(_manager(folder, read_only=True)) as manager:

        def read(step: int) -> Weights:
            path = folder / str(step)
            found = _saved_arrays(manager, step, path)
            prefix = "ema/" if _under("ema/", found) else "params/"
            names = {name: leaf for name, leaf in found.items() if name.startswith(prefix)}
            params = _under(prefix, _read_arrays(manager, step, path, names))
            return Weights(params, step, *(_read_json(path / item) for item in _ITEMS), path)

        return _first_whole(_candidates(manager, which, folder), read)[0]


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
            "the config it was trained with")


def _valid_loss(metrics: Mapping[str, Any]) -> float:
    loss = metrics.get(_LOSS, math.inf)
    return loss if math.isfinite(loss) else math.inf


class _Manager(ocp.CheckpointManager):
    """Orbax's, which reads the losses of all checkpoints when it is made: a damaged one must not
    keep the others from being read."""

    def metrics(self, step: int) -> dict[str, float] | None:
        """The metrics of a checkpoint; None where there are none or they are damaged."""
        path = self.directory / str(step)
        try:
            metrics = super().metrics(step)
            if metrics is None and _had_metrics(path):
                raise ValueError("missing")
            return metrics and {name: float(value) for name, value in metrics.items()}
        except (ValueError, TypeError, AttributeError):
            print(f"WARNING: {path}: its validation loss cannot be read", file=sys.stderr)
            return None


def _had_metrics(path: Path) -> bool:
    """Whether the sums of a checkpoint speak of metrics."""
    try:
        return _read_json(path / "sums")["metrics"] != hash_json(None)
    except (ValueError, KeyError, TypeError):  # damaged, or saved before there were sums
        return False


def _manager(folder: Path, **options: Any) -> _Manager:
    # Orbax reports each phase of each save, and tracebacks, through absl's logger; errors come as
    # exceptions.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    folder.mkdir(parents=True, exist_ok=True)
    return _Manager(
        folder,
        options=ocp.CheckpointManagerOptions(best_fn=_valid_loss, best_mode="min", **options),
        item_handlers={
            "state": ocp.PyTreeCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
            "facts": ocp.JsonCheckpointHandler(),
            "sums": ocp.JsonCheckpointHandler(),
        },
    )


def _candidates(manager: _Manager, which: Which, folder: Path) -> list[int]:
    """The step asked for, and those to fall back on where it is damaged."""
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        raise ValueError(f"{folder}: no complete checkpoint; train first, or give another run")
    if which == "last":
        return steps
    if which == "best":
        best = manager.best_step()
        return steps if best is None else [best, *(step for step in steps if step != best)]
    if str(which).isdigit() and int(which) in steps:
        return [int(which)]
    known = ", ".join(map(str, reversed(steps)))
    raise ValueError(f"{folder}: no checkpoint {which!r}; use last, best or one of {known}")


def _first_whole(
    candidates: list[int], read: Callable[[int], _Read]
) -> tuple[_Read, list[int]]:
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
        "run's checkpoints/ from a copy, or train again")


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


def _saved_arrays(manager: _Manager, step: int, path: Path) -> dict[str, Any]:
    """What the checkpoint holds by name, with .shape and .dtype, without reading the arrays."""
    with _readable(path):
        found = dict(manager.item_metadata(step)["state"].tree)
        claimed = sum(
            math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in found.values())
        held = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if claimed > max(files.FREELY_INFLATED, files.MOST_INFLATED * held):
        raise Damaged(
            f"{path}: {held} bytes that would become {claimed}, at most {files.MOST_INFLATED} "
            f"times as many are read; {_USE_ANOTHER}")
    return found


def _read_arrays(
    manager: _Manager, step: int, path: Path, leaves: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The named arrays as numpy, whatever devices they were saved from; compared with the sums."""
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in leaves}
    arguments = ocp.args.PyTreeRestore(shapes, restore_args=as_numpy, partial_restore=True)
    with _readable(path):
        arrays = manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        if not (path / "sums").exists():  # saved before there were sums
            return arrays
        wanted = _read_json(path / "sums")
        found = {name: hash_json(_read_json(path / name)) for name in _ITEMS}
        found["metrics"] = hash_json(manager.metrics(step))
        changed = [name for name in found if wanted[name] != found[name]]
        changed += [
            name for name, digest in hash_each(arrays).items() if wanted["arrays"][name] != digest]
    if changed:
        raise Damaged(
            f"{path}: this checkpoint is damaged: {changed[0]} is not what was saved "
            f"({len(changed)} such); {_USE_ANOTHER}")
    return arrays


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file makes the readers raise into one line."""
    try:
        yield
    except Damaged:
        raise
    except Exception as error:
        raise Damaged(
            f"{path}: this checkpoint cannot be read ({_first_line(error)}); {_USE_ANOTHER}"
        ) from error


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turns whatever a full or forbidden disk makes the writers raise into one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{folder}: a checkpoint cannot be written ({_first_line(error)}); those before it are "
            "whole: make room or give the right to write, then --resume goes on") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _read_json(folder: Path) -> dict[str, Any]:
    with _readable(folder.parent):
        return json.loads((folder / "metadata").read_text())
