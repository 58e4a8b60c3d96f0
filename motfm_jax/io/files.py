"""Archives of arrays."""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from motfm_jax.io.folders import read_json as read_json
from motfm_jax.io.folders import whole_file

MOST_INFLATED = 100  # times its size that an archive may hold; and
FREELY_INFLATED = 2**30  # bytes that any may hold


def write_npz(path: Path, **arrays: np.ndarray | None) -> None:
    """Writes the arrays that are not None, compressed."""
    present = {name: array for name, array in arrays.items() if array is not None}
    with whole_file(path) as draft:
        np.savez_compressed(draft, **present)


@contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an .npz from anywhere, each read when it is asked for; pickles are not read.

    Raises:
      ValueError: no such archive, a damaged one, or one that holds far more than its size.
    """
    check_archive(path)
    try:
        _check_claims(path)
        with np.load(path) as arrays:
            yield arrays
    except (OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write it again") from error


def check_archive(path: Path) -> None:
    """Raises ValueError where a path is no zip archive, or one that holds far more than its size.

    What an archive states is all that can be unpacked from it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(part.file_size for part in archive.infolist())
    # NotImplementedError: an archive of a sort that zipfile does not read.
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write it again") from error
    size = os.path.getsize(path)
    if held > max(FREELY_INFLATED, MOST_INFLATED * size):
        raise ValueError(
            f"{path}: {size} bytes that unpack to {held}, at most {MOST_INFLATED} times as many "
            "are read; get it from another place"
        )


def _check_claims(path: Path) -> None:
    """Raises ValueError where a member of an .npz is no array, or claims to be a larger one."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            try:
                with archive.open(part) as member:
                    shape, _, dtype = npy_header(member)
            except ValueError as error:
                raise ValueError(f"{path}: {part.filename} is no array ({error})") from error
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize > part.file_size:
                raise ValueError(
                    f"{path}: {part.filename} claims {shape} values and holds fewer; write it again"
                )


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type of an array in numpy's format; the stream stands
    at its values then."""
    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)
