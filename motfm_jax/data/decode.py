"""The records of a source to arrays, each record checked."""

import concurrent.futures
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data import labels
from motfm_jax.data.nifti import finite
from motfm_jax.data.source import Faults, Record, Source, locate

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
      "label_values", "channel_names", "meta" and "skipped" as in `cache.Arrays`.

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
    classes, numbers = source.classes, arrays.get("labels")
    if classes is None:  # named by the numbers that occur
        values = np.unique([] if numbers is None else numbers)
        classes = [str(int(value)) for value in values]
        if numbers is not None:
            numbers[:] = np.searchsorted(values, numbers)
    names, values = source.mask_labels, getattr(source, "label_values", ())
    if names is None:
        names, values = _number(arrays["masks"]) if "masks" in arrays else ((), ())
    return arrays, {
        "classes": classes,
        "mask_labels": names,
        "label_values": values,
        "channel_names": getattr(source, "channel_names", ()),
        "meta": meta,
        "skipped": faults.lines,
    }


def _number(masks: np.ndarray) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Numbers the values found in masks, in place: names of the labels, and `Labels.gaps`."""
    counts = sum(np.bincount(mask.ravel(), minlength=labels.MOST) for mask in masks)
    known = labels.of_values(np.flatnonzero(counts))
    if len(known.names) > MOST_UNNAMED:
        raise ValueError(
            f"masks hold {len(known.names)} values up to {known.values[-1]}, and the data set has "
            "no `mask_labels`; number the labels 0, 1, 2, ..., or name them all: config.data.labels"
        )
    for mask in masks if known.gaps else ():
        mask[:] = known.number(mask, "masks")
    return known.names, known.gaps


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


def check_record(source: Source, index: int, record: Record, first: Record) -> None:
    """Raises ValueError, naming the record, if it does not fit the first or its own labels."""
    name, image, mask = locate(source, index, record), record.image, record.mask
    channels = image.shape[-1], first.image.shape[-1]
    if channels[0] != channels[1]:
        raise ValueError(
            f"{name}: {channels[0]} channels, but {first.name} has {channels[1]}; all images need "
            "the same channels: convert them"
        )
    if image.shape != first.image.shape:
        raise ValueError(
            f"{name}: image {image.shape}, but {first.name} is {first.image.shape}; "
            "all must have one size: set config.data.size"
        )
    parts = ("mask", "label", "source")
    if any((getattr(record, part) is None) != (getattr(first, part) is None) for part in parts):
        raise ValueError(
            f"{name}: all examples of a split need masks, classes and source images, or none; "
            f"{first.name} differs"
        )
    if record.source is not None and record.source.shape != image.shape:
        raise ValueError(
            f"{name}: image {image.shape} and its source {record.source.shape} differ in shape; "
            "resample them to one grid first"
        )
    if mask is not None:
        if mask.shape != image.shape[:-1]:
            raise ValueError(
                f"{name}: mask {mask.shape} and image {image.shape[:-1]} differ in space; "
                "resample them to one grid first"
            )
        names = source.mask_labels
        if names is not None and (mask.min() < 0 or mask.max() >= len(names)):
            raise ValueError(
                f"{name}: mask values {np.unique(mask).tolist()[:8]}, but the declared labels are "
                f"0 to {len(names) - 1} ({', '.join(names)}); remap them, or declare others: "
                "config.data.labels"
            )
    most = np.inf if source.classes is None else len(source.classes)
    if record.label is not None and not 0 <= record.label < most:
        declared = (
            "classes count from 0"
            if source.classes is None
            else f"the declared classes are 0 to {most - 1} ({', '.join(source.classes)})"
        )
        raise ValueError(f"{name}: class {record.label}, but {declared}")


def check_varied(source: Source, index: int, record: Record) -> None:
    """Raises ValueError for a constant image, which cannot be scaled by its own range."""
    if record.image.min() == record.image.max():
        raise ValueError(
            f"{locate(source, index, record)}: the image is constant ({record.image.max():g}), "
            "which config.data.intensity.scope=sample cannot scale"
        )


def check_finite(source: Source, index: int, record: Record, stored: Mapping[str, Any]) -> None:
    """Raises ValueError if the values of a record are not finite once stored as float32."""
    for name in ("images", "sources"):
        if name not in stored or np.isfinite(stored[name]).all():
            continue
        try:
            finite(record.image if name == "images" else record.source)
            raise ValueError("values beyond the range of float32; repair or remove it")
        except ValueError as error:
            raise ValueError(f"{locate(source, index, record)}: {error}") from error
