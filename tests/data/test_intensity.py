import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.data.intensity import Intensity

RNG = np.random.default_rng(0)
IMAGES = {
    "uint8": RNG.integers(3, 250, (5, 8, 8, 1)).astype(np.uint8),
    "int16": RNG.integers(-1000, 3000, (5, 8, 8, 1)).astype(np.int16),
    "float32": (RNG.standard_normal((5, 4, 4, 4, 1)) * 40 + 7).astype(np.float32),
}


@pytest.fixture(params=IMAGES)
def images(request):
    return IMAGES[request.param]


@pytest.mark.parametrize("mode", ["none", "minmax", "zscore"])
@pytest.mark.parametrize("scope", ["dataset", "sample"])
def test_dataset_scope_inverts_and_sample_scope_maps_to_the_medians(images, mode, scope):
    intensity = Intensity.fit(images, mode, scope, (-1, 1))
    scaled = intensity.apply(images[0])
    assert scaled.dtype == np.float32
    restored = intensity.invert(scaled)
    if scope == "dataset" or mode == "none":
        np.testing.assert_allclose(restored, images[0], atol=1e-3)
        if images.dtype != np.float32:
            np.testing.assert_array_equal(np.round(restored), images[0])
        return
    raw = images.reshape(len(images), -1).astype(np.float64)
    if mode == "minmax":
        expected = np.median(raw.min(1)), np.median(raw.max(1))
        np.testing.assert_allclose((restored.min(), restored.max()), expected, rtol=1e-4)
    else:
        mean, end = np.median(raw.mean(1)), np.median(raw.mean(1) + raw.std(1))
        np.testing.assert_allclose((restored.mean(), restored.std()), (mean, end - mean), rtol=1e-4)


def test_minmax_fills_the_range(images):
    intensity = Intensity.fit(images, "minmax", "dataset", (-1, 3))
    scaled = np.stack([intensity.apply(image) for image in images])
    np.testing.assert_allclose((scaled.min(), scaled.max()), (-1, 3), atol=1e-5)
    for image in images:
        own = Intensity.fit(images, "minmax", "sample", (-1, 3)).apply(image)
        np.testing.assert_allclose((own.min(), own.max()), (-1, 3), atol=1e-5)


def test_zscore_has_mean_0_and_deviation_1(images):
    intensity = Intensity.fit(images, "zscore")
    scaled = np.stack([intensity.apply(image) for image in images])
    np.testing.assert_allclose((scaled.mean(), scaled.std()), (0, 1), atol=1e-5)


@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (0, 100), (12.3, 77.7), (50, 50.1)])
def test_dataset_percentiles_are_those_of_all_values_together(images, percentiles):
    intensity = Intensity.fit(images, "percentile", "dataset", (0, 1), percentiles)
    expected = np.percentile(images.astype(np.float64), percentiles)
    np.testing.assert_allclose((intensity.low, intensity.high), expected, rtol=1e-6)


def test_percentiles_of_floats_are_exact_beside_an_outlier_and_around_zero():
    images = np.concatenate([-np.geomspace(1e-30, 1, 500), np.geomspace(1e-30, 1, 499), [1e30]])
    images = images.astype(np.float32).reshape(10, 10, 10, 1)
    intensity = Intensity.fit(images, "percentile", percentiles=(20, 80))
    expected = np.percentile(images.astype(np.float64), (20, 80))
    np.testing.assert_allclose((intensity.low, intensity.high), expected, rtol=1e-6)


def test_percentile_clips_and_inverts_only_inside(images):
    intensity = Intensity.fit(images, "percentile", "dataset", (-1, 1), (10, 90))
    image = images[0].astype(np.float32)
    scaled = intensity.apply(images[0])
    assert scaled.min() == -1 and scaled.max() == 1
    expected = np.clip(image, intensity.low, intensity.high)
    np.testing.assert_allclose(intensity.invert(scaled), expected, atol=1e-2)


