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


def header_of(path, sform=None, qform=None, zooms=None, unit="mm"):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.header.set_qform(qform, int(qform is not None))
    image.header.set_sform(sform, int(sform is not None))
    if zooms:
        image.header["pixdim"][1:4] = zooms
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("unit, step", [("mm", 0.5), ("micron", 500.0), ("meter", 0.0005)])
def test_microns_and_metres_become_millimetres(tmp_path, unit, step):
    affine = np.diag([step, step, step, 1])
    affine[:3, 3] = 10 * step
    volume = nifti.read(header_of(tmp_path / "a.nii", affine, None, (step,) * 3, unit))
    np.testing.assert_allclose(volume.spacing_mm, 0.5, rtol=1e-6)
    np.testing.assert_allclose(volume.affine[:3], [[0.5, 0, 0, 5], [0, 0.5, 0, 5], [0, 0, 0.5, 5]])


def test_a_header_that_disagrees_is_refused_unless_one_of_its_fields_is_chosen(tmp_path):
    path = header_of(tmp_path / "a.nii", np.eye(4), None, (1.316, 1.316, 10))
    ways = r"sform 1 x 1 x 1 mm RAS, qform not set, pixdim 1.316 x 1.316 x 10 mm"
    with pytest.raises(ValueError, match=rf"{ways}.*config\.data\.geometry=sform\|qform\|pixdim"):
        nifti.read(path)
    assert nifti.read(path, "sform").spacing_mm == (1, 1, 1)
    volume = nifti.read(path, "pixdim")
    np.testing.assert_allclose(volume.spacing_mm, (1.316, 1.316, 10))
    # centred, like a header without sform and qform in nibabel
    np.testing.assert_allclose(np.abs(np.diag(volume.affine)), (1.316, 1.316, 10, 1))
    np.testing.assert_allclose(volume.affine @ [1.5, 2, 2.5, 1], [0, 0, 0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="geometry='qform', but its header has only sform and pix"):
        nifti.read(path, "qform")


def test_an_sform_and_a_qform_of_opposite_directions_disagree(tmp_path):
    path = header_of(tmp_path / "a.nii", np.eye(4), np.diag([-1, -1, 1, 1]))
    with pytest.raises(ValueError, match="sform 1 x 1 x 1 mm RAS, qform 1 x 1 x 1 mm LPS"):
        nifti.read(path)
    assert nifti.read(path, "qform").affine[0, 0] == -1
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]  # a patient who turned the head between two scans
    assert nifti.read(header_of(path, np.eye(4), turned)).affine[0, 0] == 1
