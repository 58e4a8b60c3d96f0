"""Files are whole or not there."""

import numpy as np
import pytest

from motfm_jax.io.files import whole_file, write_npz


def test_npz_leaves_out_what_there_is_not(tmp_path):
    write_npz(tmp_path / "x.npz", images=np.ones(3), masks=None)
    with np.load(tmp_path / "x.npz") as read:
        assert read.files == ["images"]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with whole_file(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
