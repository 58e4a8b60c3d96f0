"""NumPy's archives of arrays, .npz: whole when written, checked when read."""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from motfm_jax.io.folders import whole_file

# An archive may unpack to 2^30 bytes, or to 100 times its size if that is more.
MOST_INFLATED, FREELY_INFLATED = 100, 2**30


def write_npz(path: Path, **arrays: np.ndarray | None) -> None:
    """Writes the arrays that are not None, compressed."""
    present = {name: array for name, array in arrays.items() if array is not None}
    with whole_file(path) as draft:
        np.savez_compressed(draft, **present)


@contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an .npz from anywhere, each read on access; pickles are refused.

    Raises:
      ValueError: the archive is missing, damaged, or far larger than its size when unpacked.
    """
    check_archive(path)
    try:
        _check_claims(path)
        with np.load(path) as arrays:
            yield arrays
    except (OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write it again") from error


def check_archive(path: Path) -> None:
    """Raises ValueError for a path that is not a zip archive, or one far larger when unpacked.

    No more can be unpacked from an archive than its directory states.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    # NotImplementedError: a kind of archive that zipfile does not read.
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write it again") from error
    size = os.path.getsize(path)
    if unpacked > max(FREELY_INFLATED, MOST_INFLATED * size):
        raise ValueError(
            f"{path}: {size} bytes unpack to {unpacked}, more than {MOST_INFLATED} times as many; "
            "get it from another place"
        )


def _check_claims(path: Path) -> None:
    """Raises ValueError if a member of an .npz is not an array, or claims to be a larger one."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            try:
                with archive.open(part) as member:
                    shape, _, dtype = npy_header(member)
            except ValueError as error:
                raise ValueError(f"{path}: {part.filename} is not an array ({error})") from error
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize > part.file_size:
                raise ValueError(
                    f"{path}: {part.filename} claims {shape} values and holds fewer; write it again"
                )


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type of an array in NumPy's format. Leaves the stream at
    the values."""
    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)
