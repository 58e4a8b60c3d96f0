"""NumPy's archives of arrays, .npz: whole when written, errors in one line when read."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from motfm_jax.io.folders import whole_file


def write_npz(path: Path, **arrays: np.ndarray | None) -> None:
    """Writes the arrays that are not None, compressed."""
    present = {name: array for name, array in arrays.items() if array is not None}
    with whole_file(path) as draft:
        np.savez_compressed(draft, **present)


@contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an .npz, each read on access; pickles are refused.

    Raises:
      ValueError: the archive is missing or damaged.
    """
    try:
        with np.load(path) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise EOFError("not an .npz archive")
            yield arrays
    except (OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write it again") from error


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type of an array in NumPy's format. Leaves the stream at
    the values."""
    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)
