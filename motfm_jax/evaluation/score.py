"""Distances of generated images from real ones, beside those of other real images (the floor).

A distance means little alone: with few images, or images this network sees little in, real ones
are not at 0 either. Every score therefore comes with the same score of real images that are not the
reference: the floor.

Images are read in batches and not kept; a kernel distance keeps the features of all.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data.intensity import Bound, Intensity, in_words
from motfm_jax.evaluation import tables
from motfm_jax.evaluation.published import Networks, compare
from motfm_jax.evaluation.sets import ImageSet, Real, in_units
from motfm_jax.features.weights import default_folder
from motfm_jax.io.folders import whole_file
from motfm_jax.metrics.density import density_of_batches, wasserstein
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.kernel import gaussian_mmd, kid, linear_mmd, median_distance
from motfm_jax.metrics.moments import moments
from motfm_jax.metrics.similarity import MS_SSIM_TAPS, MS_SSIM_WEIGHTS, ms_ssim, ssim

GREY_LEVELS = 255.0
SSIM_SIDE = 11  # taps of its window


class Features(NamedTuple):
    """A feature extractor.

    Attributes:
      name: for reports, such as "resnet18 classify".
      extract: a batch of images [n, *S, C], in the units of the data -> [n, F].
    """

    name: str
    extract: Callable[[np.ndarray], np.ndarray]


class Scores(NamedTuple):
    """Generated images beside real ones.

    Attributes:
      generated: distance of the generated images from the reference, by measure.
      real: the floor: the same of other real images.
      about: how they were measured: reference, floor, numbers of images, bounds, feature network,
        hashes of published networks.
      missing: published networks whose weights are not there.
    """

    generated: dict[str, float]
    real: dict[str, float]
    about: dict[str, Any]
    missing: tuple[str, ...] = ()

    def by_measure(self) -> dict[str, dict[str, float]]:
        """{"frechet": {"generated": 2.9, "real": 1.6}, ...}."""
        return {
            name: {"generated": number, "real": self.real.get(name, math.nan)}
            for name, number in self.generated.items()
        }

    def write(self, out: Path) -> None:
        """score.json, score.md and score.csv in a folder."""
        about = self.about
        rows = [
            {"images": "generated", **self.generated},
            {"images": f"real, {about['floor']}", **self.real},
        ]
        with whole_file(out / "score.json") as draft:
            draft.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
        low, high = about["bounds"]
        features = f"; frechet and kernel in the features of {about['features']}"
        tables.Table(
            f"Against {about['num'][1]} real images ({about['reference']}), image i beside real "
            f"image i for the similarity; intensities from {in_words(low)} to {in_words(high)}"
            f"{features * bool(about['features'])}.",
            rows,
        ).write(out / "score")


def score(
    images: ImageSet,
    reference: Real,
    floor: Real,
    intensity: Intensity,
    *,
    bounds: tuple[Bound, Bound],
    features: Features | None = None,
    networks: Path | None = None,
    seed: int = 0,
) -> Scores:
    """Distances of generated images from real ones, beside the floor.

    Args:
      images: generated, in the units of the data.
      reference: real images to compare with, and their name.
      floor: other real images, and their name; as many as were generated are drawn from them.
      intensity: of the model.
      bounds: black and white, in the units of the data: the range of its training images.
      features: of a network trained on this data, for the Frechet and kernel distances.
      networks: folder of the published networks; None for `weights.default_folder`.
      seed: of random choices.

    Raises:
      ValueError: see `scorer`.
    """
    others = np.sort(np.random.default_rng(seed).permutation(len(floor.arrays))[: len(images)])
    published = Networks(networks or default_folder(), len(images.shape) - 2)
    measure = scorer(
        in_units(reference.arrays, intensity),
        bounds=bounds,
        features=features and features.extract,
        networks=published,
        seed=seed,
    )
    about = {
        "reference": reference.name,
        "floor": f"{len(others)} of {floor.name}",
        "num": [len(images), len(reference.arrays)],
        "bounds": bounds,
        "features": features.name if features else "",
        "networks": published.hashes,
    }
    real = in_units(floor.arrays, intensity, rows=others)
    return Scores(measure(images), measure(real), about, tuple(published.missing))


def scorer(
    reference: ImageSet,
    *,
    bounds: tuple[Bound, Bound],
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    networks: Networks | None = None,
    seed: int = 0,
) -> Callable[[ImageSet], dict[str, float]]:
    """Distances of sets of images from the reference set, whose features are computed once.

    Args:
      reference: M real images.
      bounds: intensities that grey levels 0 and 255 stand for, of several channels one each;
        values beyond are clipped.
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
            scores["frechet"] = frechet_distance(moments(seen), real_moments)
            scores |= {"kernel": distance.mean, "kernel_std": distance.std}
        if networks is not None:
            scores |= compare(networks.look(units, seed), real_published, seed)
        return scores

    return score


def to_units(images: ImageSet, bounds: tuple[Bound, Bound]) -> ImageSet:
    """Intensities from 0 to 1 between the bounds; those beyond are clipped."""
    low, high = (np.asarray(bound, np.float32) for bound in bounds)
    return images.map(
        lambda batch: np.clip((np.asarray(batch, np.float32) - low) / (high - low), 0, 1)
    )


def density(units: ImageSet, seed: int) -> np.ndarray:
    """`density_of_batches` of images from 0 to 1."""
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
