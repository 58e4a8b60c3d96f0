"""What is measured of each image alone, or beside its own mask, partner or condition.

Every function gives {measure: [N]}; a score is the mean over the images that have a value.
"""

from collections.abc import Callable, Iterator

import numpy as np

from motfm_jax.evaluation.sets import ImageSet
from motfm_jax.metrics.diversity import mean_distances
from motfm_jax.metrics.overlap import boundary_f1, overlap
from motfm_jax.metrics.similarity import MS_SSIM_TAPS, MS_SSIM_WEIGHTS, ms_ssim, ssim

SSIM_SIDE = 11  # taps of its window
SIBLINGS = 16  # images of one condition that are compared with one another
GREY_LEVELS = 255.0


def similarities(images: ImageSet, reference: ImageSet) -> dict[str, np.ndarray]:
    """Structural similarity of image i from 0 to 1 and real image i (modulo M), and of image i and
    image i + 1 (the last and the first); what the size of the images allows."""
    side, dims = min(images.shape[1:-1]), len(images.shape) - 2
    smallest = MS_SSIM_TAPS[dims] * 2 ** (len(MS_SSIM_WEIGHTS[dims]) - 1)
    measures = {"ssim": ssim} if side >= SSIM_SIDE else {}
    if side >= smallest:
        measures["ms_ssim"] = ms_ssim
    between = list(measures)[-1:]
    values: dict[str, list[float]] = {
        name: [] for name in [*measures, *(f"{name}_between" for name in between)]
    }

    def add(name: str, suffix: str, image: np.ndarray, other: np.ndarray) -> None:
        values[name + suffix].append(float(measures[name](image[None], other[None], 1.0)[0]))

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
    return {name: np.array(listed) for name, listed in values.items()}


def _endless(images: ImageSet) -> Iterator[np.ndarray]:
    while True:
        yield from images.each()


def diversity(units: ImageSet, conditions: np.ndarray) -> np.ndarray:
    """Root mean square distance of each image, in grey levels, from the others of its condition.

    Args:
      units: images from 0 to 1.
      conditions: [N] of `ImageSet.conditions`.

    Returns:
      [N], NaN beyond the first 16 of a condition and where it has one image only.
    """
    sizes = np.bincount(conditions).clip(max=SIBLINGS)
    values = np.full(len(units), np.nan)
    waiting: dict[int, dict[int, np.ndarray]] = {}  # of groups that are not whole yet
    for row, (image, condition) in enumerate(zip(units.each(), conditions)):
        if sizes[condition] < 2:
            continue
        group = waiting.setdefault(condition, {})
        group[row] = image.copy()
        if len(group) == sizes[condition]:
            rows = np.stack(list(group.values())).reshape(len(group), -1)
            values[list(group)] = GREY_LEVELS * mean_distances(rows)
            del waiting[condition]
            sizes[condition] = 0
    return values


def diversity_of_rows(features: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """The same of features [N, F], in their unit."""
    values = np.full(len(features), np.nan)
    for condition in np.flatnonzero(np.bincount(conditions) > 1):
        rows = np.flatnonzero(conditions == condition)[:SIBLINGS]
        values[rows] = mean_distances(features[rows])
    return values


def faithfulness(
    images: ImageSet, segment: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """Agreement of a segmenter's labels with the masks that images belong to.

    Args:
      images: in the units of the data.
      segment: of `Features`.

    Returns:
      "faithful_dice" and "faithful_boundary_f1" (one pixel of tolerance), the mean over the
      structures that mask or labels hold; NaN where there are none. {} for images without masks,
      or with masks of floats.
    """
    if images.masks is None or len(images.masks.shape) == len(images.shape):
        return {}
    dice, boundary = np.full((2, len(images)), np.nan)
    row = 0
    for batch, masks in zip(images.batches(), images.masks.batches()):
        for predicted, mask in zip(segment(batch), masks):
            labels = [int(label) for label in np.union1d(predicted, mask) if label]
            if labels:
                dice[row] = overlap(predicted, mask, labels).dice.mean()
                boundary[row] = boundary_f1(predicted, mask, labels).mean()
            row += 1
    return {"faithful_dice": dice, "faithful_boundary_f1": boundary}
