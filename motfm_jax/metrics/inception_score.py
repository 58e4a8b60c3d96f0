"""Inception score: how sure a classifier is of each image, and how varied its answers are."""

import itertools
from typing import NamedTuple

import numpy as np
import scipy.special

from motfm_jax.metrics import checks


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits."""

    mean: float
    std: float
    num_splits: int


def inception_score(
    logits: np.ndarray, seed: int | None, num_splits: int = 10
) -> InceptionScore:
    """exp of the mean over images of KL(p(y|x) || p(y)), p(y) the mean of a split.

    From 1 (every image gets the same answer) to the number of classes. It knows no real image and
    rewards noise on grey images: a number to report, not to rank by.

    Args:
      logits: [N, K] of a classifier, before the softmax.
      seed: shuffles the images before they are split, because images sorted by class would leave
        little variety in a split; None keeps their order.
      num_splits: consecutive parts, scored one by one.

    Raises:
      ValueError: shape, values that are not finite, fewer images than splits.

    Source: Salimans et al. 2016, section 4, and its code (splits, standard deviation with N).
    """
    logits = checks.feature_rows("logits", logits, fewest=max(num_splits, 1))
    if num_splits < 1:
        raise ValueError(f"{num_splits} splits: needed at least 1")
    if seed is not None:
        logits = np.random.default_rng(seed).permutation(logits)
    log_given = scipy.special.log_softmax(logits, axis=1)
    bounds = np.arange(num_splits + 1) * len(logits) // num_splits
    scores = [_score(log_given[start:stop]) for start, stop in itertools.pairwise(bounds)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), num_splits)


def _score(log_given: np.ndarray) -> float:
    # log of the mean probability, without leaving the logarithm where it would underflow
    log_mean = scipy.special.logsumexp(log_given, axis=0) - np.log(len(log_given))
    divergences = (np.exp(log_given) * (log_given - log_mean)).sum(axis=1)
    return float(np.exp(divergences.mean()))
