"""How far a set of generated images is from real ones, beside how far other real images are.

A distance means little alone: with few images, or images this network sees little in, real ones
are not at 0 either. Every score therefore comes with the same score of real images that are not the
reference: the floor.

Images are read in batches and not kept; a kernel distance keeps the features of all.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from motfm_jax.evaluation.published import Networks, compare
from motfm_jax.evaluation.sets import ImageSet
from motfm_jax.metrics.density import density_of_batches, wasserstein
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.kernel import gaussian_mmd, kid, linear_mmd, median_distance
from motfm_jax.metrics.moments import moments
from motfm_jax.metrics.similarity import MS_SSIM_TAPS, MS_SSIM_WEIGHTS, ms_ssim, ssim

GREY_LEVELS = 255.0
SSIM_SIDE = 11  # taps of its window


def scorer(
    reference: ImageSet,
    *,
    bounds: tuple[float, float],
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    networks: Networks | None = None,
    seed: int = 0,
) -> Callable[[ImageSet], dict[str, float]]:
    """Distances of sets of images from the reference set, whose features are computed once.

    Args:
      reference: M real images.
      bounds: intensities that grey levels 0 and 255 stand for; values beyond are clipped.
      features: a batch of images -> [n, F] of a trained network, for the Frechet and kernel
        distances; None leaves them out.
      networks: published ones, for `published.compare`.
      seed: of the kernel distance's subsets and the density's sample.

    Returns:
      a set in the reference's units, generated, or of real images for the floor -> scores:
      "density_w1", the Wasserstein distance of the intensities in grey levels; "ssim", and where
      images are large enough "ms_ssim", mean structural similarity of image i and real image i
      (modulo M); "ssim_between" or "ms_ssim_between" of image i and image i + 1, the lower the more
      varied; for volumes "linear_mmd", of intensities from 0 to 1, and "pixel_mmd", with a Gaussian
      kernel on block means, its bandwidth the real ones' median distance; with features "frechet",
      "kernel" (KID with these features, mean over subsets of 1,000 or of all there are) and
      "kernel_std"; with networks what `published.compare` gives.

    Raises (here or there):
      ValueError: fewer than two images, other shapes, values that are not finite.
    """
    real = to_units(reference, bounds)
    real_density = density(real, seed)
    volumes = len(real.shape) == 5
    if volumes:
        real_blocks = real.through(_block_means)
        bandwidth = median_distance(real_blocks, seed)
    if features is not None:
        real_seen = reference.through(features)
        real_moments = moments(real_seen)
    if networks is not None:
        real_published = networks.look(real, seed)

    def score(images: ImageSet) -> dict[str, float]:
        units = to_units(images, bounds)
        scores = {"density_w1": wasserstein(density(units, seed), real_density)}
        scores |= _similarities(units, real)
        if volumes:
            scores["linear_mmd"] = linear_mmd(units.each(), real.each())
            scores["pixel_mmd"] = gaussian_mmd(units.through(_block_means), real_blocks, bandwidth)
        if features is not None:
            seen = images.through(features)
            distance = kid(seen, real_seen, seed)
            scores["frechet"] = frechet_distance(moments(seen), real_moments).distance
            scores |= {"kernel": distance.mean, "kernel_std": distance.std}
        if networks is not None:
            scores |= compare(networks.look(units, seed), real_published, seed)
        return scores

    return score


def to_units(images: ImageSet, bounds: tuple[float, float]) -> ImageSet:
    """Intensities from 0 to 1 between the bounds; those beyond are clipped."""
    low, high = bounds
    return images.map(
        lambda batch: np.clip((np.asarray(batch, np.float32) - low) / (high - low), 0, 1)
    )


def density(units: ImageSet, seed: int) -> np.ndarray:
    """`intensity_density` of images from 0 to 1."""
    grey = units.map(lambda batch: batch * GREY_LEVELS)
    return density_of_batches(grey.batches(), math.prod(grey.shape), seed)


def _similarities(images: ImageSet, reference: ImageSet) -> dict[str, float]:
    """Of images from 0 to 1: see `score`."""
    side, dims = min(images.shape[1:-1]), len(images.shape) - 2
    smallest = MS_SSIM_TAPS[dims] * 2 ** (len(MS_SSIM_WEIGHTS[dims]) - 1)
    measures = {"ssim": ssim} if side >= SSIM_SIDE else {}
    if side >= smallest:
        measures["ms_ssim"] = ms_ssim
    between = list(measures)[-1:]
    sums = dict.fromkeys([*measures, *(f"{name}_between" for name in between)], 0.0)

    def add(name: str, suffix: str, image: np.ndarray, other: np.ndarray) -> None:
        sums[name + suffix] += float(measures[name](image[None], other[None], 1.0)[0])

    first = before = None
    for image, other in zip(images.each(), _endless(reference)):
        for name in measures:
            add(name, "", image, other)
        for name in between if before is not None else ():
            add(name, "_between", before, image)
        first = image if first is None else first
        before = image
    for name in between:
        add(name, "_between", before, first)
    return {name: total / len(images) for name, total in sums.items()}


def _endless(images: ImageSet) -> Iterator[np.ndarray]:
    while True:
        yield from images.each()


def _block_means(volumes: np.ndarray) -> np.ndarray:
    """[N, D, H, W, C] -> [N, F], of the fewest equal blocks that leave at most 16 a side."""
    count, *size, channels = volumes.shape
    shape = [count]
    for side in size:
        blocks = max(each for each in range(1, min(side, 16) + 1) if side % each == 0)
        shape += [blocks, side // blocks]
    return volumes.reshape(*shape, channels).mean(axis=(2, 4, 6)).reshape(count, -1)
