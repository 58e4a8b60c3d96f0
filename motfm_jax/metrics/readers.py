"""Statistics of readers who tell real images from generated ones."""

import math
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # of a two-sided 95% interval


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def wilson(successes: float, trials: int) -> Estimate:
    """A share with the score interval of Wilson 1927; NaN of no trials. Successes may be a mean
    over readers, which scipy's `binomtest` does not take."""
    if not trials:
        return Estimate(math.nan, math.nan, math.nan)
    share, z2 = successes / trials, Z**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    return Estimate(share, low, 1.0 if successes == trials else min(centre + half, 1.0))


def area(negatives: np.ndarray, positives: np.ndarray) -> Estimate:
    """Area under the ROC curve: the share of pairs whose positive has the higher rating; ties count
    a half.

    Args:
      negatives, positives: ratings [N] and [M].

    Returns:
      With the interval of DeLong et al. 1988, which is too narrow for few ratings and areas near 1;
      NaN where one side is empty, and a NaN interval where nothing varies.
    """
    negatives, positives = (np.asarray(each, float) for each in (negatives, positives))
    if not (len(negatives) and len(positives)):
        return Estimate(math.nan, math.nan, math.nan)
    wins = np.sign(positives[:, None] - negatives[None]) / 2 + 0.5
    value = float(wins.mean())
    if min(wins.shape) < 2 or np.ptp(wins) == 0:
        return Estimate(value, math.nan, math.nan)
    half = Z * math.sqrt(
        sum(np.var(wins.mean(axis), ddof=1) / wins.shape[1 - axis] for axis in (0, 1))
    )
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))


def fleiss_kappa(counts: np.ndarray) -> float:
    """Agreement of several readers beyond chance: 1 perfect, 0 as by chance.

    Args:
      counts: [N, K], how many readers put image n into category k; rows of one sum.

    Returns:
      NaN for one reader, and where all gave one answer to everything: they agree by chance.

    Source: Fleiss, "Measuring nominal scale agreement among many raters", 1971.
    """
    counts = np.asarray(counts, float)
    readers = counts[0].sum()
    shares = counts.sum(axis=0) / counts.sum()
    by_chance = float(np.square(shares).sum())
    if readers < 2 or by_chance == 1:
        return math.nan
    agreeing = (np.square(counts).sum(axis=1) - readers) / (readers * (readers - 1))
    return (float(agreeing.mean()) - by_chance) / (1 - by_chance)
