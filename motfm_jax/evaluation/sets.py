"""Sets of images that are read in batches, as often as a metric needs."""

import contextlib
import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import jax
import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.io.npz import npy_header, open_npz

BATCH = 32  # images a device


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images in order, from the first at every reading.

    Attributes:
      shape: [N, *S, C]; [N, *S] for masks.
      read: number of images -> batches of so many, the last one with what is left.
      masks: [N, *S] labels that they were made from or drawn on, or [N, *S, C] floats; or None.
      labels: [N] class indices, or None.
      patients: N names; () of generated images.
    """

    shape: tuple[int, ...]
    read: Callable[[int], Iterator[np.ndarray]]
    masks: "ImageSet | None" = None
    labels: np.ndarray | None = None
    patients: Sequence[str] = ()

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, rows: int = 0) -> Iterator[np.ndarray]:
        """[n, *S, C], `rows` at a time; 0 for BATCH a device."""
        return self.read(rows or BATCH * jax.local_device_count())

    def each(self) -> Iterator[np.ndarray]:
        """One by one, [*S, C]."""
        return (image for batch in self.batches() for image in batch)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "ImageSet":
        """The same images, each batch seen through a function that keeps its shape."""
        return dataclasses.replace(self, read=lambda rows: map(function, self.read(rows)))

    def through(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What a function makes of each batch, one below the other: [N, F]."""
        return np.concatenate([function(batch) for batch in self.batches()])

    def take(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The images at `rows` in that order, read up to the last of them: [len(rows), *S, C]."""
        images, chosen = {}, {int(row) for row in rows}
        for row, image in enumerate(self.each()):
            if row in chosen:
                images[row] = image.copy()
            if len(images) == len(chosen):
                break
        return np.stack([images[int(row)] for row in rows])

    def conditions(self) -> np.ndarray | None:
        """[N] numbers, equal where mask and class are; None for images without either."""
        if self.masks is None and self.labels is None:
            return None
        masks = map(digest, self.masks.each()) if self.masks else [""] * len(self)
        labels = [-1] * len(self) if self.labels is None else self.labels
        numbers: dict[tuple[str, int], int] = {}
        keys = ((mask, int(label)) for mask, label in zip(masks, labels))
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


class Real(NamedTuple):
    """Real images with their name for reports, such as the split."""

    name: str
    arrays: Arrays


def digest(mask: np.ndarray) -> str:
    """Of the numbers of one mask [*S], whatever their type."""
    kind = np.float32 if mask.dtype.kind == "f" else np.uint8
    return hashlib.blake2b(mask.astype(kind).tobytes(), digest_size=16).hexdigest()


def made_from(images: ImageSet, train_masks: Iterable[np.ndarray] | None) -> np.ndarray | None:
    """Which generated images were made from the mask of a training image, [N] bool; None where
    there are no masks, or only floats.

    Copying hides behind training masks: of these a network may have learned the very image.
    """
    if images.masks is None or train_masks is None or len(images.masks.shape) == len(images.shape):
        return None
    known = {digest(np.asarray(mask)) for mask in train_masks}
    return np.array([digest(mask) in known for mask in images.masks.each()])


def in_memory(
    images: np.ndarray, masks: np.ndarray | None = None, labels: np.ndarray | None = None
) -> ImageSet:
    """Of arrays [N, *S, C], [N, *S] and [N]."""
    return ImageSet(
        images.shape,
        lambda rows: (images[start : start + rows] for start in range(0, len(images), rows)),
        None if masks is None else in_memory(masks),
        labels,
    )


def in_units(arrays: Arrays, intensity: Intensity, rows: np.ndarray | None = None) -> ImageSet:
    """Real images as a perfect network's samples would be: scaled, and the scaling undone.

    Args:
      arrays: raw intensities.
      intensity: of the run.
      rows: which of them; None for all.
    """
    rows = np.arange(len(arrays)) if rows is None else rows

    def one(row: int) -> np.ndarray:
        scaled = intensity.apply(np.asarray(arrays.images[row]), arrays.meta[row]["name"])
        return intensity.invert(scaled)

    return ImageSet(
        (len(rows), *arrays.images.shape[1:]),
        lambda count: (
            np.stack([one(row) for row in rows[start : start + count]])
            for start in range(0, len(rows), count)
        ),
        None if arrays.masks is None else _rows_of(arrays.masks, rows),
        None if arrays.labels is None else arrays.labels[rows],
        [arrays.meta[row].get("patient") or arrays.meta[row]["name"] for row in rows],
    )


def _rows_of(array: np.ndarray, rows: np.ndarray) -> ImageSet:
    return ImageSet(
        (len(rows), *array.shape[1:]),
        lambda count: (array[rows[start : start + count]] for start in range(0, len(rows), count)),
    )


def of_samples(folder: Path) -> ImageSet:
    """The images of `motfm sample`, with the masks and classes that they belong to.

    Raises (here or in reading):
      ValueError: see `stored`.
    """
    path = folder / "samples.npz"
    images = stored(path)
    with open_npz(path) as arrays:
        labels = np.asarray(arrays["classes"]) if "classes" in arrays else None
        masks = stored(path, "masks") if "masks" in arrays else None
    return dataclasses.replace(images, masks=masks, labels=labels)


def stored(path: Path, name: str = "images") -> ImageSet:
    """An array of an npz, compressed or not, decompressed only as far as it is read.

    Raises (here or in reading):
      ValueError: no such array, one of other things than numbers, or a damaged file.
    """
    with _opened(path, name) as (shape, *_):
        pass

    def read(rows: int) -> Iterator[np.ndarray]:
        with _opened(path, name) as (_, dtype, stream):
            for start in range(0, shape[0], rows):
                part = (min(rows, shape[0] - start), *shape[1:])
                values = stream.read(int(np.prod(part)) * dtype.itemsize)
                yield np.frombuffer(values, dtype).reshape(part)

    return ImageSet(shape, read)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[tuple[int, ...], np.dtype, BinaryIO]]:
    """Shape and type of an array of an npz, and its values as a stream: a zip entry holds a header
    and then the values."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            shape, by_columns, dtype = npy_header(stream)
            if by_columns or dtype.kind not in "buif" or len(shape) < 2:
                order = "Fortran" if by_columns else "C"
                raise ValueError(
                    f"{dtype} {shape} in {order} order; numbers [N, *S, C] in C order needed"
                )
            yield shape, dtype, stream
    except KeyError as error:
        raise ValueError(f"{path}: holds no {name}; sample again") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: its {name} cannot be read ({error}); sample again") from error
