"""Checkpoints of a run: the training state, the config and the facts of its data, through Orbax.

On disk: checkpoints/STEP/{state/ (arrays), config/, facts/, sums/, metrics/ (JSON)}. A checkpoint
appears under its number once it is complete; older ones are deleted only after that. `sums` holds
digests taken before writing: one per part of the state (params, ema, opt_state, ...) and one of the
JSON. A checkpoint that differs from them is damaged, and the one before is used. Checkpoints of
older versions are not compared.
"""

import contextlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from motfm_jax.io.folders import sync, sync_tree
from motfm_jax.io.hashes import hash_json, hash_parts
from motfm_jax.io.parameters import check_parameters, renumbered, shapes
from motfm_jax.io.run_folder import mark_saved

Which = str | int  # "last", "best" (lowest validation loss), or a step
_Content = tuple[int, dict[str, np.ndarray], dict[str, Any]]  # step, arrays, JSON by item

LOSS = "valid_loss"
ITEMS = ("config", "facts")
_log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A checkpoint that cannot be read or differs from what was saved."""


class Weights(NamedTuple):
    """What sampling and export take from a checkpoint.

    Attributes:
      params: name -> float32 array; the moving average if the run has one, else the parameters.
      step, path: of the checkpoint.
      config, facts: of the run and its data, plain JSON.
    """

    params: dict[str, np.ndarray]
    step: int
    config: dict[str, Any]
    facts: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one run while it trains.

    All processes call every method. Process 0 alone writes the arrays, from host memory.

    Args:
      folder: where they are.
      config, facts: JSON-able, saved with each checkpoint.
      keep_every: keeps multiples of this step besides the last two and the best; 0 for none.
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
        keep: list[Any] = [
            policies.LatestN(2),
            policies.BestN(
                get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._manager = _open(
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
        """Lowest validation loss among the checkpoints; inf if none has one."""
        step = self._manager.best_step()
        return math.inf if step is None else _loss(self._manager.metrics(step) or {})

    def save(self, step: int, state: Any, valid_loss: float | None = None) -> None:
        """Copies the state to host memory and writes it in the background.

        Args:
          step: the checkpoint's number; nothing happens if it exists already.
          state: a NamedTuple of pytrees of arrays.
          valid_loss: validation loss of exactly this state, if measured.

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
        sums = {"parts": _sums(host, [step, metrics, self._beside])}
        beside = {name: ocp.args.JsonSave(value) for name, value in self._beside.items()}
        with _writable(self.folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(host), sums=ocp.args.JsonSave(sums), **beside
                ),
                metrics=metrics,
            )

    def restore(self, template: Any, which: Which = "last") -> Any:
        """The saved state, as numpy arrays in the template's structure.

        A damaged checkpoint is logged and renamed to damaged-STEP, and the one before it is taken,
        unless the damaged one was requested by its step.

        Args:
          template: a state of the same structure, shapes and types (arrays or their shapes).
          which: "last", "best" or a step.

        Raises:
          ValueError: no such checkpoint; another architecture or optimiser; none readable.
        """
        (step, arrays, _), damaged = _first_whole(self._manager, which)
        needed, path = _flatten(template), self.folder / str(step)
        if arrays.keys() != needed.keys():
            arrays = renumbered(arrays, needed)
        check_parameters(_under("params/", arrays), _under("params/", needed), str(path))
        if shapes(arrays) != shapes(needed):
            raise ValueError(
                f"{path}: was saved with another optimiser or moving average; resume with the "
                "run's own config, or start another run"
            )
        for step in damaged if jax.process_index() == 0 else ():
            aside = self.folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier try
            (self.folder / str(step)).rename(aside)
        if damaged:
            self._manager.reload()
        leaves = [np.asarray(arrays[name], leaf.dtype) for name, leaf in needed.items()]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def wait(self) -> None:
        """Returns once everything saved is on the disk itself, safe from a power cut.

        Raises:
          ValueError: it could not be written.
        """
        with _writable(self.folder):
            self._manager.wait_until_finished()
            if self.steps and jax.process_index() == 0:  # Orbax leaves names and JSON in buffers
                sync_tree(self.folder / str(self.steps[-1]))
                sync(self.folder)
                mark_saved(self.folder.parent)

    def close(self) -> None:
        with _writable(self.folder):
            self._manager.close()


def restore_weights(run: Path, which: Which = "last") -> Weights:
    """Weights to sample with, with their config and facts; reads no optimiser state.

    A damaged checkpoint is logged and the one before it is taken (the last if it was the best),
    unless the damaged one was requested by its step.

    Args:
      run: the run's folder, or a folder with `checkpoints/` alone.
      which: "last", "best" (lowest validation loss) or a step.

    Raises:
      ValueError: no such checkpoint, or none that is readable.
    """
    folder = Path(run).absolute() / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"{run}: has no checkpoints/; give the --workdir of a training run")
    with contextlib.closing(_open(folder, read_only=True)) as manager:
        (step, arrays, beside), _ = _first_whole(manager, which, weights_only=True)
    params = {name.partition("/")[2]: array for name, array in arrays.items()}
    return Weights(params, step, beside["config"], beside["facts"], folder / str(step))


