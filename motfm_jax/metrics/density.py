"""Density of image intensities, and the distance between two densities."""

from collections.abc import Iterable

import numpy as np
import scipy.stats

from motfm_jax.metrics import checks

GRID = np.arange(256.0)  # grey levels
NUM_VALUES = 100_000  # a density is estimated from at most so many


def density_of_batches(
    batches: Iterable[np.ndarray],
    total: int,
    seed: int,
    num_values: int = NUM_VALUES,
    grid: np.ndarray = GRID,
) -> np.ndarray:
    """Kernel density estimate of the intensities of all images, as in the paper's figure 3.

    The result does not depend on how the images are split into batches; only the values drawn are
    kept in memory. Scale all sets to 0-255 by the same map: a min-max of each image would hide a
    shift of brightness.

    Args:
      batches: [n, *S, C] in 0-255, any real type.
      total: values in all batches together.
      seed: of the draw without replacement if there are more than `num_values` values.
      grid: [G] grey levels.

    Returns:
      [G], per grey level. The kernel smooths a little of the mass beyond 0 and 255.

    Raises:
      ValueError: no values, not finite, outside 0-255, or all equal.

    Source: scipy.stats.gaussian_kde with Scott's bandwidth.
    """
    places = np.arange(min(total, num_values))
    if total > num_values:
        random = np.random.default_rng(seed)
        places = np.sort(random.choice(total, num_values, replace=False, shuffle=False))
    drawn, done, low, high = [], 0, np.inf, -np.inf
    for batch in batches:
        values = np.asarray(batch).reshape(-1)
        if not len(values):
            continue
        checks.finite("images", values)
        low, high = min(low, values.min()), max(high, values.max())
        first, last = np.searchsorted(places, (done, done + len(values)))
        drawn.append(values[places[first:last] - done].astype(np.float64))
        done += len(values)
    if done != total:
        raise ValueError(f"the batches hold {done} values, total={total}: they must agree")
    if not total:
        raise ValueError("the images hold no values")
    if low < 0 or high > 255:
        raise ValueError(
            f"intensities run from {low:g} to {high:g}: needed 0 to 255; scale the whole set by "
            "the range of its config, and clip"
        )
    if low == high:
        raise ValueError(f"every intensity is {low:g}: a density needs at least two values")
    return scipy.stats.gaussian_kde(np.concatenate(drawn))(grid)


def wasserstein(first: np.ndarray, second: np.ndarray, grid: np.ndarray = GRID) -> float:
    """Wasserstein-1 distance of two densities [G] on a grid, in grey levels.

    The mean distance intensities must move to turn one density into the other; a shift of all
    intensities by d grey levels is a distance of d.
    """
    _check(first, grid)
    _check(second, grid)
    return float(scipy.stats.wasserstein_distance(grid, grid, first, second))


def _check(density: np.ndarray, grid: np.ndarray) -> None:
    if density.shape != grid.shape or not np.isfinite(density).all() or density.min() < 0:
        raise ValueError(
            f"density {density.shape} on a grid {grid.shape}: needed a finite number >= 0 per level"
        )
