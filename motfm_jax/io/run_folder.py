"""A run's folder: who may write there, and the records of the run.

run/{config.json, environment.json, facts.json, [converted.json, parent.json], metrics.jsonl,
     loss.png, saved, tensorboard/, [tracker.json, wandb/,] checkpoints/STEP/, samples/}, and `lock`
     while a process writes
"""

import contextlib
import functools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.io.environment import environment
from motfm_jax.io.folders import (
    DRAFT,
    claimed,
    differences,
    leaves,
    read_json,
    whole_file,
    write_json,
)
from motfm_jax.io.trackers import IDS, TENSORBOARD, open_tracker

CONVERTED = "converted.json"  # where a run's weights come from, if not from training
PARENT = "parent.json"  # the run whose weights a training began with, see train.init_from
SAVED = "saved"  # an empty file: the run has had a checkpoint

# What overwriting a run deletes. config.json and environment.json make it recognisable and are
# replaced. A run without checkpoints but with these files would count as damaged: they go first.
FILES = rf"{SAVED}|(facts|skipped|converted|parent)\.json|{IDS}|metrics\.jsonl|loss\.png"
FOLDERS = (TENSORBOARD, "wandb", "checkpoints", "samples")

# What may change when a run is resumed: what suits another machine, and how fast it learns. These
# give other results than a run that was never interrupted.
RETUNED = (
    "train.batch_size",
    "train.accumulation",
    "train.lr",
    "train.schedule",
    "train.warmup",
    "train.clip",
    "train.dtype",
    "model.remat",
)
# Anything else would be another experiment.
MAY_CHANGE = (
    *RETUNED,
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.eval_every",
    "train.sample_every",
    "train.save_every",
    "train.keep_every",
    "train.tracker",
    "data.root",
    "data.cache",
    "data.verify",
    "data.workers",
)

_RESTORE = "restore it, or start again with --overwrite"


class Run:
    """An open run. `open_run` makes it; close it, or leave its `with` block.

    Attributes:
      path: the run's folder.
      config: the resolved config.
      checkpoints: the folder of its checkpoints.
      samples: the folder of its pictures.
      changes: how its config differs from that of the run resumed, a line a field.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        claim: contextlib.ExitStack | None = None,
        changes: Sequence[str] = (),
    ):
        self.path, self.config = path, config
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.changes = list(changes)
        self._claim = claim  # None in the processes that do not write
        self._rows: Any = None
        self._tracker: Any = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(failed=kind is not None)

    def start(self, step: int, batch_size: int = 1) -> int:
        """Training starts or continues after `step`: drops what was logged later.

        A killed run has logged beyond its last checkpoint.

        Args:
          step: updates made so far.
          batch_size: images of each update from now on.

        Returns:
          Images seen so far; 0 in the processes that do not write.
        """
        if self._claim is None:
            return 0
        *earlier, this = read_json(self.path / "environment.json", _RESTORE)
        images = images_seen(earlier, step)
        this |= {"step": step, "images": images, "batch_size": batch_size}
        write_json(self.path / "environment.json", [*earlier, this])
        path = self.path / "metrics.jsonl"
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        with whole_file(path) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._rows = path.open("a", buffering=1)
        name = self.config.get("train", {}).get("tracker", TENSORBOARD)
        self._tracker = open_tracker(name, self.path, step, self.config)
        return images

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row to metrics.jsonl, where NaN and inf become null, and points to the tracker."""
        if self._claim is None:
            return
        finite = {
            name: float(value) if math.isfinite(value) else None for name, value in values.items()
        }
        self._rows.write(json.dumps({"step": int(step), **finite}) + "\n")
        self._tracker.log(step, values)

    def log_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a picture, [H, W, 3] or [H, W, 1] uint8, to the tracker."""
        if self._claim is not None:
            self._tracker.picture(step, name, image)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file of the run, such as facts.json, whole or not at all."""
        if self._claim is not None:
            write_json(self.path / name, value)

    def close(self, failed: bool = False) -> None:
        """Closes the records and gives up the folder; the tracker is told whether it failed."""
        if self._rows is not None:
            self._rows.close()
        if self._tracker is not None:
            self._tracker.close(failed)
        self._rows = self._tracker = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None


