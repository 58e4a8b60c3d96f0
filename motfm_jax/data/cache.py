"""Decoded examples as arrays: memory-mapped and written once, or in memory.

A cache entry is a folder named by a hash of what its arrays are made from: the source's
fingerprint, and path, size and modification time of its files (or their contents, with `verify`).
It is renamed into place when it is whole.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data.decode import Decoding, decode
from motfm_jax.data.source import Source
from motfm_jax.io.folders import locked, whole_folder
from motfm_jax.io.hashes import hash_file

VERSION = 5  # raise when what is stored for the same source changes
DRAFT_LIFE = 24 * 3600  # seconds until an abandoned draft is deleted


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The examples of one split, ready to read at random.

    Attributes:
      images: [N, *S, C], memory-mapped; the files' integer type, else float32; raw intensities.
      masks: [N, *S] uint8 labels 0, 1, 2, ..., memory-mapped, or None.
      labels: [N] int32 class indices, or None.
      meta: one dict an example, see `Record`.
      classes: class names by index.
      mask_labels: mask label names by number, background first.
      folder: the cache entry behind the arrays; None when they are in memory only.
      first: where in the entry example 0 stands.
      sources: [N, *S, C], memory-mapped, what the images are to be made from; or None.
      skipped: a line for each example that was left out, with its file and the reason.
      label_values: the files' value of each mask label; () where it is the number.
      channel_names: of the images' channels; () if the data names none.
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
    label_values: tuple[int, ...] = ()
    channel_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        names = ("images", "masks", "labels", "sources")
        arrays = {name: getattr(self, name) for name in names}
        shapes = [f"{name} {a.shape} {a.dtype}" for name, a in arrays.items() if a is not None]
        return f"Arrays({', '.join(shapes)})"

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
    how: Decoding = Decoding(),  # noqa: B008
) -> Arrays:
    """The examples of `source`, decoded now or by an earlier call.

    Processes that build the same entry wait for one another if the file system has locks;
    otherwise both build it and the first one's is used. An incomplete entry is built again.

    Args:
      source: with a fingerprint.
      cache_dir: holds the entries.
      progress: called with (examples done, examples in all).

    Raises:
      ValueError: the source is empty, or a record is not finite, or its shape, mask or class does
        not fit; the message names the record. With "skip", most examples are like that. Or the
        entry must be built and the folder cannot be written. Nothing is left behind.
    """
    cache_dir = Path(cache_dir)
    folder = cache_dir / entry_key(source, how)
    arrays = _open(folder, how.verify)
    if arrays is not None:
        return arrays
    _check_writable(cache_dir)
    _check_files(source, how)
    with locked(cache_dir / f"{folder.name}.lock", wait=True):
        arrays = _open(folder, how.verify)  # another process may have finished while we waited
        if arrays is None:
            _sweep(cache_dir)
            try:
                with whole_folder(folder, replace=folder.exists()) as draft:
                    _write(source, draft, progress, how)
            except FileExistsError:  # without locks, another process was first
                pass
            arrays = _open(folder, how.verify)
    if arrays is None:
        raise OSError(f"{folder}: cannot be read back after writing; is the disk full or failing?")
    return arrays


def in_memory(source: Source, progress: Progress | None, how: Decoding) -> Arrays:
    """The examples of `source`, decoded into memory. Errors as for `open_cached`."""

    def create(_: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, dtype)

    return _to_arrays(*decode(source, create, progress, how, num_threads=1))


def entry_key(source: Source, how: Decoding = Decoding()) -> str:  # noqa: B008
    """Name of the source's cache entry: a hash of everything that its examples depend on."""

    def stamp(path: Path) -> list[Any]:
        try:
            if how.verify:
                return [path.name, hash_file(path)]
            status = path.stat()
            return [os.path.abspath(path), status.st_size, status.st_mtime_ns]
        except OSError as error:  # reported when the file is read
            return [str(path), error.strerror]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        stamps = list(pool.map(stamp, _files(source)))
    facts = dict(
        version=VERSION,
        fingerprint=source.fingerprint(),
        files=stamps,
        classes=source.classes,
        mask_labels=source.mask_labels,
        label_values=getattr(source, "label_values", ()),
        channel_names=getattr(source, "channel_names", ()),
    )
    if how.on_fault == "skip":
        facts["skipped"] = "unreadable and constant" if how.varied else "unreadable"
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _files(source: Source) -> list[Path]:
    return source.source_files() if hasattr(source, "source_files") else []


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "it is read-only"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ValueError(
            f"{folder}: decoded data cannot be written here ({reason}); name another folder: "
            "--config.data.cache, or MOTFM_CACHE"
        )


def _check_files(source: Source, how: Decoding) -> None:
    """Raises ValueError for a missing file before hours are spent on those that are there."""
    missing = [path for path in _files(source) if not path.is_file()]
    if missing and how.on_fault == "stop":
        raise ValueError(
            f"{missing[0]}: no such file, one of {len(missing)}; complete the data set or correct "
            "its list; config.data.on_fault=skip leaves such examples out"
        )


def _sweep(cache_dir: Path) -> None:
    """Deletes the drafts of processes that were killed."""
    for path in cache_dir.iterdir():
        is_draft = re.fullmatch(r"\.[0-9a-f]{8}\.[0-9a-f]{32}", path.name)
        if is_draft and time.time() - path.stat().st_mtime > DRAFT_LIFE:
            shutil.rmtree(path, ignore_errors=True)


def _write(source: Source, draft: Path, progress: Progress | None, how: Decoding) -> None:
    """Decodes a source into a folder."""

    def create(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
        path = draft / f"{name}.npy"
        path.unlink(missing_ok=True)  # whoever maps it keeps it
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # Without its room on disk, a write to the map would end the process (SIGBUS).
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return array

    num_threads = min(8, os.cpu_count() or 1)  # decompression runs in parallel
    arrays, facts = decode(source, create, progress, how, num_threads)
    for array in arrays.values():
        array.flush()
    facts["files"] = {
        path.name: [path.stat().st_size, _checksum(path)] for path in sorted(draft.iterdir())
    }
    (draft / "entry.json").write_text(json.dumps(facts))


def _open(folder: Path, verify: bool = False) -> Arrays | None:
    """The entry's arrays; None if there is no entry or a file is not as it was written."""
    try:
        facts = json.loads((folder / "entry.json").read_text())
        for name, (size, checksum) in facts["files"].items():
            if (folder / name).stat().st_size != size:
                return None
            if verify and _checksum(folder / name) != checksum:
                return None
        arrays = {Path(name).stem: np.load(folder / name, mmap_mode="r") for name in facts["files"]}
        return _to_arrays(arrays, facts, folder)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _to_arrays(
    arrays: dict[str, np.ndarray], facts: dict[str, Any], folder: Path | None = None
) -> Arrays:
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
        skipped=tuple(facts["skipped"]),
        label_values=tuple(facts["label_values"]),
        channel_names=tuple(facts["channel_names"]),
    )


def _reopen(folder: Path, first: int, count: int) -> Arrays:
    arrays = _open(folder)
    if arrays is None:
        raise OSError(f"{folder}: the cache entry was removed or damaged while in use; start again")
    return arrays.take(slice(first, first + count))


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