class Manager(ocp.CheckpointManager):
    """Orbax's manager. It reads all validation losses when it is opened, and a damaged one must not
    keep the other checkpoints from being read."""

    def metrics(self, step: int) -> dict[str, float] | None:
        try:
            metrics = super().metrics(step)
            return metrics and {name: float(value) for name, value in metrics.items()}
        except (ValueError, TypeError, AttributeError):
            _log.warning("%s/%d: its validation loss cannot be read", self.directory, step)
            return None


def _open(folder: Path, **options: Any) -> Manager:
    """The manager of a folder, which is created if needed; `ocp.CheckpointManagerOptions`."""
    # Orbax logs each phase of each save, and tracebacks, through absl, and failed writes through
    # asyncio; errors come as exceptions.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    folder.mkdir(parents=True, exist_ok=True)
    json_items = {name: ocp.JsonCheckpointHandler() for name in (*ITEMS, "sums")}
    return Manager(
        folder,
        options=ocp.CheckpointManagerOptions(best_fn=_loss, best_mode="min", **options),
        item_handlers={"state": ocp.PyTreeCheckpointHandler(), **json_items},
    )


def _loss(metrics: Mapping[str, Any]) -> float:
    """The validation loss; inf if it was not measured or is not finite."""
    loss = metrics.get(LOSS, math.inf)
    return loss if math.isfinite(loss) else math.inf


def _steps(manager: Manager, which: Which) -> list[int]:
    """The requested step, then those to fall back on if it is damaged."""
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        raise ValueError(f"{manager.directory}: no complete checkpoint; give another run")
    if which in ("last", "best"):
        best = manager.best_step() if which == "best" else None
        return sorted(steps, key=lambda step: step != best)
    if str(which).isdecimal() and int(which) in steps:
        return [int(which)]
    known = ", ".join(map(str, reversed(steps)))
    raise ValueError(
        f"{manager.directory}: no checkpoint {which!r}; use last, best or one of {known}"
    )


def _first_whole(
    manager: Manager, which: Which, weights_only: bool = False
) -> tuple[_Content, list[int]]:
    """The first undamaged checkpoint, and the steps of the damaged ones before it."""
    steps, damaged = _steps(manager, which), []
    for step in steps:
        try:
            return _read(manager, step, weights_only), damaged
        except Damaged as error:
            if len(steps) == 1:
                raise
            damaged.append(step)
            _log.warning("%s; trying the one before", error)
    raise Damaged(
        f"{manager.directory}: all {len(damaged)} checkpoints are damaged "
        f"({', '.join(map(str, damaged))}); restore them from a copy, or train again"
    )


def _read(manager: Manager, step: int, weights_only: bool) -> _Content:
    """A checkpoint as numpy arrays, whatever devices they were saved from."""
    path = Path(manager.directory) / str(step)
    with _readable(path):
        saved = dict(manager.item_metadata(step)["state"].tree)
        if weights_only:
            prefix = "ema/" if any(name.startswith("ema/") for name in saved) else "params/"
            saved = {name: leaf for name, leaf in saved.items() if name.startswith(prefix)}
        leaves = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in saved.items()}
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in saved}
        arguments = ocp.args.PyTreeRestore(leaves, restore_args=as_numpy, partial_restore=True)
        arrays = manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        beside = {name: _read_json(path / name) for name in ITEMS}
        sums = _read_json(path / "sums") if (path / "sums").exists() else {}
        actual = _sums(arrays, [step, manager.metrics(step), beside])
        for name, digest in actual.items() if "parts" in sums else ():  # absent in older versions
            if digest != sums["parts"][name]:
                raise ValueError(f"{name} changed since it was saved")
    return step, arrays, beside


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, such as "opt_state/1/0/mu/...": an optimiser's classes are not saved."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _sums(arrays: Mapping[str, np.ndarray], beside: Any) -> dict[str, str]:
    """Digests of the parts of the state, and of the JSON-able rest."""
    return {**hash_parts(arrays), "config, facts, loss or step": hash_json(beside)}


def _read_json(folder: Path) -> Any:
    return json.loads((folder / "metadata").read_text())


def _under(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(prefix) :]: leaf for name, leaf in tree.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever readers raise on a damaged file into `Damaged`, in one line."""
    try:
        yield
    except Exception as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(error, OSError | MemoryError) and not absent:
            raise  # an error of the system: the checkpoint may be whole
        raise Damaged(
            f"{path}: this checkpoint is damaged ({_line(error)}); use another one of the run "
            "(--checkpoint=STEP), or a copy"
        ) from error


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turns whatever writers raise on a full or forbidden disk into one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{folder}: a checkpoint cannot be written ({_line(error)}); those before it are "
            "whole: make room or allow writing, then continue with --resume"
        ) from error


def _line(error: Exception) -> str:
    """The first line of an error, for a message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
