"""NIfTI files, read and written."""

import gzip

import nibabel
import numpy as np
import pytest

from motfm_jax.data import nifti


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_a_header_that_declares_more_than_the_file_holds_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    data = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes()
    pack = gzip.compress if suffix.lower().endswith(".gz") else bytes
    path.write_bytes(pack(data))
    assert nifti.read(path).array.shape == (4, 4, 4)
    sides = np.full(3, 30_000, np.int16).tobytes()  # after the number of axes, at 40
    path.write_bytes(pack(data[:42] + sides + data[48:]))
    with pytest.raises(ValueError, match=r"\(30000, 30000, 30000\) voxels need 54000000000352 b"):
        nifti.read(path)


def test_nifti_keeps_a_volumes_axes_and_affine(tmp_path):
    volume = np.random.default_rng(0).normal(size=(3, 4, 5, 1)).astype(np.float32)
    affine = np.array([[-2, 0, 0, 9], [0, 2, 0, -8], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    nifti.write_nifti(tmp_path / "x.nii.gz", volume, affine.tolist(), "synthetic")
    read = nibabel.load(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read.get_fdata(dtype=np.float32), volume[..., 0])
    np.testing.assert_allclose(read.affine, affine)
    assert bytes(read.header["descrip"]).startswith(b"synthetic")
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii.gz"]


def test_nifti_swaps_a_frames_rows_and_columns_back_with_its_affine(tmp_path):
    frame = np.arange(6, dtype=np.float32).reshape(2, 3, 1)  # rows, columns
    of_row_column = [[0, 0.5, 0, 0], [0.25, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    affine = np.array(of_row_column)
    nifti.write_nifti(tmp_path / "x.nii", frame, affine)
    read = nibabel.load(tmp_path / "x.nii")
    np.testing.assert_array_equal(read.get_fdata(), frame[..., 0].T[:, :, None])
    np.testing.assert_allclose(read.affine @ [2, 1, 0, 1], affine @ [1, 2, 0, 1])
