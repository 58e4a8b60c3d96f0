"""The files of one cache entry: written from a source, and read back where they are as written."""

import concurrent.futures
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.data.records import (
    Record,
    Source,
    check_record,
    check_varied,
    not_finite,
    refuse_many,
)
from motfm_jax.io.disk import sync

Progress = Callable[[int, int], None]  # (examples done, examples in all)


def write(
    source: Source, progress: Progress | None, on_fault: str, varied: bool, draft: Path
) -> None:
    """Decodes a source into a folder; see `cache.open_cached`."""
    total = len(source)
    if total == 0:
        raise ValueError(f"{type(source).__name__}: the split is empty; check config.data.root")
    arrays, first, meta, skipped = {}, None, [], []
    for index, record in enumerate(_decode(source)):
        try:
            if isinstance(record, ValueError):
                raise record
            check_record(source, index, record, first or record)
            if varied and on_fault == "skip":
                check_varied(source, index, record)
            arrays = arrays or _allocate(draft, total, record)
            wrong = _store(draft, arrays, len(meta), record)
            if wrong is not None:
                raise ValueError(not_finite(source, index, record._replace(image=wrong)))
            first = first or record
            meta.append(record.meta)
        except ValueError as error:
            if on_fault == "stop":
                raise
            skipped.append(str(error))
        if progress is not None:
            progress(index + 1, total)
    refuse_many(skipped, total)
    for name, array in arrays.items() if len(meta) < total else ():
        arrays[name] = _rewrite(draft / f"{name}.npy", array, array.dtype, len(meta), len(meta))
    for array in arrays.values():
        array.flush()
    files = sorted(path for path in draft.iterdir())
    entry = dict(
        files={path.name: path.stat().st_size for path in files},
        sums={path.name: _checksum(path) for path in files},
        classes=list(source.classes),
        mask_labels=list(source.mask_labels),
        meta=meta,
        skipped=skipped,
    )
    entry["sum"] = _sum(entry)
    (draft / "entry.json").write_text(json.dumps(entry))
    for path in (*files, draft / "entry.json", draft):
        sync(path)


def read(
    folder: Path, thoroughly: bool = True
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What entry.json says and the arrays by name, memory-mapped; None where there is no entry or a
    file is not as it was written.

    Args:
      folder: of the entry.
      thoroughly: compare checksums, not sizes alone.
    """
    try:
        entry = json.loads((folder / "entry.json").read_text())
        if entry.pop("sum") != _sum(entry):
            return None
        for name, size in entry["files"].items():
            if (folder / name).stat().st_size != size:
                return None
            if thoroughly and _checksum(folder / name) != entry["sums"][name]:
                return None
        arrays = {Path(name).stem: np.load(folder / name, mmap_mode="r") for name in entry["files"]}
        return entry, arrays
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _decode(source: Source) -> Iterator[Record | ValueError]:
    """The records in order, or why they cannot be read; a few at a time decoded by threads
    (decompression runs in parallel)."""

    def read(index: int) -> Record | ValueError:
        try:
            return source[index]
        except ValueError as error:
            return error

    num_threads = min(8, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(source), 4 * num_threads):
            stop = min(start + 4 * num_threads, len(source))
            yield from pool.map(read, range(start, stop))


def _allocate(draft: Path, total: int, record: Record) -> dict[str, np.memmap]:
    """Room for `total` examples like this one, by name."""
    shape = record.image.shape
    wanted = {"images": (_stored_dtype(record.image), shape)}
    if record.mask is not None:
        wanted["masks"] = np.uint8, record.mask.shape
    if record.label is not None:
        wanted["labels"] = np.int32, ()
    if record.source is not None:
        wanted["sources"] = np.float32, shape
    return {
        name: _create(draft / f"{name}.npy", np.dtype(dtype), (total, *one))
        for name, (dtype, one) in wanted.items()
    }


def _store(
    draft: Path, arrays: dict[str, np.memmap], row: int, record: Record
) -> np.ndarray | None:
    """Puts a record into a row; returns the image that is not finite there, if any."""
    images = arrays["images"]
    widest = _common_dtype(images.dtype, record.image.dtype)
    if widest != images.dtype:  # a later record needs more than the first
        arrays["images"] = _rewrite(draft / "images.npy", images, widest, len(images), row)
    parts = {
        "images": record.image,
        "masks": record.mask,
        "labels": record.label,
        "sources": record.source,
    }
    with np.errstate(over="ignore"):  # float64 may become infinite, which is seen below
        for name, array in arrays.items():
            array[row] = parts[name]
    for name in ("images", "sources"):
        if name in arrays and not np.isfinite(arrays[name][row]).all():
            return parts[name]
    return None


def _stored_dtype(image: np.ndarray) -> np.dtype:
    return _common_dtype(image.dtype, image.dtype)


def _common_dtype(stored: np.dtype, new: np.dtype) -> np.dtype:
    """Integers stay integers, wide enough for both; all else is float32."""
    common = np.result_type(stored, new)
    if common == np.bool_:
        return np.dtype(np.uint8)
    return common if np.issubdtype(common, np.integer) else np.dtype(np.float32)


def _create(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # Without its room on disk, a write to the map would end the process (SIGBUS).
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _rewrite(
    path: Path, array: np.memmap, dtype: np.dtype, length: int, num_done: int
) -> np.memmap:
    """The same file with another type or length, and the first `num_done` rows."""
    new = _create(path.with_suffix(".new"), dtype, (length, *array.shape[1:]))
    for index in range(num_done):
        new[index] = array[index]
    os.replace(path.with_suffix(".new"), path)
    return new


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sum(entry: dict[str, Any]) -> int:
    """CRC-32 of what entry.json says."""
    return zlib.crc32(json.dumps(entry, sort_keys=True).encode())
