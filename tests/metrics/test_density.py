import numpy as np
import pytest

from motfm_jax.metrics.density import GRID, NUM_VALUES, density_of_batches, wasserstein


def _images(mean: float, spread: float = 12, count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, spread, (count, 20, 20, 1)).clip(0, 255)


def intensity_density(images, seed, num_values=NUM_VALUES):
    return density_of_batches([images], images.size, seed, num_values)


def test_the_density_of_normal_intensities_is_their_bell():
    density = intensity_density(_images(120), seed=0)
    bell = np.exp(-(((GRID - 120) / 12) ** 2) / 2) / (12 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(density, bell, atol=0.12 * bell.max())
    np.testing.assert_allclose(density.sum(), 1, rtol=1e-3)


def test_a_brighter_set_is_as_far_away_as_it_is_brighter():
    plain, brighter = (intensity_density(_images(mean), seed=0) for mean in (90, 120))
    np.testing.assert_allclose(wasserstein(plain, brighter), 30, rtol=1e-3)
    assert wasserstein(plain, plain) == 0


def test_order_of_images_does_not_matter_and_many_values_are_thinned_out_by_the_seed():
    images = _images(100)
    whole = intensity_density(images, seed=0)
    np.testing.assert_allclose(intensity_density(images[::-1], seed=1), whole)
    few, again, other = (intensity_density(images, seed, num_values=300) for seed in (0, 0, 1))
    np.testing.assert_array_equal(few, again)
    assert (few != other).any()
    assert wasserstein(few, whole) < 3
    nearly_all = intensity_density(images, seed=0, num_values=images.size - 1)
    np.testing.assert_allclose(nearly_all, whole, atol=5e-3 * whole.max())  # none drawn twice


@pytest.mark.parametrize("num_values", [300, 10_000])
@pytest.mark.parametrize("edges", [(5,), (1, 2), (0, 3)])
def test_batches_of_any_sizes_give_the_density_of_the_whole(edges, num_values):
    images = _images(100)
    whole = intensity_density(images, 3, num_values)
    np.testing.assert_allclose(
        density_of_batches(np.split(images, edges), images.size, 3, num_values), whole, rtol=1e-12
    )
    with pytest.raises(ValueError, match="hold 2000 values, total=2400"):
        density_of_batches([images[:5]], images.size, 3)


def test_the_values_drawn_are_as_many_as_asked_for_and_come_from_all_images(monkeypatch):
    seen = []
    monkeypatch.setattr("scipy.stats.gaussian_kde", lambda values: seen.append(values) or np.abs)
    images = np.repeat(np.arange(8.0), 500).reshape(8, 500)
    density_of_batches(np.split(images, [3, 7]), images.size, 0, num_values=400)
    assert len(seen[0]) == 400 and set(seen[0]) == set(range(8))
    assert (np.bincount(seen[0].astype(int)) < 90).all()


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((0, 4, 4, 1)), "hold no values"),
        (np.full((1, 4, 4, 1), np.nan), "not finite"),
        (np.array([-1.0, 1.0]), "run from -1 to 1: needed 0 to 255"),
        (np.full((2, 4, 4, 1), 7), "every intensity is 7"),
    ],
)
def test_intensities_without_a_density_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        intensity_density(images, seed=0)


def test_densities_must_lie_on_the_grid():
    with pytest.raises(ValueError, match="needed a finite number >= 0 per level"):
        wasserstein(np.ones(256), np.ones(255))
