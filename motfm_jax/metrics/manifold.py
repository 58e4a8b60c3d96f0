"""Precision, recall, density and coverage: fidelity and diversity apart, by nearest neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from motfm_jax.metrics import checks

NEIGHBOURS = 5
ROWS = 1024  # of a matrix of distances held at once


class Manifold(NamedTuple):
    """Of generated images against real ones. The ball of an image reaches to its k-th neighbour.

    Attributes:
      precision: share of generated images inside a ball of a real one, 0 to 1.
      recall: share of real images inside a ball of a generated one, 0 to 1.
      density: real balls around a generated image, over k; near 1 where the sets agree, and above
        where generated images crowd where real ones are dense.
      coverage: share of real balls with a generated image in them, 0 to 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(generated: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> Manifold:
    """Compares two sets of features by the balls of their nearest neighbours.

    All four depend on the numbers of images: compare systems at equal N and M, beside the floor.

    Args:
      generated: [N, F] features.
      real: [M, F].
      k: neighbours, the image itself not counted.

    Raises:
      ValueError: shapes, values that are not finite, sets of k images or fewer, k below 1.

    Source: Kynkaanniemi et al., "Improved precision and recall metric", 2019, equations 1 and 2;
    Naeem et al., "Reliable fidelity and diversity metrics", 2020, equations 4 and 6; strict
    inequalities as in its package prdc.
    """
    if k < 1:
        raise ValueError(f"k={k}: at least 1 neighbour needed")
    generated, real = checks.two_feature_sets(generated, real, fewest=k + 1)
    of_real, of_generated = _radii(real, k), _radii(generated, k)
    precise = inside = 0
    nearest, recalled = np.full(len(real), np.inf), np.zeros(len(real), bool)
    for rows, squared in _squared_distances(generated, real):
        within = squared < of_real
        precise += within.any(axis=1).sum()
        inside += within.sum()
        recalled |= (squared < of_generated[rows, None]).any(axis=0)
        nearest = np.minimum(nearest, squared.min(axis=0))
    return Manifold(
        float(precise / len(generated)),
        float(recalled.mean()),
        float(inside / (k * len(generated))),
        float((nearest < of_real).mean()),
    )


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th neighbour, itself not counted, [N]."""
    parts = []
    for own, squared in _squared_distances(rows, rows):
        squared[np.arange(len(squared)), np.arange(own.start, own.stop)] = 0  # of itself, exactly
        parts.append(np.partition(squared, k, axis=1)[:, k])
    return np.concatenate(parts)


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks [n, M] of all distances, and which rows they belong to."""
    centre = columns.mean(axis=0)  # differences of squares lose least near the origin
    rows, columns = rows - centre, columns - centre
    lengths = (columns**2).sum(axis=1)
    for start in range(0, len(rows), ROWS):
        block = rows[start : start + ROWS]
        squared = (block**2).sum(axis=1)[:, None] + lengths - 2 * block @ columns.T
        yield slice(start, start + len(block)), squared.clip(min=0)