def test_sample_percentiles_are_each_images_own(images):
    intensity = Intensity.fit(images, "percentile", "sample", (0, 1), (10, 90))
    low, high = np.percentile(images[2].astype(np.float64), (10, 90))
    expected = np.clip((images[2].astype(np.float64) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(intensity.apply(images[2]), expected, atol=1e-5)


def test_moments_survive_a_large_offset():
    images = (1e6 + np.random.default_rng(1).standard_normal((4, 16, 16, 1))).astype(np.float32)
    intensity = Intensity.fit(images, "zscore")
    np.testing.assert_allclose(intensity.low, images.astype(np.float64).mean(), rtol=1e-12)
    deviation = images.astype(np.float64).std()
    np.testing.assert_allclose(intensity.high - intensity.low, deviation, rtol=1e-8)


@pytest.mark.parametrize("mode", ["none", "minmax", "percentile", "zscore"])
@pytest.mark.parametrize("scope", ["dataset", "sample"])
def test_jax_arrays_give_the_same_inside_jit(images, mode, scope):
    intensity = Intensity.fit(images, mode, scope)
    scaled = jax.jit(intensity.apply)(jnp.asarray(images[1]))
    np.testing.assert_allclose(scaled, intensity.apply(images[1]), atol=1e-5)
    restored = jax.jit(intensity.invert)(scaled)
    np.testing.assert_allclose(restored, intensity.invert(intensity.apply(images[1])), atol=1e-2)


@pytest.mark.parametrize("mode", ["none", "minmax", "percentile", "zscore"])
def test_json_round_trip(images, mode):
    intensity = Intensity.fit(images, mode)
    assert Intensity.from_json(json.loads(json.dumps(intensity.to_json()))) == intensity


@pytest.mark.parametrize("mode", ["minmax", "percentile", "zscore"])
def test_a_constant_image_is_named(mode):
    images = [IMAGES["uint8"][0], np.full((8, 8, 1), 7, np.uint8)]
    with pytest.raises(ValueError, match="patient9: intensities from 7 to 7"):
        Intensity.fit(images, mode, "sample", names=["patient1", "patient9"])
    with pytest.raises(ValueError, match="patient9"):
        Intensity.fit(images[:1], mode, "sample").apply(images[1], "patient9")
    with pytest.raises(ValueError, match="training images together"):
        Intensity.fit(images[1:], mode)
    Intensity.fit(images, mode).apply(images[1])  # the data set as a whole is not constant


@pytest.mark.parametrize("mode", ["minmax", "percentile", "zscore"])
@pytest.mark.parametrize("scope", ["dataset", "sample"])
def test_differences_too_small_to_divide_by_are_refused(mode, scope):
    images = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1) * 1e-44
    with pytest.raises(ValueError, match="leave nothing to scale by"):
        Intensity.fit(images, mode, scope)


def of_channels(shape=(3, 4, 4)):
    """Three images of two channels; the second is 100 times the first, plus 7."""
    first = RNG.standard_normal(shape).astype(np.float32)
    return np.stack([first, 100 * first + 7], axis=-1)


@pytest.mark.parametrize("mode", ["minmax", "percentile", "zscore"])
@pytest.mark.parametrize("scope", ["dataset", "sample"])
def test_each_channel_has_its_own_scale(mode, scope):
    images = of_channels()
    intensity = Intensity.fit(images, mode, scope, percentiles=(10, 90))
    for channel in range(2):
        alone = Intensity.fit(images[..., channel, None], mode, scope, percentiles=(10, 90))
        np.testing.assert_allclose(
            (intensity.low[channel], intensity.high[channel]), (alone.low, alone.high), rtol=1e-5
        )
        scaled = intensity.apply(images[0])[..., channel, None]
        np.testing.assert_allclose(scaled, alone.apply(images[0][..., channel, None]), atol=1e-4)
    restored = jax.jit(intensity.invert)(jax.jit(intensity.apply)(images))
    if scope == "dataset" and mode != "percentile":
        np.testing.assert_allclose(restored, images, atol=1e-3)
    assert Intensity.from_json(json.loads(json.dumps(intensity.to_json()))) == intensity
    images[..., 1] = 255
    with pytest.raises(
        ValueError, match=r"of channel 2 of 2 from 255 to 255.*leave the channel out"
    ):
        Intensity.fit(images, mode, scope)


def test_runs_of_before_have_one_scale_for_all_channels():
    images = of_channels()
    shared = Intensity.fit(images, shared=True)
    assert (shared.low, shared.high) == (images.min(), images.max())
    np.testing.assert_allclose(shared.invert(shared.apply(images[0])), images[0], atol=1e-3)


def test_a_window_clips_and_is_undone():
    ct = np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(1, 5, 1)
    intensity = Intensity.of_window((-160, 240), (-1, 1))
    np.testing.assert_allclose(intensity.apply(ct).ravel(), [-1, -1, 0, 1, 1], atol=1e-6)
    restored = intensity.invert(intensity.apply(ct)).ravel()
    np.testing.assert_allclose(restored, [-160, -160, 40, 240, 240], atol=1e-4)
    assert intensity.span([ct]) == (-160, 240)


@pytest.mark.parametrize("mode", ["none", "minmax", "zscore"])
def test_the_span_is_the_range_of_the_images(mode):
    images = IMAGES["uint8"]
    low, high = Intensity.fit(images, mode).span(images)
    np.testing.assert_allclose((low, high), (images.min(), images.max()), atol=1e-4)
    low, high = Intensity.fit(of_channels(), "none").span(images := of_channels())
    np.testing.assert_allclose(low, images.min(axis=(0, 1, 2)))
    np.testing.assert_allclose(high, images.max(axis=(0, 1, 2)))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="intensity mode 'max'"):
        Intensity.fit(IMAGES["uint8"], "max")
