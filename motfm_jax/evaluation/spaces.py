"""Distances of image sets in the features of networks that were trained on this data."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from motfm_jax.metrics.frechet import frechet_distance, frechet_of_rows
from motfm_jax.metrics.kernel import cubic_mmd, kid
from motfm_jax.metrics.manifold import NEIGHBOURS, manifold
from motfm_jax.metrics.moments import moments


class Features(NamedTuple):
    """A feature extractor.

    Attributes:
      name: for reports, such as "resnet18 classify".
      extract: a batch of images [n, *S, C], in the units of the data -> [n, F].
      segment: of a segmenter: a batch of images -> their labels [n, *S]; else None.
    """

    name: str
    extract: Callable[[np.ndarray], np.ndarray]
    segment: Callable[[np.ndarray], np.ndarray] | None = None


def spaces(features: Features | Sequence[Features] | None) -> dict[str, Features]:
    """Extractors by the ending of their measures: "" for one alone, "_resnet18_classify", .. ."""
    several = [features] if isinstance(features, Features) else list(features or ())
    if len(several) == 1:
        return {"": several[0]}
    named: dict[str, Features] = {}
    for each in several:
        ending = plain = "_" + re.sub(r"\W+", "_", each.name)
        while ending in named:  # networks of one kind are numbered
            ending = f"{plain}_{len(named) + 1}"
        named[ending] = each
    return named


def distances(
    generated: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray], seed: int | None
) -> dict[str, float]:
    """Of two sets of images in each space.

    Args:
      generated, real: ending of a space -> features, [N, F] and [M, F].
      seed: of the subsets of "kernel"; None takes all images at once, as intervals do.

    Returns:
      "frechet"; "kernel" (KID with these features, mean over subsets of 1,000 or of all there are)
      and, with a seed, "kernel_std"; and where both sets have more than 5 images "precision",
      "recall", "density" and "coverage"; each with the ending of its space.
    """
    scores = {}
    for ending in generated:
        sets = generated[ending], real[ending]
        if seed is None:  # cheaper for parts of the images
            scores[f"frechet{ending}"] = frechet_of_rows(*sets)
            scores[f"kernel{ending}"] = cubic_mmd(*sets)
        else:
            kernel = kid(*sets, seed)
            scores[f"frechet{ending}"] = frechet_distance(*map(moments, sets))
            scores |= {f"kernel{ending}": kernel.mean, f"kernel{ending}_std": kernel.std}
        scores |= _manifold(*sets, ending)
    return scores


def _manifold(generated: np.ndarray, real: np.ndarray, ending: str) -> dict[str, float]:
    if min(len(generated), len(real)) <= NEIGHBOURS:
        return {}
    found = manifold(generated, real)._asdict()
    return {f"{name}{ending}": value for name, value in found.items()}
