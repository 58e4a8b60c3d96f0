"""Image files that claim more than they hold."""

import gzip

import nibabel
import numpy as np
import pytest

from motfm_jax.data import nifti


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_a_header_that_claims_more_than_the_file_can_hold_is_refused_before_it_is_allocated(
    tmp_path, suffix
):
    path = tmp_path / f"a{suffix}"
    data = nibabel.Nifti1Image(np.zeros((40, 40, 40), np.int16), np.eye(4)).to_bytes()
    pack = gzip.compress if suffix.lower().endswith(".gz") else bytes
    path.write_bytes(pack(data))
    assert nifti.read(path).array.shape == (40, 40, 40)  # zeros: a thousandth of that in a .gz
    sides = np.full(3, 30_000, np.int16).tobytes()  # after the number of axes, at 40
    path.write_bytes(pack(data[:42] + sides + data[48:2000]))
    with pytest.raises(ValueError, match=r"declares \(30000, 30000, 30000\) voxels, more than"):
        nifti.read(path)
