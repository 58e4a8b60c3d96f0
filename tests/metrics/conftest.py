"""What well-known packages measured, see golden/metrics/make_golden.py."""

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "golden" / "metrics"


@pytest.fixture(scope="session")
def golden():
    """Reads a file: name -> its arrays."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{name}.npz") as arrays:
            return dict(arrays)

    return read
