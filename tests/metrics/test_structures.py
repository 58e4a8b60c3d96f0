"""Structures against closed forms: boxes, balls, and maps drawn by hand."""

import numpy as np
import pytest

from motfm_jax.metrics.structures import structures


@pytest.mark.parametrize("sides", [(4, 4), (3, 12), (2, 4, 6)])
def test_a_box_has_the_moments_of_a_box(sides):
    mask = np.zeros([16] * len(sides), np.uint8)
    mask[tuple(slice(1, 1 + side) for side in sides)] = 1
    made = structures([mask], 2)
    variances = np.array(sides) ** 2 / 12  # of a uniform variable
    dims, unit_ball = len(sides), {2: np.pi, 3: 4 * np.pi / 3}[len(sides)]
    least = dims / (dims + 2) * (np.prod(sides) / unit_ball) ** (2 / dims)
    np.testing.assert_allclose(made.compactness, [[least / variances.sum()]])
    expected = np.sqrt(1 - variances.min() / variances.max())
    np.testing.assert_allclose(made.eccentricity, [[expected]], atol=1e-6)
    np.testing.assert_allclose(made.size, [[np.prod(sides) / mask.size]])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_ball_is_the_most_compact_and_a_shell_is_not(dims):
    distance = np.linalg.norm(np.indices([33] * dims) - 16.0, axis=0)
    made = structures([1 * (distance < 12), 1 * ((distance < 12) & (distance > 9))], 2)
    np.testing.assert_allclose(made.compactness[0], 1, atol=0.01)
    assert (made.compactness <= 1).all() and made.compactness[1] < 0.6
    np.testing.assert_allclose(made.eccentricity, 0, atol=0.05)


def test_pieces_and_borders_of_a_map_drawn_by_hand():
    drawn = """
    000000
    022220
    021120
    021122
    022220
    000002
    """
    mask = np.array([[int(number) for number in line] for line in drawn.split()], np.uint8)
    made = structures([mask, np.zeros_like(mask)], 4)
    np.testing.assert_array_equal(made.pieces, [[1, 1, 0], [0, 0, 0]])  # corners connect
    # The cavity has 8 faces, all with the wall.
    np.testing.assert_allclose(made.borders[0, 1], [0, 0, 1, 0])
    outwards = 4 + 4 + 4 + 3 + 2 + 2  # top, bottom, left, right, of the two single voxels
    np.testing.assert_allclose(made.borders[0, 2], np.array([outwards, 8, 0, 0]) / (outwards + 8))
    np.testing.assert_array_equal(made.borders[1], 0)
    assert np.isnan(made.compactness[1]).all() and np.isnan(made.compactness[0, 2])
    mask[4, 4] = 0  # to which the single voxel was connected
    assert structures([mask], 4).pieces[0, 1] == 2
