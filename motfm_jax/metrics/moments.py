"""Mean and covariance of features, batch by batch, in float64 and constant memory."""

from typing import NamedTuple

import numpy as np

from motfm_jax.metrics import checks


class Moments(NamedTuple):
    """Mean and scatter of a set of feature vectors.

    Attributes:
      count: number of vectors.
      mean: [F] float64.
      scatter: [F, F] float64, sum of (x - mean) (x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Moments of features [N, F], N >= 1, any real type.

    Raises:
      ValueError: another shape, no rows, or not finite.
    """
    features = checks.feature_rows("features", features, fewest=1)
    mean = features.mean(axis=0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of two sets together, in any order.

    With d the difference of the means, the scatters add up with d d^T n m / (n + m).

    Raises:
      ValueError: different numbers of features.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.
    """
    checks.same_width(first.mean, second.mean)
    count = first.count + second.count
    difference = second.mean - first.mean
    mean = first.mean + difference * (second.count / count)
    between = np.outer(difference, difference) * (first.count * second.count / count)
    return Moments(count, mean, first.scatter + second.scatter + between)


def covariance(of: Moments) -> np.ndarray:
    """Sample covariance [F, F], scatter / (count - 1); ValueError below two vectors."""
    if of.count < 2:
        raise ValueError(f"a covariance needs at least 2 feature vectors, got {of.count}")
    return of.scatter / (of.count - 1)
