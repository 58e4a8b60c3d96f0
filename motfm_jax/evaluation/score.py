"""Distances of generated images from real ones, beside those of other real images (the floor).

A distance means little alone: with few images, or images this network sees little in, real ones
are not at 0 either. Every score therefore comes with the same score of real images that are not the
reference: the floor.

Images are read in batches and not kept; the features and spectra of all are.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data.intensity import Bound, Intensity, in_words
from motfm_jax.evaluation import each, tables
from motfm_jax.evaluation.intervals import DRAWS, SUFFIX, intervals
from motfm_jax.evaluation.published import Networks, compare
from motfm_jax.evaluation.seen import look, of_parts
from motfm_jax.evaluation.sets import ImageSet, Real, in_units, made_from
from motfm_jax.evaluation.spaces import Features, distances, spaces
from motfm_jax.features.weights import default_folder
from motfm_jax.io.folders import whole_file
from motfm_jax.metrics.density import density_of_batches, wasserstein
from motfm_jax.metrics.kernel import gaussian_mmd, linear_mmd, median_distance
from motfm_jax.metrics.texture import grain_width, speckle_contrast, spectrum_distance


class Options(NamedTuple):
    """How images are scored.

    Attributes:
      features: extractors of networks trained on this data; those of segmenters judge whether
        images follow their masks, too.
      networks: folder of the published networks; None for `weights.default_folder`.
      seed: of random choices.
      bootstrap: draws of patients and images for intervals, see `intervals`; 0 for none.
    """

    features: Features | Sequence[Features] | None = None
    networks: Path | None = None
    seed: int = 0
    bootstrap: int = DRAWS


class Scores(NamedTuple):
    """Generated images beside real ones.

    Attributes:
      generated: distance of the generated images from the reference, by measure, and its 95%
        interval, by "MEASURE_interval".
      real: the floor: the same of other real images.
      about: how they were measured: reference, floor, numbers of images, bounds, feature networks,
        hashes of published networks, draws for intervals.
      missing: published networks whose weights are not there.
    """

    generated: dict[str, Any]
    real: dict[str, Any]
    about: dict[str, Any]
    missing: tuple[str, ...] = ()

    def by_measure(self) -> dict[str, dict[str, Any]]:
        """{"frechet": {"generated": 2.9, "generated_interval": [2.6, 3.2], "real": 1.6, ..}, ..}.

        "real" is NaN where real images have no such measure."""
        measures: dict[str, dict[str, Any]] = {}
        for column, scores in (("generated", self.generated), ("real", self.real)):
            for name in self.generated:
                if not name.endswith(SUFFIX):
                    entry = measures.setdefault(name, {})
                    entry[column] = scores.get(name, math.nan)
                    if name + SUFFIX in scores:
                        entry[column + SUFFIX] = scores[name + SUFFIX]
        return measures

    def write(self, out: Path) -> None:
        """score.json, and score.md and score.csv with a row a measure, in a folder."""
        about = self.about
        rows = [
            {"images": "generated", **self.generated},
            {"images": f"real, {about['floor']}", **self.real},
        ]
        with whole_file(out / "score.json") as draft:
            draft.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
        low, high = about["bounds"]
        caption = (
            f"Against {about['num'][1]} real images ({about['reference']}), image i beside real "
            f"image i for the similarity; intensities from {in_words(low)} to {in_words(high)}"
        )
        if about["features"]:
            caption += f"; features of {' and '.join(about['features'])}"
        if any(name.endswith(SUFFIX) for name in self.generated):
            caption += "; in brackets 95% intervals over patients and generated images"
        measures = [
            {
                "measure": name,
                **{
                    title + end: values.get(column + end)
                    for column, title in (("generated", "generated"), ("real", rows[1]["images"]))
                    for end in ("", SUFFIX)
                },
            }
            for name, values in self.by_measure().items()
        ]
        for row in measures:
            for title, value in row.items():
                if isinstance(value, float) and math.isnan(value):
                    row[title] = None
        tables.Table(f"{caption}.", measures).write(out / "score")


DEFAULT = Options()


def score(
    images: ImageSet,
    reference: Real,
    floor: Real,
    intensity: Intensity,
    *,
    bounds: tuple[Bound, Bound],
    train_masks: np.ndarray | None = None,
    options: Options = DEFAULT,
) -> Scores:
    """Distances of generated images from real ones, beside the floor.

    Args:
      images: generated, in the units of the data.
      reference: real images to compare with, and their name.
      floor: other real images, and their name; as many as were generated are drawn from them.
      intensity: of the model.
      bounds: black and white, in the units of the data: the range of its training images.
      train_masks: [T, *S] of the model's training images, for "from_training_masks", the share of
        generated images that were made from one of them.
      options: see `Options`.

    Raises:
      ValueError: see `scorer`; draws below 0.
    """
    features, networks, seed, bootstrap = options
    if bootstrap < 0:
        raise ValueError(f"--bootstrap={bootstrap}: give the draws for intervals, 0 for none")
    others = np.sort(np.random.default_rng(seed).permutation(len(floor.arrays))[: len(images)])
    published = Networks(networks or default_folder(), len(images.shape) - 2)
    measure = scorer(
        in_units(reference.arrays, intensity),
        bounds=bounds,
        features=features,
        networks=published,
        seed=seed,
        bootstrap=bootstrap,
    )
    about = {
        "reference": reference.name,
        "floor": f"{len(others)} of {floor.name}",
        "num": [len(images), len(reference.arrays)],
        "bounds": bounds,
        "features": [space.name for space in spaces(features).values()],
        "networks": published.hashes,
        "bootstrap": bootstrap,
    }
    real = in_units(floor.arrays, intensity, rows=others)
    generated = measure(images)
    from_training = made_from(images, train_masks)
    if from_training is not None:
        generated["from_training_masks"] = float(from_training.mean())
    return Scores(generated, measure(real, floor=True), about, tuple(published.missing))


def scorer(
    reference: ImageSet,
    *,
    bounds: tuple[Bound, Bound],
    features: Features | Sequence[Features] | None = None,
    networks: Networks | None = None,
    seed: int = 0,
    bootstrap: int = 0,
) -> Callable[..., dict[str, Any]]:
    """Distances of sets of images from the reference set, whose features are computed once.

    Args:
      reference: M real images.
      bounds: intensities that grey levels 0 and 255 stand for, of several channels one each;
        values beyond are clipped.
      features: of trained networks; None leaves their measures out.
      networks: published ones, for `published.compare`.
      seed: of the kernel distance's subsets and the density's sample.
      bootstrap: draws for intervals; 0 for none.

    Returns:
      (a set in the reference's units, floor=whether it is of real images) -> scores:
      "density_w1", the Wasserstein distance of the intensities in grey levels; "spectrum_db", the
      distance of mean power spectra in decibels; "speckle_contrast" and "grain_width", see
      `metrics.texture`; "ssim", "ms_ssim", "ssim_between" or "ms_ssim_between", see
      `each.similarities`; "diversity" in grey levels, where several images have one mask and class,
      see `each.diversity`; for volumes "linear_mmd", of intensities from 0 to 1, and "pixel_mmd",
      with a Gaussian kernel on block means, its bandwidth the real ones' median distance; with
      features what `spaces.distances` gives, "diversity_features", and of a segmenter, where images
      have masks, what `each.faithfulness` gives (for the floor that of the reference, because the
      segmenter may have learned from other real images); with networks what `published.compare`
      gives. With bootstrap "MEASURE_interval" of what is measured image by image or in features.

    Raises (here or there):
      ValueError: fewer than two images, other shapes, values that are not finite.
    """
    named, real = spaces(features), to_units(reference, bounds)
    real_density = density(real, seed)
    volumes = len(real.shape) == 5
    if volumes:
        real_blocks = real.through(_block_means)
        bandwidth = median_distance(real_blocks, seed)
    real_published = networks.look(real, seed) if networks else None
    real_seen = look(reference, real, named, real_published)

    def score(images: ImageSet, floor: bool = False) -> dict[str, Any]:
        if floor:  # real images have masks of their own, which the segmenter may have learned
            images = dataclasses.replace(images, masks=None, labels=None)
        units = to_units(images, bounds)
        published = networks.look(units, seed) if networks else None
        seen = look(images, units, named, published)
        seen.values.update(
            {
                "speckle_contrast": units.through(speckle_contrast),
                "grain_width": units.through(grain_width),
                **each.similarities(units, real),
            }
        )
        beside = real_seen if floor else real_seen._replace(values={})
        scores = {
            "density_w1": wasserstein(density(units, seed), real_density),
            "spectrum_db": spectrum_distance(seen.spectra, real_seen.spectra),
            **beside.means(),
            **seen.means(),
            **distances(seen.features, real_seen.features, seed),
        }
        if volumes:
            scores["linear_mmd"] = linear_mmd(units.each(), real.each())
            scores["pixel_mmd"] = gaussian_mmd(units.through(_block_means), real_blocks, bandwidth)
        if published is not None and real_published is not None:
            scores |= compare(published, real_published, seed)
        belong = seen.units, beside.units
        return scores | intervals(scores, partial(of_parts, seen, beside), belong, bootstrap, seed)

    return score


def to_units(images: ImageSet, bounds: tuple[Bound, Bound]) -> ImageSet:
    """Intensities from 0 to 1 between the bounds; those beyond are clipped."""
    low, high = (np.asarray(bound, np.float32) for bound in bounds)
    return images.map(
        lambda batch: np.clip((np.asarray(batch, np.float32) - low) / (high - low), 0, 1)
    )


def density(units: ImageSet, seed: int) -> np.ndarray:
    """`density_of_batches` of images from 0 to 1."""
    grey = units.map(lambda batch: batch * each.GREY_LEVELS)
    return density_of_batches(grey.batches(), math.prod(grey.shape), seed)


def _block_means(volumes: np.ndarray) -> np.ndarray:
    """[N, D, H, W, C] -> [N, F], of the fewest equal blocks that leave at most 16 a side."""
    count, *size, channels = volumes.shape
    shape = [count]
    for side in size:
        blocks = max(each for each in range(1, min(side, 16) + 1) if side % each == 0)
        shape += [blocks, side // blocks]
    return volumes.reshape(*shape, channels).mean(axis=(2, 4, 6)).reshape(count, -1)
