"""Texture: the radial power spectrum, and the contrast and grain of speckle. All of them see blur.

Structural similarity rewards blur, because the mean of many images is the safest guess at any.
These measures do not: they know nothing of where a structure is, only how fine an image is.
"""

from typing import Any

import numpy as np
import scipy.ndimage

from motfm_jax.metrics import checks

FAINTEST = 1e-8  # power of a ring; that of rounding to 256 grey levels is a hundred times more
WINDOW = 5  # pixels a side of the window in which speckle's contrast is taken
AROUND = 11  # of the window whose mean is taken off before the autocorrelation
BLACK = 0.05  # mean of a window from 0 to 1 below which it shows nothing


def power_spectrum(images: np.ndarray) -> np.ndarray:
    """Logarithm to base 10 of the power in each ring of frequencies, [N, *S, C] -> [N, R].

    A Hann window along each axis keeps the edges of the image out. The power is that of |FFT|^2
    over the window's energy: white noise of variance s^2 has log10(s^2) in every ring, up to the
    mean of logarithms of ring means. Ring r holds the frequencies nearest to r cycles over the
    shortest side, r = 1, ..., R, up to half a cycle a pixel; the mean is taken off first.

    Args:
      images: 2-D or 3-D, any real type, intensities on one scale, such as from 0 to 1.

    Raises:
      ValueError: shapes, or values that are not finite.

    Source: Durall et al., "Watch your up-convolution", CVPR 2020, section 3.2 (azimuthal mean).
    """
    images = _images(images)
    size, axes = images.shape[1:-1], tuple(range(1, images.ndim - 1))
    window = np.ones((*size, 1))
    for axis, side in enumerate(size):
        shape = np.ones(len(size) + 1, int)
        shape[axis] = side
        window = window * np.hanning(side + 2)[1:-1].reshape(shape)
    centred = images - images.mean(axis=axes, keepdims=True)
    power = np.abs(np.fft.fftn(centred * window, axes=axes)) ** 2 / (window**2).sum()
    frequencies = np.meshgrid(*(np.fft.fftfreq(side) for side in size), indexing="ij")
    ring = np.rint(min(size) * np.sqrt(np.sum(np.square(frequencies), axis=0))).astype(int).ravel()
    count = min(size) // 2
    member = ring == np.arange(1, count + 1)[:, None]  # [R, pixels]
    power = power.mean(axis=-1).reshape(len(images), -1)
    rings = power @ (member / member.sum(axis=1, keepdims=True)).T
    return np.log10(rings.clip(min=FAINTEST))


def spectrum_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Root mean square difference over rings of two sets' mean spectra, in decibels.

    Args:
      generated, real: [N, R] and [M, R] of `power_spectrum`.
    """
    checks.same_width(generated, real)
    return float(np.sqrt(np.mean((10 * (generated.mean(axis=0) - real.mean(axis=0))) ** 2)))


def speckle_contrast(images: np.ndarray) -> np.ndarray:
    """Local standard deviation over local mean, averaged over an image, [N, *S, C] -> [N].

    Windows are 5 pixels a side and lie in the imaged region: where no window has a mean below a
    twentieth of white, with a margin that keeps its edge out. 0 where none does. Fully developed
    speckle of raw envelopes has 0.52 (Rayleigh); compressed and resized scans have less, blurred
    ones less again.

    Args:
      images: intensities from 0 to 1, black at 0.

    Raises:
      ValueError: shapes, or values that are not finite.

    Source: Wagner et al., "Statistics of speckle in ultrasound B-scans", 1983.
    """
    images = _images(images)
    mean, square = (_window_mean(values, WINDOW) for values in (images, images**2))
    deviation = np.sqrt((square - mean**2).clip(min=0))
    counts = _imaged(images)
    ratio = np.divide(deviation, mean, out=np.zeros_like(mean), where=counts)
    return _per_image(ratio) / _per_image(counts).clip(min=1)


def grain_width(images: np.ndarray) -> np.ndarray:
    """Full width at half height of the autocorrelation, in pixels, [N, *S, C] -> [N].

    What is correlated is the image less its mean over 11 pixels a side, over that mean, in the
    imaged region (see `speckle_contrast`); along each axis, and then averaged. White noise has 1;
    blurred by a Gaussian of s pixels has 4 s sqrt(log 2) without the mean taken off, which
    makes it a tenth less at s = 1 and a fifth at s = 1.5. 0 where an image is flat.

    Args:
      images: intensities from 0 to 1, black at 0.

    Raises:
      ValueError: shapes, or values that are not finite.

    Source: Burckhardt, "Speckle in ultrasound B-mode scans", 1978 (the autocorrelation's width).
    """
    images = _images(images)
    counts = _imaged(images)
    share = _window_mean(counts.astype(float), AROUND)
    total = _window_mean(images * counts, AROUND)
    mean = np.divide(total, share, out=np.zeros_like(total), where=counts)
    grain = np.divide(images - mean, mean, out=np.zeros_like(mean), where=counts)
    variance = _per_image(grain**2) / _per_image(counts).clip(min=1)
    widths = [_half_width(grain, counts, variance, axis) for axis in range(1, images.ndim - 1)]
    return 2 * np.mean(widths, axis=0) * (variance > 0)


def _half_width(
    grain: np.ndarray, counts: np.ndarray, variance: np.ndarray, axis: int
) -> np.ndarray:
    """Lag at which the correlation along an axis falls to a half, between lags linearly, [N]."""
    side, before = grain.shape[axis], np.ones(len(grain))
    width = np.full(len(grain), np.nan)
    for lag in range(1, min(side, AROUND + 1)):
        first, second = np.arange(side - lag), np.arange(lag, side)
        pairs = [grain.take(rows, axis) for rows in (first, second)]
        both = counts.take(first, axis) & counts.take(second, axis)
        covariance = _per_image(pairs[0] * pairs[1]) / _per_image(both).clip(min=1)
        now = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0)
        crossed = np.isnan(width) & (now <= 0.5)
        step = np.divide(before - 0.5, before - now, out=np.zeros_like(now), where=before > now)
        width[crossed] = (lag - 1 + step)[crossed]
        before = now
    return np.where(np.isnan(width), min(side - 1, AROUND), width)


def _imaged(images: np.ndarray) -> np.ndarray:
    """Where an image shows something, with a margin, [N, *S, C] bool."""
    size = (1, *(2 * WINDOW - 1,) * (images.ndim - 2), 1)
    return scipy.ndimage.minimum_filter(_window_mean(images, WINDOW) > BLACK, size)


def _window_mean(images: np.ndarray, side: int) -> np.ndarray:
    size: Any = (1, *(min(side, extent) for extent in images.shape[1:-1]), 1)
    return scipy.ndimage.uniform_filter(images, size, mode="reflect")


def _per_image(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).sum(axis=1)


def _images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim not in (4, 5) or 0 in images.shape or min(images.shape[1:-1]) < 2:
        raise ValueError(f"images {images.shape}: needed [N, H, W, C] or [N, D, H, W, C]")
    checks.finite("images", images)
    return images.astype(np.float64)
