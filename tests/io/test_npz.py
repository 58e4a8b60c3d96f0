"""NumPy's archives."""

import numpy as np

from motfm_jax.io.npz import write_npz


def test_arrays_that_are_none_are_left_out(tmp_path):
    write_npz(tmp_path / "x.npz", images=np.ones(3), masks=None)
    with np.load(tmp_path / "x.npz") as read:
        assert read.files == ["images"]
