"""What scores are computed from, image by image; those of a part of the images follow from it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from motfm_jax.evaluation import each
from motfm_jax.evaluation.published import Seen as Published
from motfm_jax.evaluation.published import compare_rows
from motfm_jax.evaluation.sets import ImageSet
from motfm_jax.evaluation.spaces import Features, distances
from motfm_jax.metrics.texture import power_spectrum, spectrum_distance


class Seen(NamedTuple):
    """What the scores of a set are computed from, image by image.

    Attributes:
      values: [N] by measure; the score is their mean, without NaN.
      spectra: [N, R] of `power_spectrum`.
      features: [N, F] by ending of their space.
      published: [N, F] by layer of the published networks.
      units: [N], what each image belongs to in `intervals`.
    """

    values: dict[str, np.ndarray]
    spectra: np.ndarray
    features: dict[str, np.ndarray]
    published: dict[str, np.ndarray]
    units: Sequence

    def take(self, rows: np.ndarray) -> "Seen":
        values, features, published = (
            {name: array[rows] for name, array in arrays.items()}
            for arrays in (self.values, self.features, self.published)
        )
        return Seen(values, self.spectra[rows], features, published, ())

    def means(self) -> dict[str, float]:
        """The scores that are means over images."""
        known = {name: values[~np.isnan(values)] for name, values in self.values.items()}
        return {name: float(values.mean()) for name, values in known.items() if len(values)}


def look(
    images: ImageSet, units: ImageSet, named: Mapping[str, Features], published: Published | None
) -> Seen:
    """Looks at a set.

    Args:
      images, units: in the units of the data, and from 0 to 1.
      named: of `spaces.spaces`.
      published: of the published networks.

    Returns:
      Features and spectra, and as values "diversity" and "diversity_features" of generated images
      of which several have one condition, and what segmenters say of images with masks.
    """
    features = {ending: images.through(space.extract) for ending, space in named.items()}
    conditions, values = images.conditions(), {}
    if conditions is not None and not images.patients and np.bincount(conditions).max() > 1:
        values["diversity"] = each.diversity(units, conditions)
        for ending, rows in features.items():
            values[f"diversity_features{ending}"] = each.diversity_of_rows(rows, conditions)
    segmenters = sum(bool(space.segment) for space in named.values())
    for ending, space in named.items():
        if space.segment:
            values |= {
                name + ending * (segmenters > 1): found
                for name, found in each.faithfulness(images, space.segment).items()
            }
    groups = conditions if images.masks and conditions is not None else np.arange(len(images))
    return Seen(
        values,
        units.through(power_spectrum),
        features,
        published.rows if published else {},
        images.patients or groups,
    )


def of_parts(seen: Seen, real: Seen, rows: Sequence[np.ndarray]) -> dict[str, float]:
    """The scores of parts of both sets."""
    seen, real = seen.take(rows[0]), real.take(rows[1])
    return {
        "spectrum_db": spectrum_distance(seen.spectra, real.spectra),
        **real.means(),
        **seen.means(),
        **distances(seen.features, real.features, seed=None),
        **compare_rows(seen.published, real.published),
    }
