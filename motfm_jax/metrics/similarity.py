"""Image against image: PSNR, SNR, SSIM and multi-scale SSIM, in float64, one number per pair.

All take two sets [B, *S, C] of equal shape, 2-D or 3-D, and a stated data range: the span of the
intensities that are possible, 2 for [-1, 1], 255 for bytes.
"""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage

from motfm_jax.metrics import checks

SIGMA = 1.5  # of the Gaussian window, in pixels
K1, K2 = 0.01, 0.03  # the stabilising constants, in parts of the data range
# Weights per scale and taps of the window: in 2-D of Wang et al. 2003, in 3-D of the original.
MS_SSIM_WEIGHTS = {2: (0.0448, 0.2856, 0.3001, 0.2363, 0.1333), 3: (0.1, 0.3, 0.6)}
MS_SSIM_TAPS = {2: 11, 3: 5}


def psnr(images: np.ndarray, references: np.ndarray, data_range: float) -> np.ndarray:
    """Peak signal-to-noise ratio, 10 log10(data_range^2 / mean squared difference).

    Returns:
      [B] decibels; infinite for equal images.

    Raises:
      ValueError: shapes, values that are not finite, references wider than the data range.
    """
    images, references = _pairs(images, references, data_range)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / _per_image_mean((images - references) ** 2))


def snr(images: np.ndarray, clean: np.ndarray, black: float) -> np.ndarray:
    """Signal-to-noise ratio, 10 log10(mean (clean - black)^2 / mean squared difference).

    The paper's SNR stands 9.74 below its PSNR, for noisy and denoised images alike, as a ratio to
    the clean images' own power does.

    Args:
      images: [B, *S, C], degraded or restored.
      clean: [B, *S, C].
      black: the intensity without signal, -1 for images in [-1, 1]; the number depends on it.

    Returns:
      [B] decibels; infinite for equal images.

    Raises:
      ValueError: shapes, values that are not finite, a clean image that is black throughout.
    """
    images, clean = checks.image_pairs(images, clean)
    images, clean = images.astype(np.float64), clean.astype(np.float64)
    power = _per_image_mean((clean - black) ** 2)
    if not power.all():
        raise ValueError(
            f"clean image {int(power.argmin())} is {black:g} throughout: without signal there is "
            "no ratio; is `black` right?"
        )
    with np.errstate(divide="ignore"):
        return 10 * np.log10(power / _per_image_mean((images - clean) ** 2))


def ssim(
    images: np.ndarray, references: np.ndarray, data_range: float, num_taps: int = 11
) -> np.ndarray:
    """Structural similarity, mean over all places where the whole window lies in the image.

    (2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx^2 + sy^2 + c2)) with means, variances
    (divided by N) and covariance under a Gaussian window. scikit-image and MONAI average over
    the same places; torchmetrics 1.9 also over mirrored borders, and so differs a little.

    Returns:
      [B], 1 for equal images, mean over channels.

    Raises:
      ValueError: shapes, values that are not finite, references wider than the data range, a side
        shorter than the window.

    Source: Wang, Bovik et al. 2004.
    """
    pairs = _pairs(images, references, data_range)
    _refuse_small(pairs[0].shape[1:-1], num_taps, num_scales=1)
    return np.array([_ssim_and_contrast(x, y, data_range, num_taps)[0] for x, y in zip(*pairs)])


