"""Archives of arrays."""

import numpy as np

from motfm_jax.io.files import write_npz


def test_npz_leaves_out_what_there_is_not(tmp_path):
    write_npz(tmp_path / "x.npz", images=np.ones(3), masks=None)
    with np.load(tmp_path / "x.npz") as read:
        assert read.files == ["images"]
