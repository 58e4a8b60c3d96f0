"""What every room that keeps files needs of the disk, and of locks on it."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns once a file or folder is on the disk itself, where a power cut leaves it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that the path names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
