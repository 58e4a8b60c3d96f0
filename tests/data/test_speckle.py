import numpy as np
import pytest

from motfm_jax.data.speckle import degrade, draw_power


def grey(value, shape=(200, 200, 1)):
    return np.full(shape, value, np.float32)


def rng(*seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(8, 6, 1), (4, 6, 8, 2)])
def test_the_generator_decides_everything(shape):
    image = rng(0).uniform(-1, 1, shape).astype(np.float32)
    before = image.copy()
    first, again, other = (degrade(image, 0.1, rng(1, index)) for index in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05
    assert first.shape == shape and first.dtype == np.float32
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "bounds, value", [((-1.0, 1.0), -0.4), ((0.0, 1.0), 0.3), ((0.0, 255.0), 70.0)]
)
@pytest.mark.parametrize("power", [0.01, 0.04])
def test_mean_stays_and_deviation_follows_the_grey_value(bounds, value, power):
    speckled = degrade(grey(value), power, rng(0), bounds).astype(np.float64)
    height = value - bounds[0]
    assert speckled.mean() - value == pytest.approx(0, abs=5e-3 * height)
    assert speckled.std() / height == pytest.approx(np.sqrt(power), rel=0.02)
    neighbours = np.corrcoef(speckled[:-1].ravel(), speckled[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.03


@pytest.mark.parametrize("power", [0.01, 0.065])
def test_power_is_the_noise_to_signal_ratio_of_an_image_of_any_greys(power):
    image = rng(0).uniform(-1, 0.1, (200, 200, 1)).astype(np.float32)  # too dark to be clipped
    speckled = degrade(image, power, rng(1))
    assert speckled.max() < 1
    ratio = np.mean(np.square(speckled - image)) / np.mean(np.square(image + 1))
    assert ratio == pytest.approx(power, rel=0.05)


def test_black_stays_black_and_no_power_changes_nothing():
    np.testing.assert_array_equal(degrade(grey(-1), 0.5, rng(0)), -1)
    image = rng(0).uniform(-1.2, 1.3, (8, 8, 1)).astype(np.float32)  # beyond the bounds
    np.testing.assert_array_equal(degrade(image, 0.0, rng(0)), image)


def test_values_stay_within_the_bounds_or_the_images_own():
    speckled = degrade(grey(0.5), 0.5, rng(0))
    assert (speckled.min(), speckled.max()) == (-1, 1)
    reaching = grey(0.5)
    reaching[0, 0], reaching[0, 1] = -1.25, 1.5
    speckled = degrade(reaching, 0.5, rng(0))
    assert (speckled.min(), speckled.max()) == (-1.25, 1.5)


def test_one_pattern_grows_with_the_power():
    weak, strong = (degrade(grey(-0.5), power, rng(0)) + 0.5 for power in (0.01, 0.04))
    np.testing.assert_allclose(strong, 2 * weak, atol=1e-5)


def test_powers_are_uniform_in_decibels_between_their_ends():
    generator = rng(0)
    powers = np.array([draw_power((0.02, 0.2), generator) for _ in range(4000)])
    assert powers.min() >= 0.02 and powers.max() <= 0.2
    quartiles = 0.02 * 10 ** np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(np.quantile(powers, [0.25, 0.5, 0.75]), quartiles, rtol=0.08)
    assert draw_power((0.1, 0.1), generator) == pytest.approx(0.1)


@pytest.mark.parametrize("power", [-0.1, np.inf, np.nan])
def test_impossible_powers_are_refused(power):
    with pytest.raises(ValueError, match=r"speckle power .*: needs a finite number, 0 or more"):
        degrade(grey(0), power, rng(0))


@pytest.mark.parametrize("powers", [(0.0, 0.1), (0.2, 0.1), (0.1, np.inf), (np.nan, 0.1)])
def test_impossible_ranges_are_refused(powers):
    with pytest.raises(ValueError, match="give the least and the greatest"):
        draw_power(powers, rng(0))
