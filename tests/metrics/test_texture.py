"""Texture measures against closed forms of filtered noise; all of them see blur."""

import numpy as np
import pytest
import scipy.ndimage

from motfm_jax.metrics.texture import (
    grain_width,
    power_spectrum,
    speckle_contrast,
    spectrum_distance,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 1))


def blurred(images, sigma):
    return scipy.ndimage.gaussian_filter(images, (0, *(sigma,) * (images.ndim - 2), 0), mode="wrap")


def speckled(num, seed=0):
    """Envelopes of speckle, exponential in power, on a grey body between black edges."""
    real, imaginary = noise(num, 64, 64, seed=seed), noise(num, 64, 64, seed=seed + 1)
    body = np.zeros((1, 64, 64, 1))
    body[:, 8:-8, 8:-8] = 0.3
    return body * np.hypot(real, imaginary) / np.sqrt(np.pi / 2)


@pytest.mark.parametrize("shape", [(64, 48), (24, 28, 32)])
def test_white_noise_has_its_variance_in_every_ring(shape):
    spectra = power_spectrum(3 * noise(40, *shape))
    assert spectra.shape == (40, min(shape) // 2)
    np.testing.assert_allclose(10 ** spectra[:, 3:].mean(axis=0), 9, rtol=0.12)


def test_a_wave_lies_in_its_ring():
    wave = np.sin(2 * np.pi * 8 * np.arange(64) / 64)[None, :, None, None] * np.ones((1, 64, 48, 1))
    assert power_spectrum(wave)[0].argmax() + 1 == 6  # cycles over the shortest side, 48


def test_a_blur_lowers_the_rings_by_its_transfer_function():
    images, sigma = noise(60, 64, 64), 0.8
    fall = power_spectrum(blurred(images, sigma)).mean(axis=0) - power_spectrum(images).mean(axis=0)
    frequency = np.arange(1, 33) / 64
    expected = -((2 * np.pi * frequency * sigma) ** 2) / np.log(10)
    np.testing.assert_allclose(fall[4:24], expected[4:24], rtol=0.1, atol=0.05)


def test_the_distance_of_spectra_is_in_decibels_and_grows_with_blur():
    images = noise(20, 32, 32)
    louder = spectrum_distance(power_spectrum(10 * images), power_spectrum(images))
    assert louder == pytest.approx(20)
    distances = [
        spectrum_distance(power_spectrum(blurred(images, sigma)), power_spectrum(images))
        for sigma in (0.3, 0.6, 0.9)
    ]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_a_flat_image_has_the_faintest_power():
    assert (power_spectrum(np.ones((1, 16, 16, 1))) == -8).all()


def test_raw_speckle_has_rayleighs_contrast_and_blur_lowers_it():
    images = speckled(8)
    inside = images[:, 16:-16, 16:-16]
    assert speckle_contrast(inside).mean() == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.06)
    contrasts = [speckle_contrast(blurred(images, sigma)).mean() for sigma in (0, 0.5, 1, 2)]
    assert contrasts == sorted(contrasts, reverse=True)


def test_black_around_an_image_changes_nothing():
    images = speckled(8)[:, 8:-8, 8:-8]
    framed = np.pad(images, ((0, 0), (0, 64), (64, 0), (0, 0)))
    np.testing.assert_allclose(speckle_contrast(framed), speckle_contrast(images), rtol=0.08)
    np.testing.assert_allclose(grain_width(framed), grain_width(images), rtol=0.1)


def test_grain_is_as_wide_as_its_blur():
    images = 0.5 + 0.05 * noise(20, 64, 64)
    assert grain_width(images).mean() == pytest.approx(1, abs=0.03)
    for sigma, less in ((0.7, 0.06), (1.0, 0.1), (1.5, 0.2)):
        width = grain_width(0.5 + blurred(images - 0.5, sigma)).mean()
        assert width == pytest.approx((1 - less) * 4 * sigma * np.sqrt(np.log(2)), rel=0.03)
    volumes = 0.5 + 0.05 * noise(3, 16, 16, 16)
    assert grain_width(volumes).mean() < 0.7 * grain_width(0.5 + blurred(volumes - 0.5, 0.8)).mean()


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_flat_images_have_neither_contrast_nor_grain(value):
    flat = np.full((2, 16, 16, 1), value)
    assert (speckle_contrast(flat) == 0).all() and (grain_width(flat) == 0).all()


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"images \(4, 16\): needed \[N, H, W, C\]"):
        power_spectrum(np.zeros((4, 16)))
    with pytest.raises(ValueError, match="not finite"):
        grain_width(np.full((1, 8, 8, 1), np.nan))
