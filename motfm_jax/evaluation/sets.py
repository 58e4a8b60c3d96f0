"""Sets of images that are read in batches, as often as a metric needs."""

import contextlib
import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import jax
import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.io.npz import npy_header

BATCH = 32  # images a device


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images in order, from the first at every reading.

    Attributes:
      shape: [N, *S, C]; [N, *S] for masks.
      read: number of images -> batches of so many, the last one with what is left.
    """

    shape: tuple[int, ...]
    read: Callable[[int], Iterator[np.ndarray]]

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
        return ImageSet(self.shape, lambda rows: map(function, self.read(rows)))

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


class Real(NamedTuple):
    """Real images with their name for reports, such as the split."""

    name: str
    arrays: Arrays


def in_memory(images: np.ndarray) -> ImageSet:
    """Of an array [N, *S, C]."""
    return ImageSet(
        images.shape,
        lambda rows: (images[start : start + rows] for start in range(0, len(images), rows)),
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
    )


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
