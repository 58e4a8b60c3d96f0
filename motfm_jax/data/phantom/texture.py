"""Random textures of the phantoms: smooth fields, ultrasound speckle, Rician noise."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter


def smooth_field(
    rng: np.random.Generator,
    axes: Sequence[np.ndarray],
    wavelength: float,
    num_waves: int = 16,
) -> np.ndarray:
    """A Gaussian-like random field of one scale: a sum of plane waves of random direction.

    Each wave is a product over the axes, so the sum is one matrix product, whatever the size;
    the field is the same function of position on every grid.

    Args:
      rng: source of directions and phases.
      axes: 1-D coordinates of each axis, in the unit of `wavelength`.
      wavelength: mean distance between crests; single waves vary by about 15%.
      num_waves: number of waves.

    Returns:
      [len(axis), ...] float32, mean 0, variance 1.
    """
    direction = rng.normal(size=(num_waves, len(axes)))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    number = 2 * np.pi / wavelength * (1 + 0.15 * rng.normal(size=(num_waves, 1)))
    vectors = direction * number
    product = np.exp(2j * np.pi * rng.random((num_waves, 1)))
    for axis, component in zip(axes[:-1], vectors.T, strict=False):
        wave = np.exp(1j * component[:, None] * axis)
        product = (product[:, :, None] * wave[:, None, :]).reshape(num_waves, -1)
    last = np.exp(1j * vectors[:, -1:] * axes[-1])
    field = product.T.astype(np.complex64) @ last.astype(np.complex64)
    shape = tuple(len(axis) for axis in axes)
    return field.real.reshape(shape) * np.float32(np.sqrt(2 / num_waves))


def speckle(
    rng: np.random.Generator,
    amplitude: np.ndarray,
    point_spread: tuple[float, float],
) -> np.ndarray:
    """Envelope of fully developed speckle.

    Many scatterers a resolution cell add up to a circular complex Gaussian; it is weighted by the
    local echo amplitude, blurred by a Gaussian point-spread function and demodulated. Where the
    amplitude is constant the envelope is Rayleigh distributed: standard deviation over mean
    sqrt(4 / pi - 1) = 0.5227.

    Args:
      rng: source of scatterers.
      amplitude: [R, T] root-mean-square echo of the tissue; rows are depth, columns beams.
      point_spread: standard deviations (axial, lateral) in samples.

    Returns:
      [R, T] float32, with mean square `amplitude`**2 where that is constant.

    Source: Burckhardt 1978, "Speckle in ultrasound B-mode scans", IEEE Trans. SU 25(1).
    """
    scatterers = rng.standard_normal((2, *amplitude.shape), dtype=np.float32) * amplitude
    blurred = gaussian_filter(scatterers, (0, *point_spread), mode="wrap", truncate=3)
    kernel_energy = np.prod([_energy(sigma) for sigma in point_spread])
    return np.hypot(*blurred) / np.float32(np.sqrt(2 * kernel_energy))


def _energy(sigma: float) -> float:
    """Sum of squares of the sampled unit-sum Gaussian that `speckle` blurs with."""
    impulse = np.zeros(2 * int(3 * sigma + 0.5) + 1)
    impulse[len(impulse) // 2] = 1
    return float(np.sum(gaussian_filter(impulse, sigma, mode="constant", truncate=3) ** 2))


def rician(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of an image with complex Gaussian noise: [*S] float32 -> [*S] float32.

    Source: Gudbjartsson and Patz 1995, "The Rician distribution of noisy MRI data", MRM 34(6).
    """
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(image + noise[0], noise[1])
