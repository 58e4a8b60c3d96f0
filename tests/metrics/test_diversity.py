import numpy as np
import pytest

from motfm_jax.metrics.diversity import mean_distances


def test_distances_of_three_images_are_the_closed_form():
    rows = np.array([[0.0, 0.0], [3.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(mean_distances(rows), [1.5, 3.0, 1.5])
    assert mean_distances(rows).mean() == pytest.approx((3 + 3 + 0) / 3)


def test_copies_have_no_diversity_and_a_single_image_has_no_distance():
    assert (mean_distances(np.ones((4, 9))) == 0).all()
    with pytest.raises(ValueError, match="at least 2 rows"):
        mean_distances(np.ones((1, 9)))
