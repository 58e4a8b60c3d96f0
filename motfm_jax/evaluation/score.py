"""How far a set of generated images is from real ones, beside how far other real images are.

A distance means little alone: with few images, or images this network sees little in, real ones
are not at 0 either. Every score therefore comes with the same score of real images that are not the
reference: the floor.
"""

from collections.abc import Callable

import numpy as np

from motfm_jax.evaluation.published import Networks, compare
from motfm_jax.metrics.density import intensity_density, wasserstein
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.kernel import gaussian_mmd, kid, linear_mmd, median_distance
from motfm_jax.metrics.moments import moments
from motfm_jax.metrics.similarity import MS_SSIM_TAPS, MS_SSIM_WEIGHTS, ms_ssim, ssim

GREY_LEVELS = 255.0
SSIM_SIDE = 11  # taps of its window


def score(
    images: np.ndarray,
    reference: np.ndarray,
    *,
    bounds: tuple[float, float],
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    networks: Networks | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Distances of one set of images from the reference set.

    Args:
      images: [N, *S, C], generated, or real ones for the floor.
      reference: [M, *S, C], real, in the same units.
      bounds: intensities that grey levels 0 and 255 stand for; values beyond are clipped.
      features: images -> [N, F] of a trained network, for the Frechet and kernel distances; None
        leaves them out.
      networks: published ones, for `published.compare`.
      seed: of the kernel distance's subsets and the density's sample.

    Returns:
      "density_w1", the Wasserstein distance of the intensities in grey levels; "ssim", and where
      images are large enough "ms_ssim", mean structural similarity of image i and real image i
      (modulo M); "ssim_between" or "ms_ssim_between" of image i and image i + 1, the lower the more
      varied; for volumes "linear_mmd", of intensities from 0 to 1, and "pixel_mmd", with a Gaussian
      kernel on block means, its bandwidth the real ones' median distance; with features "frechet",
      "kernel" (KID with these features, mean over subsets) and "kernel_std"; with networks what
      `published.compare` gives.

    Raises:
      ValueError: fewer than two images, other shapes, values that are not finite.
    """
    low, high = bounds
    units = [np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
             for x in (images, reference)]  # fmt: skip
    densities = [intensity_density(each * GREY_LEVELS, seed) for each in units]
    scores = {"density_w1": wasserstein(*densities)}
    scores |= _similarities(*units)
    if images.ndim == 5:
        scores["linear_mmd"] = linear_mmd(*units)
        blocks = [_block_means(each) for each in units]
        scores["pixel_mmd"] = gaussian_mmd(*blocks, median_distance(blocks[1], seed))
    if features is not None:
        seen = [features(each) for each in (images, reference)]
        distance = kid(*seen, seed)
        scores["frechet"] = frechet_distance(*map(moments, seen)).distance
        scores |= {"kernel": distance.mean, "kernel_std": distance.std}
    if networks is not None:
        scores |= compare(*(networks.features(each) for each in units), seed)
    return scores


def _similarities(images: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Of images from 0 to 1: see `score`."""
    side, dims = min(images.shape[1:-1]), images.ndim - 2
    smallest = MS_SSIM_TAPS[dims] * 2 ** (len(MS_SSIM_WEIGHTS[dims]) - 1)
    measures = {"ssim": ssim} if side >= SSIM_SIDE else {}
    if side >= smallest:
        measures["ms_ssim"] = ms_ssim
    paired = reference[np.arange(len(images)) % len(reference)]
    scores = {name: float(measure(images, paired, 1.0).mean())
              for name, measure in measures.items()}  # fmt: skip
    for name, measure in list(measures.items())[-1:]:
        others = np.roll(images, -1, axis=0)
        scores[f"{name}_between"] = float(measure(images, others, 1.0).mean())
    return scores


def _block_means(volumes: np.ndarray) -> np.ndarray:
    """[N, D, H, W, C] -> [N, F], of the fewest equal blocks that leave at most 16 a side."""
    count, *size, channels = volumes.shape
    shape = [count]
    for side in size:
        blocks = max(each for each in range(1, min(side, 16) + 1) if side % each == 0)
        shape += [blocks, side // blocks]
    return volumes.reshape(*shape, channels).mean(axis=(2, 4, 6)).reshape(count, -1)
