"""What every room that keeps files needs of the disk."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns once a file or folder is on the disk itself, where a power cut leaves it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
