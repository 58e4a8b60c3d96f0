"""How far a set of generated images is from real ones, beside how far other real images are.

A distance means little alone: with few images, or images this network sees little in, real ones
are not at 0 either. Every score therefore comes with the same score of real images that are not the
reference: the floor.
"""

from collections.abc import Callable

import numpy as np

from motfm_jax.metrics.density import intensity_density, wasserstein
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.kernel import kid, linear_mmd
from motfm_jax.metrics.moments import moments

GREY_LEVELS = 255.0


def score(
    images: np.ndarray,
    reference: np.ndarray,
    *,
    bounds: tuple[float, float],
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Distances of one set of images from the reference set.

    Args:
      images: [N, *S, C], generated, or real ones for the floor.
      reference: [M, *S, C], real, in the same units.
      bounds: intensities that grey levels 0 and 255 stand for; values beyond are clipped.
      features: images -> [N, F] of a trained network, for the Frechet and kernel distances; None
        leaves them out.
      seed: of the kernel distance's subsets and the density's sample.

    Returns:
      "density_w1", the Wasserstein distance of the intensities in grey levels; for volumes
      "linear_mmd", of intensities from 0 to 1; with features "frechet", "kernel" (KID with these
      features, mean over subsets) and "kernel_std".

    Raises:
      ValueError: fewer than two images, other shapes, values that are not finite.
    """
    low, high = bounds
    units = [np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
             for x in (images, reference)]  # fmt: skip
    densities = [intensity_density(each * GREY_LEVELS, seed) for each in units]
    scores = {"density_w1": wasserstein(*densities)}
    if images.ndim == 5:
        scores["linear_mmd"] = linear_mmd(*units)
    if features is not None:
        seen = [features(each) for each in (images, reference)]
        distance = kid(*seen, seed)
        scores["frechet"] = frechet_distance(*map(moments, seen)).distance
        scores |= {"kernel": distance.mean, "kernel_std": distance.std}
    return scores
