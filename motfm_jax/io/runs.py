"""A run's directory: who may write there, and the records of the run.

run/{config.json, environment.json, facts.json, [converted.json], metrics.jsonl, loss.png, lock,
     saved, tensorboard/, checkpoints/STEP/, samples/}
"""

import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from motfm_jax.io.disk import sync
from motfm_jax.io.environment import environment
from motfm_jax.io.files import read_json

CONVERTED = "converted.json"  # where a run's weights come from, if not from training
SAVED = "saved"  # an empty file: the run has had a checkpoint

# What overwriting a run deletes; config.json and environment.json, which make it recognisable, are
# replaced.
FILES = (SAVED, "facts.json", "skipped.json", "metrics.jsonl", "loss.png", CONVERTED)
FOLDERS = ("tensorboard", "checkpoints", "samples")

# A resumed run may go on longer and report more often; anything else would be another experiment.
MAY_CHANGE = (
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.eval_every",
    "train.sample_every",
    "train.save_every",
    "train.keep_every",
    "data.root",
    "data.cache",
    "data.workers",
)

_RESTORE = "restore it, or start again with --overwrite"


class Run:
    """An open run directory. `open_run` makes it; close it, or leave its `with` block.

    Attributes:
      path: the directory.
      checkpoints: the folder of its checkpoints.
      samples: the folder of its pictures.
    """

    def __init__(self, path: Path, lock: int | None):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self._lock = lock  # None in the processes that do not write
        self._rows = None
        self._tensorboard = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start(self, step: int) -> None:
        """Drops what was logged after `step`: training goes on, or begins, from there.

        A run that was killed has logged beyond its last checkpoint.
        """
        if self._lock is None:
            return
        path = self.path / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        _write(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._rows = path.open("a", buffering=1)
        self._tensorboard = SummaryWriter(
            str(self.path / "tensorboard"), purge_step=step + 1 if step else None, flush_secs=10
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One row of metrics.jsonl and a point a value in TensorBoard; NaN and inf become null."""
        if self._lock is None:
            return
        finite = {
            name: float(value) if math.isfinite(value) else None for name, value in values.items()
        }
        self._rows.write(json.dumps({"step": int(step), **finite}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, float(value), step)

    def log_image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture in TensorBoard: [H, W, 3] or [H, W, 1], uint8."""
        if self._lock is not None:
            self._tensorboard.add_image(name, np.asarray(image), step, dataformats="HWC")

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file of the run, such as facts.json, whole or not at all."""
        if self._lock is not None:
            _write(self.path / name, json.dumps(value, indent=2) + "\n")

    def close(self) -> None:
        """Ends the records and gives up the lock."""
        for writer in (self._rows, self._tensorboard):
            if writer is not None:
                writer.close()
        self._rows = self._tensorboard = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


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
    """Takes a directory for a run.

    Args:
      path: the directory; made where it does not exist.
      config: the resolved config, plain JSON.
      resume: go on with the run that is there; start afresh where there is none yet.
      overwrite: delete the run that is there. Only what runs write is deleted, and only in a
        directory that is recognisably one.
      writes: False in all processes but the first, which alone locks and writes. Let the first
        open it before the others do.
      may_change: fields of the config that may differ from the run resumed.
      defaults: values of the fields that the config of a run resumed may lack, because they were
        added after it began.

    Raises:
      ValueError: a run is there and neither resume nor overwrite was asked for; the directory
        holds something else; another process is using it; the config differs in other fields.
    """
    path = Path(path).absolute()
    if not writes:
        return Run(path, None)
    exists = check_workdir(path, resume=resume, overwrite=overwrite)
    lock = _acquire(path)
    try:
        config = json.loads(json.dumps(config))
        if exists and overwrite:
            _delete_run(path)
        for name in FOLDERS:  # a run from elsewhere must not choose where this machine writes
            if (path / name).is_symlink():
                raise ValueError(
                    f"{path / name}: is a link; put the folder itself there, or move the run as a "
                    "whole"
                )
        if exists and resume:
            _check_same(path, config, may_change, defaults or {})
            mark_saved(path)
        starts = read_json(path / "environment.json", _RESTORE) if exists and resume else []
        if not isinstance(starts, list):
            raise ValueError(f"{path / 'environment.json'}: holds no list of starts; {_RESTORE}")
        run = Run(path, lock)
        run.write_json("environment.json", [*starts, environment()])
        run.write_json("config.json", config)
        return run
    except BaseException:
        os.close(lock)
        raise


def check_workdir(path: Path, *, resume: bool = False, overwrite: bool = False) -> bool:
    """Whether a run is in a directory; touches nothing.

    Raises:
      ValueError: what is there may not be used, see `open_run`.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite: choose one")
    exists = _is_run(Path(path))
    if exists and not (resume or overwrite):
        raise ValueError(
            f"{path}: holds a run already; --resume goes on with it, --overwrite deletes it, or "
            "give another --workdir"
        )
    return exists


def is_untrained(path: Path) -> bool:
    """Whether a run's weights are converted ones that no update has touched."""
    return _steps(Path(path)) == ["0"] and (Path(path) / CONVERTED).exists()


def mark_saved(path: Path) -> None:
    """Remembers that a run has had a checkpoint: it is not begun anew where it has none left."""
    if not os.path.lexists(path / SAVED):  # nor is a link followed
        (path / SAVED).touch()


def has_checkpoints(path: Path) -> bool:
    """Whether a run has a complete checkpoint."""
    return bool(_steps(Path(path)))


def _steps(path: Path) -> list[str]:
    """Of complete checkpoints: what is being written has another name."""
    return [entry.name for entry in (path / "checkpoints").glob("*") if entry.name.isdecimal()]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last row cut short by a kill is left out."""
    file = Path(path) / "metrics.jsonl"
    if not file.exists():
        return []
    rows = []
    for number, line in enumerate(lines := file.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no step in it")
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise ValueError(
                    f"{file}: line {number} is no row ({error}); mend or delete it"
                ) from None
        else:
            rows.append(row)
    return rows


def _is_run(path: Path) -> bool:
    """Whether a run is there; False where nothing is; ValueError where something else is."""
    if not path.exists():
        return False
    if not path.is_dir():
        raise ValueError(f"{path}: is a file; a run needs a directory, give another --workdir")
    present = {entry.name for entry in path.iterdir()}
    if {"config.json", "environment.json"} <= present:
        if has_checkpoints(path):
            return True
        logged = (path / "metrics.jsonl").exists()
        if not (path / SAVED).exists() and ((path / "checkpoints").is_dir() or not logged):
            return False  # stopped before anything was saved, it is as good as not begun
        raise ValueError(
            f"{path}: no whole checkpoint is left in the run's checkpoints/; put them back, or "
            "give another --workdir"
        )
    # A start that was cut short leaves the lock, or the files that are written first.
    if present <= {"lock", "environment.json", "environment.json.tmp", "config.json.tmp"}:
        return False
    shown = ", ".join(sorted(present)[:3])
    raise ValueError(
        f"{path}: holds no run (config.json and environment.json) but other things ({shown}); "
        "give another --workdir, nothing here is touched"
    )


def _acquire(path: Path) -> int:
    """The run's lock, held by the operating system for as long as this process lives."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written ({error.strerror}); give another --workdir"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode(errors="replace").strip() or "an unknown process"
        os.close(lock)
        raise ValueError(
            f"{path}: in use by {holder}; wait for it, stop it, or give another --workdir"
        ) from None
    except OSError as error:
        os.close(lock)
        raise ValueError(
            f"{path}: cannot be locked ({error.strerror}); give a --workdir on a file system with "
            "locks"
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return lock


def _delete_run(path: Path) -> None:
    for name in FILES:  # before the checkpoints, without which they are a run that lost them
        (path / name).unlink(missing_ok=True)
    for name in FOLDERS:
        folder = path / name
        if folder.is_symlink():
            folder.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)


def _check_same(
    path: Path,
    config: Mapping[str, Any],
    may_change: Collection[str],
    defaults: Mapping[str, Any],
) -> None:
    old = dict(leaves(json.loads(json.dumps(defaults))))
    saved = read_json(path / "config.json", _RESTORE)
    if not isinstance(saved, dict):
        raise ValueError(f"{path / 'config.json'}: holds no config; {_RESTORE}")
    old |= dict(leaves(saved))
    new = dict(leaves(config))
    differing = [
        f"{name} was {old.get(name, 'absent')!r}, is {new.get(name, 'absent')!r}"
        for name in sorted(old.keys() | new.keys())
        if name not in may_change and (name in old, old.get(name)) != (name in new, new.get(name))
    ]
    if differing:
        raise ValueError(
            f"{path}: resumed with another config: {'; '.join(differing)}; only "
            f"{', '.join(may_change)} may change: give the run's own values, or another --workdir"
        )


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config: ("train.lr", 1e-4), ... ."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # of a start that was cut short, or a link to elsewhere
    temporary.write_text(text)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)