def open_run(
    path: Path,
    config: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    writes: bool = True,
    may_change: Collection[str] = MAY_CHANGE,
    defaults: Mapping[str, Any] | None = None,
) -> Run:
    """Takes a folder for a run.

    Args:
      path: the folder; created if needed.
      config: the resolved config, JSON-able.
      resume: continue the run in the folder, or start one if there is none.
      overwrite: delete the run in the folder. Only what runs write is deleted, and only if the
        folder is recognisably a run's.
      writes: False in all processes but the first, which alone locks and writes. The first has to
        open the run before the others do.
      may_change: fields of the config that may differ from those of the resumed run.
      defaults: values of fields that were added to the config after the resumed run began.

    Raises:
      ValueError: a run is there and neither `resume` nor `overwrite` is set; the folder holds
        something else; another process uses it; the config differs in other fields.
    """
    path = Path(path).absolute()
    if not writes:
        return Run(path, config)
    recall = functools.partial(
        _recall, resume=resume, overwrite=overwrite, defaults=dict(leaves(defaults or {}))
    )
    with contextlib.ExitStack() as stack:
        own = (FILES, *FOLDERS)
        resumes = stack.enter_context(claimed(path, config, recall, own, may_change))
        starts, changes = [], []
        if resumes:
            mark_saved(path)
            starts, before = read_json(path / "environment.json", _RESTORE), recall(path) or {}
            changes = differences(before, config)
            if starts and not any("step" in start for start in starts):  # of an older version
                batch_size = before.get("train.batch_size", 1)
                starts[0] |= {"step": 0, "images": 0, "batch_size": batch_size}
        write_json(path / "environment.json", [*starts, environment() | {"changes": changes}])
        write_json(path / "config.json", config)
        return Run(path, config, stack.pop_all(), changes)


def images_seen(starts: Sequence[Mapping[str, Any]], step: int) -> int:
    """Images of the first `step` updates of a run, whose starts may have had other batch sizes."""
    for start in reversed(starts):
        # What began after this step was lost with its checkpoints.
        if start.get("step", step + 1) <= step:
            return start["images"] + (step - start["step"]) * start["batch_size"]
    return 0


def check_workdir(path: Path, *, resume: bool = False, overwrite: bool = False) -> bool:
    """Whether a folder holds a run; touches nothing.

    Raises:
      ValueError: the folder may not be used, see `open_run`.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite: choose one")
    exists = _is_run(Path(path))
    if exists and not (resume or overwrite):
        raise ValueError(
            f"{path}: holds a run already; --resume continues it, --overwrite deletes it, or "
            "give another --workdir"
        )
    return exists


def _recall(
    path: Path, resume: bool, overwrite: bool, defaults: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The fields of the config of the run to resume, by dotted name, or None."""
    if not check_workdir(path, resume=resume, overwrite=overwrite) or overwrite:
        return None
    saved = read_json(path / "config.json", _RESTORE)
    return {**defaults, **dict(leaves(saved))}


def is_untrained(path: Path) -> bool:
    """Whether a run holds converted weights that have not been trained yet."""
    return _steps(Path(path)) == ["0"] and (Path(path) / CONVERTED).exists()


def mark_saved(path: Path) -> None:
    """Notes that a run has had a checkpoint, so that it never starts again without one."""
    (path / SAVED).touch()


def has_checkpoints(path: Path) -> bool:
    """Whether a run has a complete checkpoint."""
    return bool(_steps(Path(path)))


def _steps(path: Path) -> list[str]:
    """The complete checkpoints; one that is being written has another name."""
    return [entry.name for entry in (path / "checkpoints").glob("*") if entry.name.isdecimal()]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, without a last row that a kill cut short."""
    file = Path(path) / "metrics.jsonl"
    if not file.exists():
        return []
    rows = []
    for number, line in enumerate(lines := file.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("it has no step")
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise ValueError(
                    f"{file}: line {number} cannot be read ({error}); correct or delete it"
                ) from None
        else:
            rows.append(row)
    return rows


def _is_run(path: Path) -> bool:
    """Whether a folder holds a run with checkpoints; ValueError if it holds something else."""
    if not path.exists():
        return False
    if not path.is_dir():
        raise ValueError(f"{path}: is a file; a run needs a folder, give another --workdir")
    present = {entry.name for entry in path.iterdir() if not DRAFT.match(entry.name)}
    if {"config.json", "environment.json"} <= present:
        if has_checkpoints(path):
            return True
        # A run that was stopped before its first checkpoint is as good as not begun.
        if SAVED not in present and ("checkpoints" in present or "metrics.jsonl" not in present):
            return False
        raise ValueError(
            f"{path}: the run has lost its checkpoints; put them back into checkpoints/, or give "
            "another --workdir"
        )
    if present <= {"lock", "environment.json"}:  # a start that was cut short
        return False
    names = ", ".join(sorted(present)[:3])
    raise ValueError(
        f"{path}: holds other things than a run ({names}); give another --workdir, nothing here "
        "is touched"
    )