def ms_ssim(
    images: np.ndarray,
    references: np.ndarray,
    data_range: float,
    weights: Sequence[float] | None = None,
    num_taps: int | None = None,
) -> np.ndarray:
    """Multi-scale structural similarity: product over scales of means to the power of weights.

    Each scale halves the image by averaging 2 x 2 (x 2); all but the last contribute the contrast
    and structure term alone, and negative means count as 0. By default five scales and 11 taps
    in 2-D (sides of 176 and more), and in 3-D the original's three scales and 5 taps (20 and more).
    As a measure of diversity, between generated images: the lower, the more varied.

    Returns:
      [B], 1 for equal images where the weights add up to 1.

    Raises:
      ValueError: as `ssim`; a side shorter than the window at the last scale.

    Source: Wang, Simoncelli, Bovik 2003; MONAI's compute_ms_ssim, as the original's 3-D evaluation.
    """
    pairs = _pairs(images, references, data_range)
    dimensions = pairs[0].ndim - 2
    weights = MS_SSIM_WEIGHTS[dimensions] if weights is None else tuple(weights)
    num_taps = MS_SSIM_TAPS[dimensions] if num_taps is None else num_taps
    _refuse_small(pairs[0].shape[1:-1], num_taps, len(weights))
    return np.array([_multiscale(x, y, data_range, weights, num_taps) for x, y in zip(*pairs)])


def _multiscale(
    x: np.ndarray, y: np.ndarray, data_range: float, weights: Sequence[float], num_taps: int
) -> float:
    product = 1.0
    for scale, weight in enumerate(weights):
        if scale > 0:
            x, y = _halve(x), _halve(y)
        whole, contrast = _ssim_and_contrast(x, y, data_range, num_taps)
        product *= max(whole if scale == len(weights) - 1 else contrast, 0.0) ** weight
    return product


def _ssim_and_contrast(
    x: np.ndarray, y: np.ndarray, data_range: float, num_taps: int
) -> tuple[float, float]:
    """Means of SSIM and of its contrast-structure factor over an image [*S, C]."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_x, mean_y = _windowed(x, num_taps), _windowed(y, num_taps)
    variance_x = _windowed(x * x, num_taps) - mean_x**2
    variance_y = _windowed(y * y, num_taps) - mean_y**2
    covariance = _windowed(x * y, num_taps) - mean_x * mean_y
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * contrast).mean()), float(contrast.mean())


def _windowed(image: np.ndarray, num_taps: int) -> np.ndarray:
    """Gaussian mean at every place where the window fits: [*S, C] -> [*(S - num_taps + 1), C]."""
    offsets = np.arange(num_taps) - (num_taps - 1) / 2
    window = np.exp(-((offsets / SIGMA) ** 2) / 2)
    window /= window.sum()
    edge = num_taps // 2
    for axis in range(image.ndim - 1):
        image = scipy.ndimage.correlate1d(image, window, axis)
        image = image.take(range(edge, image.shape[axis] - edge), axis)
    return image


def _halve(image: np.ndarray) -> np.ndarray:
    """Mean of two neighbours along every spatial axis; an odd last one is dropped."""
    for axis in range(image.ndim - 1):
        pairs = np.arange(image.shape[axis] // 2 * 2).reshape(-1, 2)
        image = (image.take(pairs[:, 0], axis) + image.take(pairs[:, 1], axis)) / 2
    return image


def _per_image_mean(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(axis=1)


def _pairs(
    images: np.ndarray, references: np.ndarray, data_range: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64."""
    images, references = checks.image_pairs(images, references)
    images, references = images.astype(np.float64), references.astype(np.float64)
    low, high = references.min(), references.max()
    if not (0 < data_range < np.inf and high - low <= data_range * 1.001):
        raise ValueError(
            f"data range {data_range}: the references run from {low:g} to {high:g}; needed the "
            "span of the intensities that are possible, 2 for [-1, 1]"
        )
    return images, references


def _refuse_small(size: tuple[int, ...], num_taps: int, num_scales: int) -> None:
    if num_scales < 1 or num_taps < 1 or num_taps % 2 == 0:
        raise ValueError(
            f"{num_scales} scales and {num_taps} taps: needed 1 scale or more and an odd number "
            "of taps"
        )
    smallest = num_taps * 2 ** (num_scales - 1)
    if min(size) < smallest:
        raise ValueError(
            f"images of {' x '.join(map(str, size))}: {num_taps} taps at {num_scales} scales need "
            f"sides of {smallest} and more; take fewer scales (weights) or fewer taps, and say so"
        )
