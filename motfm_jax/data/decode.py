"""The records of a source to arrays, each record checked."""

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data.source import (
    Faults,
    Record,
    Source,
    check_finite,
    check_record,
    check_varied,
)

MOST_UNNAMED = 64  # mask labels without names; more are grey levels
Create = Callable[[str, np.dtype, tuple[int, ...]], np.ndarray]  # (name, dtype, shape) -> array


class Decoding(NamedTuple):
    """How a source is decoded.

    Attributes:
      on_fault: "stop" raises at the first example that cannot be used; "skip" leaves it out and
        lists it in `Arrays.skipped`.
      varied: with "skip", constant images cannot be used.
      verify: the entry's name follows the contents of the source's files, and checksums of the
        cached arrays are compared when they are opened.
    """

    on_fault: str = "stop"
    varied: bool = False
    verify: bool = False


def decode(
    source: Source, create: Create, progress: Progress | None, how: Decoding, num_threads: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads and checks every record.

    Args:
      create: makes room for an array; called again for a name, it replaces that array, whose
        values are still read from.

    Returns:
      The arrays by name ("images", "masks", "labels", "sources"), and "classes", "mask_labels",
      "meta" and "skipped" as in `cache.Arrays`.

    Raises:
      ValueError: see `cache.open_cached`.
    """
    total = len(source)
    if total == 0:
        raise ValueError(
            "there are no examples in this split; see config.data.root, or the data set you gave"
        )
    arrays, first, meta, faults = {}, None, [], Faults(how.on_fault)
    for index, record in enumerate(_read(source, num_threads)):
        with faults:
            if isinstance(record, ValueError):
                raise record
            check_record(source, index, record, first or record)
            if how.varied and faults.is_skipping:
                check_varied(source, index, record)
            arrays = arrays or _allocate(create, total, record)
            _store(create, arrays, len(meta), record)
            stored = {name: array[len(meta)] for name, array in arrays.items()}
            check_finite(source, index, record, stored)
            first = first or record
            meta.append(record.meta)
        if progress is not None:
            progress("decoding", index + 1, total)
    faults.check(total)
    rows = len(meta)
    if rows < total:
        arrays = {
            name: _copy(create, name, array, (array.dtype, rows), rows)
            for name, array in arrays.items()
        }
    names = {}
    for field, array in (("classes", arrays.get("labels")), ("mask_labels", arrays.get("masks"))):
        names[field] = getattr(source, field)
        if names[field] is None:  # numbered as found
            count = 0 if array is None else int(array.max()) + 1
            if field == "mask_labels" and count > MOST_UNNAMED:
                raise ValueError(
                    f"a mask holds label {count - 1}, and the data set has no `mask_labels`; "
                    "number the labels 0, 1, 2, ... (mask > 0 for 0 and 255), or name them all"
                )
            names[field] = [str(n) for n in range(count)]
    return arrays, {**names, "meta": meta, "skipped": faults.lines}


def _read(source: Source, num_threads: int) -> Iterator[Record | ValueError]:
    """The records in order, or why they cannot be read; the threads read a few at a time."""

    def read(index: int) -> Record | ValueError:
        try:
            return source[index]
        except ValueError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(source), 4 * num_threads):
            stop = min(start + 4 * num_threads, len(source))
            yield from pool.map(read, range(start, stop))


def _allocate(create: Create, total: int, record: Record) -> dict[str, np.ndarray]:
    """Room for `total` examples like this one, by name."""
    arrays = {"images": (_common_dtype(record.image.dtype, record.image.dtype), record.image.shape)}
    if record.mask is not None:
        arrays["masks"] = np.dtype(np.uint8), record.mask.shape
    if record.label is not None:
        arrays["labels"] = np.dtype(np.int32), ()
    if record.source is not None:
        arrays["sources"] = np.dtype(np.float32), record.source.shape
    return {name: create(name, dtype, (total, *shape)) for name, (dtype, shape) in arrays.items()}


def _store(create: Create, arrays: dict[str, np.ndarray], row: int, record: Record) -> None:
    images = arrays["images"]
    widest = _common_dtype(images.dtype, record.image.dtype)
    if widest != images.dtype:  # a later record needs more than the first
        arrays["images"] = _copy(create, "images", images, (widest, len(images)), row)
    parts = {
        "images": record.image,
        "masks": record.mask,
        "labels": record.label,
        "sources": record.source,
    }
    with np.errstate(over="ignore"):  # float64 may become infinite, which is refused next
        for name, array in arrays.items():
            array[row] = parts[name]


def _copy(
    create: Create, name: str, array: np.ndarray, kind: tuple[np.dtype, int], rows: int
) -> np.ndarray:
    """An array of another type and length (`kind`) with the first rows of this one."""
    dtype, length = kind
    new = create(name, dtype, (length, *array.shape[1:]))
    for index in range(rows):
        new[index] = array[index]
    return new


def _common_dtype(stored: np.dtype, new: np.dtype) -> np.dtype:
    """Integers stay integers, wide enough for both; everything else becomes float32."""
    common = np.result_type(stored, new)
    if common == np.bool_:
        return np.dtype(np.uint8)
    return common if np.issubdtype(common, np.integer) else np.dtype(np.float32)
