"""Scaling and its inverse: round trips, and what the statistics may depend on."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from motfm_jax.data.intensity import MODES, Intensity

SHAPE = (3, 4, 4, 1)  # three images
RANGES = st.tuples(st.floats(-100, 100), st.floats(0.1, 100)).map(lambda r: (r[0], r[0] + r[1]))
INTEGERS = st.sampled_from([np.uint8, np.int16, np.uint16]).flatmap(
    lambda dtype: arrays(dtype, SHAPE)
)
FLOATS = arrays(np.float32, SHAPE, elements=st.floats(-1e6, 1e6, width=32)).map(
    lambda images: np.rint(images * 8) / 8
)  # so that no two differ by nothing but rounding
IMAGES = st.one_of(INTEGERS, FLOATS)
# Percentiles never lie so close that a few values in between decide.
PERCENTILES = st.tuples(st.floats(0, 40), st.floats(60, 100))


def fitted(images, mode, scope="dataset", **options):
    """The scaling; an example in which nothing can be scaled is passed over."""
    try:
        return Intensity.fit(images, mode, scope, **options)
    except ValueError as error:
        if "leave nothing to scale" not in str(error):
            raise
        assume(False)


def tolerance(images, intensity):
    """Float32's rounding on the way there and back, in the images' units."""
    start, stop = intensity.range
    span = intensity.high - intensity.low
    reach = 1 + max(abs(start), abs(stop)) / (stop - start)
    largest = np.abs(images.astype(np.float64)).max() + abs(intensity.low)
    return 4 * np.finfo(np.float32).eps * (largest * reach + span * reach) + 1e-30


@pytest.mark.parametrize("mode", MODES)
@given(images=IMAGES, range=RANGES, percentiles=PERCENTILES)
def test_what_was_scaled_comes_back(mode, images, range, percentiles):
    intensity = fitted(images, mode, range=range, percentiles=percentiles)
    expected = images.astype(np.float64)
    if mode == "percentile":  # beyond them is clipped
        expected = expected.clip(intensity.low, intensity.high)
    restored = np.stack([intensity.invert(intensity.apply(image)) for image in images])
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, expected, rtol=0, atol=tolerance(images, intensity))


@pytest.mark.parametrize("mode", ["none", "minmax"])
@given(images=INTEGERS)
def test_integers_come_back_as_they_were(mode, images):
    intensity = fitted(images, mode)
    restored = np.stack([intensity.invert(intensity.apply(image)) for image in images])
    np.testing.assert_array_equal(np.rint(restored), images)


@pytest.mark.parametrize("scope", ["dataset", "sample"])
@pytest.mark.parametrize("mode", MODES)
@given(images=IMAGES, range=RANGES, percentiles=PERCENTILES)
def test_brighter_stays_brighter_and_within_the_range(mode, scope, images, range, percentiles):
    intensity = fitted(images, mode, scope, range=range, percentiles=percentiles)
    for image in images:
        scaled = intensity.apply(image).ravel()
        assert (np.diff(scaled[np.argsort(image.ravel(), kind="stable")]) >= 0).all()
        if mode in ("minmax", "percentile"):
            near = 1e-4 * (np.abs(range).max() + 1)
            if mode == "minmax" and image.dtype == np.float32:  # cancellation beside a large offset
                near += (
                    1e-5
                    * np.abs(image).max()
                    * (range[1] - range[0])
                    / (intensity.high - intensity.low if scope == "dataset" else np.ptp(image))
                )
            assert scaled.min() >= range[0] - near and scaled.max() <= range[1] + near


@pytest.mark.parametrize("mode", MODES)
@given(images=IMAGES, percentiles=PERCENTILES, order=st.permutations([0, 1, 2]))
def test_the_order_of_the_images_and_json_change_nothing(mode, images, percentiles, order):
    intensity = fitted(images, mode, percentiles=percentiles)
    assert Intensity.from_json(json.loads(json.dumps(intensity.to_json()))) == intensity
    again = Intensity.fit(images[list(order)], mode, percentiles=percentiles)
    close = dict(rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose((again.low, again.high), (intensity.low, intensity.high), **close)


@pytest.mark.parametrize("mode", ["minmax", "percentile", "zscore"])
@given(
    images=INTEGERS,
    slope=st.integers(1, 16),
    offset=st.integers(-1000, 1000),
    percentiles=PERCENTILES,
)
def test_units_do_not_matter(mode, images, slope, offset, percentiles):
    """Images in other units (slope x + offset) are scaled to the same."""
    scaled = fitted(images, mode, percentiles=percentiles).apply(images)
    other = images.astype(np.int32) * slope + offset
    again = Intensity.fit(other, mode, percentiles=percentiles).apply(other)
    span = np.ptp(images.astype(np.float64))
    largest = np.abs(other).max() / slope + span
    np.testing.assert_allclose(again, scaled, rtol=1e-4, atol=1e-5 * largest / max(span, 1) + 1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int32, np.float32])
@given(data=st.data(), percentiles=PERCENTILES)
def test_percentiles_of_all_images_are_numpys(dtype, data, percentiles):
    finite = dict(allow_nan=False, allow_infinity=False, width=32)
    elements = st.floats(**finite) if dtype == np.float32 else None
    images = data.draw(arrays(dtype, SHAPE, elements=elements))
    expected = np.percentile(images.astype(np.float64), percentiles)
    assume(expected[1] - expected[0] > np.finfo(np.float32).tiny)  # less is refused
    intensity = Intensity.fit(images, "percentile", percentiles=percentiles)
    close = 1e-12 * np.abs(images.astype(np.float64)).max()  # between two values
    np.testing.assert_allclose((intensity.low, intensity.high), expected, rtol=1e-9, atol=close)
