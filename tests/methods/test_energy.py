"""The energy score of patches: closed forms, and what it must tell apart."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from motfm_jax.methods.energy import local_energy_score


def normal(seed, count=400, size=(12, 12), spread=1.0):
    return spread * np.random.default_rng(seed).normal(size=(count, *size, 1)).astype(np.float32)


def score(first, second, real):
    return float(jnp.mean(local_energy_score(*map(jnp.asarray, (first, second, real)))))


@pytest.mark.parametrize("size", [(4, 4), (4, 4, 4)])
def test_constant_images_score_their_distances(size):
    ones = np.ones((3, *size, 2), np.float32)
    # (|1 - 4| + |3 - 4|) / 2 - |1 - 3| / 2 at every scale; roots are smoothed by 1e-6
    np.testing.assert_allclose(local_energy_score(ones, 3 * ones, 4 * ones), 1.0, atol=1e-5)


def test_images_of_the_right_distribution_score_best():
    real = normal(0)
    right = score(normal(1), normal(2), real)
    assert right < score(normal(1, spread=0.5), normal(2, spread=0.5), real)
    assert right < score(normal(1, spread=2.0), normal(2, spread=2.0), real)
    assert right < score(normal(1) + 0.5, normal(2) + 0.5, real)
    assert right < score(normal(1), normal(1), real), "noise that changes nothing"


def test_blurred_images_of_equal_variance_score_worse():
    def blurred(seed):
        images = scipy.ndimage.gaussian_filter(normal(seed), (0, 0.7, 0.7, 0), mode="wrap")
        return images / images.std()

    real = normal(0)
    assert score(normal(1), normal(2), real) + 0.01 < score(blurred(1), blurred(2), real)


def test_a_normal_pixel_scores_its_closed_form():
    # One place of a patch of 3 pixels: |P1 - P| is sqrt(2) times a chi of 3 over sqrt(3).
    first, second, real = (normal(seed, 20000, (3, 1))[:, :, [0] * 3] for seed in (1, 2, 3))
    mean = np.sqrt(2 / 3) * np.sqrt(2) * 2 / np.sqrt(np.pi)
    np.testing.assert_allclose(score(first, second, real), mean / 2, rtol=0.01)
