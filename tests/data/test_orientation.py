"""Volumes to RAS axes, masks onto the grid of their image."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from motfm_jax.data.nifti import Volume
from motfm_jax.data.orientation import onto_grid, ras_volume, to_ras

PATHS = Path("mask.nii"), Path("image.nii")
AFFINE = np.array([[1.0, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])


def volume(array, affine):
    return Volume(array, affine, tuple(np.linalg.norm(affine[:3, :3], axis=0)))


def values(shape=(3, 4, 5)):
    return np.random.default_rng(0).integers(0, 9, shape)


def turned(degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


def stored_otherwise(array, affine, axes):
    """The same volume as another program may write it: axes as "LPI"."""
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(np.eye(4)), nibabel.orientations.axcodes2ornt(axes)
    )
    back = nibabel.orientations.inv_ornt_aff(change, array.shape[:3])
    return nibabel.apply_orientation(array, change), affine @ back


@pytest.mark.parametrize("axes", ["RAS", "LAS", "SAR", "PIL"])
@pytest.mark.parametrize("degrees", [0, 30])
def test_volumes_go_to_the_closest_axes_as_nibabel_takes_them(axes, degrees):
    array, affine = stored_otherwise(values((3, 4, 5, 2)), turned(degrees) @ AFFINE, axes)
    expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(array.astype(np.int16), affine))
    found, placed = to_ras(array, affine)
    np.testing.assert_array_equal(found, expected.get_fdata())
    np.testing.assert_allclose(placed, expected.affine)
    np.testing.assert_allclose(ras_volume(volume(array, affine)).spacing_mm, (1, 2, 3))


@pytest.mark.parametrize("axes", ["RAS", "LAS", "SAR", "PIL"])
@pytest.mark.parametrize("degrees", [0, 45])
def test_a_mask_stored_with_other_axes_is_brought_to_its_image(axes, degrees):
    affine = turned(degrees) @ AFFINE
    mask = volume(*stored_otherwise(values(), affine, axes))
    image = volume(np.zeros((3, 4, 5, 2)), affine)
    np.testing.assert_array_equal(onto_grid(mask, image, *PATHS, resample=False), values())


@pytest.mark.parametrize("mask_axes", [2, 3])
@pytest.mark.parametrize("image_axes", [2, 3])
def test_frames_with_and_without_an_axis_of_1_fit(mask_axes, image_axes):
    """The step across a frame is often a mere 1 or 0."""
    frame, affine = values((6, 4)), np.diag([-0.3, -0.2, 0.0 if image_axes == 2 else 1.0, 1])
    mirrored = np.diag([0.3, -0.2, 7.0, 1])
    mirrored[0, 3] = -5 * 0.3
    image = Volume(frame.reshape((6, 4, 1)[:image_axes]), affine, (0.3, 0.2, 1.0)[:image_axes])
    mask = Volume(frame[::-1].reshape((6, 4, 1)[:mask_axes]), mirrored, (0.3, 0.2, 7.0)[:mask_axes])
    found = onto_grid(mask, image, *PATHS, resample=False)
    np.testing.assert_array_equal(found, image.array)


def test_another_grid_is_refused_with_the_distance_in_mm_or_resampled():
    coarse, fine = values(), np.kron(values(), np.ones((2, 2, 2), int))
    halved = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    halved[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]
    mask, image = volume(coarse, AFFINE), volume(fine, halved)
    quarter = np.linalg.norm([0.25, 0.5, 0.75])
    with pytest.raises(ValueError, match=rf"mask\.nii: .*at a corner by {quarter:.3g} mm"):
        onto_grid(mask, image, *PATHS, resample=False)
    np.testing.assert_array_equal(onto_grid(mask, image, *PATHS, resample=True), fine)


def test_a_hundredth_of_a_voxel_is_no_difference_and_a_shifted_mask_ends_at_its_edge():
    moved = AFFINE.copy()
    moved[0, 3] += 0.01
    image = volume(values(), AFFINE)
    np.testing.assert_array_equal(
        onto_grid(volume(values(), moved), image, *PATHS, resample=False), values()
    )
    moved[0, 3] = AFFINE[0, 3] + 1
    with pytest.raises(
        ValueError, match=r"mask\.nii: its affine differs from image\.nii's, at a corner by 1 mm"
    ):
        onto_grid(volume(values(), moved), image, *PATHS, resample=False)
    found = onto_grid(volume(values(), moved), image, *PATHS, resample=True)
    np.testing.assert_array_equal(found[1:], values()[:-1])
    assert not found[0].any()


def test_a_mask_with_channels_is_refused():
    mask = volume(values((3, 4, 5, 2)), AFFINE)
    with pytest.raises(ValueError, match="one label a voxel needed"):
        onto_grid(mask, volume(values(), AFFINE), *PATHS, resample=True)
