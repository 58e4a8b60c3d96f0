"""Checkpoints as Orbax keeps them: which there are, what they hold, if it is what was saved."""

import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from motfm_jax.io import files
from motfm_jax.io.hashes import hash_each, hash_json

Which = str | int  # "last", "best" (lowest validation loss), or a step

LOSS = "valid_loss"
ITEMS = ("config", "facts")
_USE_ANOTHER = "use another one of the run (--checkpoint=STEP), or a copy"


class Damaged(ValueError):
    """A checkpoint that cannot be read, or is not what was saved."""


def loss_of(metrics: Mapping[str, Any]) -> float:
    """The validation loss; inf where it was not measured or is not finite."""
    loss = metrics.get(LOSS, math.inf)
    return loss if math.isfinite(loss) else math.inf


class Manager(ocp.CheckpointManager):
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
        return read_json(path / "sums")["metrics"] != hash_json(None)
    except (ValueError, KeyError, TypeError):  # damaged
        return False


def open_manager(folder: Path, **options: Any) -> Manager:
    """Of a folder, made where it is not there; options of `ocp.CheckpointManagerOptions`."""
    # Orbax reports each phase of each save, and tracebacks, through absl's logger, and the writes
    # that a failed save gave up through asyncio's; errors come as exceptions.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    folder.mkdir(parents=True, exist_ok=True)
    return Manager(
        folder,
        options=ocp.CheckpointManagerOptions(best_fn=loss_of, best_mode="min", **options),
        item_handlers={
            "state": ocp.PyTreeCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
            "facts": ocp.JsonCheckpointHandler(),
            "sums": ocp.JsonCheckpointHandler(),
        },
    )


def candidates(manager: Manager, which: Which, folder: Path) -> list[int]:
    """The step asked for, and those to fall back on where it is damaged."""
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        raise ValueError(f"{folder}: no complete checkpoint; train first, or give another run")
    if which == "last":
        return steps
    if which == "best":
        best = manager.best_step()
        return steps if best is None else [best, *(step for step in steps if step != best)]
    if str(which).isdecimal() and int(which) in steps:
        return [int(which)]
    known = ", ".join(map(str, reversed(steps)))
    raise ValueError(f"{folder}: no checkpoint {which!r}; use last, best or one of {known}")


def saved_arrays(manager: Manager, step: int, path: Path) -> dict[str, Any]:
    """What the checkpoint holds by name, with .shape and .dtype, without reading the arrays."""
    with _readable(path):
        found = dict(manager.item_metadata(step)["state"].tree)
        claimed = sum(
            math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in found.values()
        )
        held = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if claimed > max(files.FREELY_INFLATED, files.MOST_INFLATED * held):
        raise Damaged(
            f"{path}: {held} bytes that would become {claimed}, at most {files.MOST_INFLATED} "
            f"times as many are read; {_USE_ANOTHER}"
        )
    return found


def read_arrays(
    manager: Manager, step: int, path: Path, leaves: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The named arrays as numpy, whatever devices they were saved from; compared with the sums."""
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in leaves}
    arguments = ocp.args.PyTreeRestore(shapes, restore_args=as_numpy, partial_restore=True)
    with _readable(path):
        arrays = manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        wanted = {"step": step} | read_json(path / "sums")  # the first ones were without a step
        found = {name: hash_json(read_json(path / name)) for name in ITEMS}
        found["step"] = step  # the folder may have been renamed
        found["metrics"] = hash_json(manager.metrics(step))
        changed = [name for name in found if wanted[name] != found[name]]
        changed += [
            name for name, digest in hash_each(arrays).items() if wanted["arrays"][name] != digest
        ]
    if changed:
        raise Damaged(
            f"{path}: this checkpoint is damaged: {changed[0]} is not what was saved "
            f"({len(changed)} such); {_USE_ANOTHER}"
        )
    return arrays


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file makes the readers raise into one line."""
    try:
        yield
    except Damaged:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damaged(f"{path}: this checkpoint is not whole ({error}); {_USE_ANOTHER}") from error
    except (OSError, MemoryError) as error:
        # Of the system, not of the file: nothing to set a checkpoint aside for.
        raise ValueError(
            f"{path}: this checkpoint cannot be read now ({first_line(error)}); call it again once "
            "disk, network and memory allow; where they never do, move this folder away, and the "
            "one before it is used"
        ) from error
    except Exception as error:
        raise Damaged(
            f"{path}: this checkpoint cannot be read ({first_line(error)}); {_USE_ANOTHER}"
        ) from error


def first_line(error: Exception) -> str:
    """What it says, for a message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def read_json(folder: Path) -> dict[str, Any]:
    """An item of a checkpoint that is JSON."""
    with _readable(folder.parent):
        return json.loads((folder / "metadata").read_text())
