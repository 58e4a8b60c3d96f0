"""Decoded examples as memory-mapped arrays: written once, keyed by what they were made from.

An entry is a folder named by a hash of the source's fingerprint and this file's VERSION. It is
built beside its final name and renamed into place, so that it is either whole or not there; its
files' checksums are compared at every opening.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.data import entry
from motfm_jax.data.entry import Progress
from motfm_jax.data.records import Source, refuse_many
from motfm_jax.io.disk import is_at, sync

VERSION = 2  # raise when what is stored for the same source changes


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The examples of one split, ready to read at random.

    Attributes:
      images: [N, *S, C], memory-mapped; the files' integer type, else float32; raw intensities.
      masks: [N, *S] uint8 labels, memory-mapped, or None.
      labels: [N] int32 class indices, or None.
      meta: one dict an example, see `Record`.
      classes: class names by index.
      mask_labels: mask label names by value, background first.
      folder: the cache entry behind the arrays; None when they are in memory only.
      first: where in the entry example 0 stands.
      sources: [N, *S, C], memory-mapped, what the images are to be made from; or None.
      skipped: a line for each example that was left out, with its file and the reason.
    """

    images: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray | None
    meta: list[dict[str, Any]]
    classes: tuple[str, ...] = ()
    mask_labels: tuple[str, ...] = ()
    folder: Path | None = None
    first: int = 0
    sources: np.ndarray | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int] | np.ndarray | slice) -> "Arrays":
        """The examples at `indices`, in that order; a run of neighbours stays memory-mapped."""
        indices = indices if isinstance(indices, slice) else np.asarray(indices, int)
        rows = np.arange(len(self))[indices]
        neighbours = len(rows) > 0 and bool(np.all(np.diff(rows) == 1))
        pick = slice(int(rows[0]), int(rows[-1]) + 1) if neighbours else rows
        return dataclasses.replace(
            self,
            images=self.images[pick],
            masks=None if self.masks is None else self.masks[pick],
            labels=None if self.labels is None else self.labels[pick],
            sources=None if self.sources is None else self.sources[pick],
            meta=[self.meta[row] for row in rows],
            folder=self.folder if neighbours else None,
            first=self.first + int(rows[0]) if neighbours else 0,
        )

    def __reduce__(self):
        """Worker processes map the files again instead of receiving the arrays."""
        if self.folder is None:
            return Arrays, tuple(getattr(self, field.name) for field in dataclasses.fields(self))
        return _reopen, (self.folder, self.first, len(self))


def open_cached(
    source: Source,
    cache_dir: Path,
    progress: Progress | None = None,
    on_fault: str = "stop",
    varied: bool = False,
) -> Arrays:
    """The examples of `source`, decoded now or by an earlier call.

    Builders of the same entry take turns where the file system has locks, and otherwise both
    build: the first rename wins. An entry whose files are damaged, if by a bit, is built again.

    Args:
      source: undecoded; its attribute `faults`, if any, lists what it left out itself.
      cache_dir: holds the entries.
      progress: called with (examples done, examples in all).
      on_fault: "stop" raises at the first example that cannot be used; "skip" leaves it out and
        lists it in `Arrays.skipped`.
      varied: with "skip", constant images cannot be used.

    Raises:
      ValueError: the source is empty, or a record is not finite, or its shape, mask or class does
        not fit; the message names the record, with its file where the source has a method
        `where(index)` that says it; with "skip", most examples are like that; or there is no entry
        yet and the folder cannot be written to. Nothing is left behind.
    """
    folder = Path(cache_dir) / entry_key(source, on_fault, varied)
    arrays = _open(folder)
    if arrays is None:
        with _lock(_writable(Path(cache_dir)) / f"{folder.name}.lock") as locked:
            arrays = _open(folder)  # another builder may have finished while we waited
            if arrays is None:
                write = functools.partial(entry.write, source, progress, on_fault, varied)
                _build(write, folder, locked)
                arrays = _open(folder)
    if arrays is None:
        raise OSError(f"{folder}: cannot be read back after writing; is the disk full or failing?")
    skipped = (*getattr(source, "faults", ()), *arrays.skipped)
    refuse_many(skipped, len(arrays) + len(skipped))
    return dataclasses.replace(arrays, skipped=skipped)


def holds_entries(cache_dir: Path) -> bool:
    """Whether decoded examples are kept in this folder already."""
    try:
        return any(re.fullmatch("[0-9a-f]{32}", path.name) for path in cache_dir.iterdir())
    except OSError:
        return False


def entry_key(source: Source, on_fault: str = "stop", varied: bool = False) -> str:
    """Name of the source's cache entry: a hash of everything that its examples depend on."""
    facts = dict(
        version=VERSION,
        fingerprint=source.fingerprint(),
        classes=list(source.classes),
        mask_labels=list(source.mask_labels),
    )
    if on_fault == "skip":
        facts["skipped"] = "unreadable and constant" if varied else "unreadable"
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _writable(folder: Path) -> Path:
    """The folder, made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        if os.access(folder, os.W_OK):
            return folder
        reason = "it is read-only"
    raise ValueError(
        f"{folder}: decoded data cannot be kept here ({reason}); name a folder that can be written "
        "to: --config.data.cache, or MOTFM_CACHE"
    )


def _build(write: Callable[[Path], None], folder: Path, sweep: bool) -> None:
    """Write the entry beside its final name, then rename it into place."""
    prefix = f".{folder.name}.{socket.gethostname()}."
    if sweep:  # we hold the lock: what lies here was left by a builder that was killed
        for left in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        write(draft)
        if folder.exists() and _open(folder) is None:  # damaged: out of the way
            os.rename(folder, f"{draft}.damaged")
            shutil.rmtree(f"{draft}.damaged", ignore_errors=True)
        try:
            os.rename(draft, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        sync(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _open(folder: Path, thoroughly: bool = True) -> Arrays | None:
    """The entry's arrays; None and `thoroughly` as in `entry.read`."""
    found = entry.read(folder, thoroughly)
    if found is None:
        return None
    facts, arrays = found
    labels = arrays.get("labels")
    return Arrays(
        images=arrays["images"],
        masks=arrays.get("masks"),
        sources=arrays.get("sources"),
        labels=None if labels is None else np.array(labels),
        meta=facts["meta"],
        classes=tuple(facts["classes"]),
        mask_labels=tuple(facts["mask_labels"]),
        folder=folder,
        skipped=tuple(facts.get("skipped", ())),
    )


def _reopen(folder: Path, first: int, count: int) -> Arrays:
    arrays = _open(folder, thoroughly=False)
    if arrays is None:
        raise OSError(f"{folder}: the cache entry was removed or damaged while in use; start again")
    return arrays.take(slice(first, first + count))


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Wait for the system's lock on `path`; yields False where the file system has none.

    The file is removed before the lock is let go: who waited for it finds it gone, or a new one in
    its place, and starts again with that.
    """
    while True:
        with open(path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                locked = True
            except OSError:
                locked = False
            if locked and not is_at(file.fileno(), path):
                continue
            try:
                yield locked
            finally:
                path.unlink(missing_ok=True)
            return
