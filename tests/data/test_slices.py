"""Pictures of volumes: as radiologists look at them, each in its place."""

import numpy as np
import pytest

from motfm_jax.data.slices import Cut, Stack, foreground

SHAPE = (4, 5, 6)
AFFINE = np.array([[2, 0, 0, -9], [0, 3, 0, -8], [0, 0, 4, -7], [0, 0, 0, 1.0]])


def volume(affine=AFFINE):
    """A RAS volume whose voxels hold their index, as a number of three digits."""
    i, j, k = np.indices(SHAPE)
    image = (100 * i + 10 * j + k)[..., None]
    spacing = None if affine is None else (2.0, 3.0, 4.0)
    return Stack(image, image[..., 0], affine, spacing, 1)


# Upper left, upper right and lower left pixel of slice 1; the index of each in the volume.
CORNERS = {
    "axial": ((3, 4, 1), (0, 4, 1), (3, 0, 1)),  # right front, left front, right back
    "coronal": ((3, 1, 5), (0, 1, 5), (3, 1, 0)),  # right top, left top, right bottom
    "sagittal": ((1, 4, 5), (1, 0, 5), (1, 4, 0)),  # front top, back top, front bottom
    "0": ((1, 0, 0), (1, 0, 5), (1, 4, 0)),
    "1": ((0, 1, 0), (0, 1, 5), (3, 1, 0)),
    "2": ((0, 0, 1), (0, 4, 1), (3, 0, 1)),
}


@pytest.mark.parametrize("plane", CORNERS)
def test_corners_are_where_they_belong_and_their_affine_says_so(plane):
    picture = Cut(plane).stack(volume()).cut(1)
    rows, columns = picture.image.shape[:2]
    for (row, column), index in zip(((0, 0), (0, columns - 1), (rows - 1, 0)), CORNERS[plane]):
        assert (
            picture.image[row, column, 0]
            == picture.mask[row, column]
            == np.dot(index, (100, 10, 1))
        )
        np.testing.assert_allclose(picture.affine @ [row, column, 0, 1], AFFINE @ [*index, 1])
    np.testing.assert_allclose(picture.spacing_mm, np.linalg.norm(picture.affine[:3, :2], axis=0))


def test_a_volume_without_a_place_is_cut_by_axis_alone():
    assert Cut("2").stack(volume(None)).cut(0).image.shape == (4, 5, 1)
    with pytest.raises(ValueError, match=r"config\.data\.slices='axial' of a volume without an"):
        Cut("axial").stack(volume(None))


def test_every_so_many_slices_within_the_margin_and_with_foreground():
    image = np.full((10, 10, 8, 1), -1000)
    image[:3, :, 2:7] = 500  # 30% of five slices
    image[0, 0] = -1000  # the corner is background
    pile = Stack(image, None, None, None, 1)
    assert Cut("2", step=3, margin=1).choose(pile) == [1, 4]
    assert Cut("2", share=0.29).choose(pile) == [2, 3, 4, 5, 6]
    assert Cut("2", share=0.3).choose(pile) == []
    with pytest.raises(ValueError, match=r"no slices left: .*margin=4 at either end of 8 slices"):
        Cut("2", margin=4).choose(pile)
    np.testing.assert_allclose(foreground(image), [0, 0, *[0.29] * 5, 0])
