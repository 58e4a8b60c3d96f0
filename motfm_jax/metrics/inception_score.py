"""Inception score: how sure a classifier is of each image, and how varied its answers are."""

from typing import NamedTuple

import numpy as np
import scipy.special

from motfm_jax.metrics import checks


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits."""

    mean: float
    std: float
    num_splits: int


class Answers(NamedTuple):
    """Sums over a classifier's answers; those of two sets add up field by field.

    Attributes:
      count: [splits] images.
      probability: [splits, K] sum of p(y|x).
      sureness: [splits] sum of the negative entropies, sum_y p(y|x) log p(y|x).
    """

    count: np.ndarray
    probability: np.ndarray
    sureness: np.ndarray


def inception_score(logits: np.ndarray, seed: int | None, num_splits: int = 10) -> InceptionScore:
    """exp of the mean over images of KL(p(y|x) || p(y)), p(y) the mean of a split.

    From 1 (every image gets the same answer) to the number of classes. It knows no real image and
    rewards noise on grey images: a number to report, not to rank by.

    Args:
      logits: [N, K] of a classifier, before the softmax.
      seed, num_splits: see `split_of_each`.

    Raises:
      ValueError: shape, values that are not finite, fewer images than splits.

    Source: Salimans et al. 2016, section 4, and its code (splits, standard deviation with N).
    """
    splits = split_of_each(len(logits), seed, num_splits)
    return score(answers(logits, splits, num_splits))


def split_of_each(num: int, seed: int | None, num_splits: int = 10) -> np.ndarray:
    """The split that each of `num` images belongs to, [num].

    Args:
      num: images.
      seed: shuffles the images before they are split, because images sorted by class would leave
        little variety in a split; None keeps their order.
      num_splits: consecutive parts, scored one by one.

    Raises:
      ValueError: no splits, or fewer images than splits.
    """
    if num_splits < 1:
        raise ValueError(f"{num_splits} splits: needed at least 1")
    if num < num_splits:
        raise ValueError(f"{num} images: {num_splits} splits need at least {num_splits}")
    order = np.arange(num) if seed is None else np.random.default_rng(seed).permutation(num)
    sizes = np.diff(np.arange(num_splits + 1) * num // num_splits)
    splits = np.empty(num, int)
    splits[order] = np.repeat(np.arange(num_splits), sizes)
    return splits


def answers(logits: np.ndarray, splits: np.ndarray, num_splits: int) -> Answers:
    """Answers of a batch.

    Args:
      logits: [n, K], before the softmax.
      splits: [n], the batch's part of `split_of_each`.
      num_splits: of it.

    Raises:
      ValueError: shape, values that are not finite.
    """
    logits = checks.feature_rows("logits", logits, fewest=1)
    log_given = scipy.special.log_softmax(logits, axis=1)
    given = np.exp(log_given)
    member = (splits == np.arange(num_splits)[:, None]).astype(np.float64)  # [splits, n]
    return Answers(member.sum(axis=1), member @ given, member @ (given * log_given).sum(axis=1))


def score(of: Answers) -> InceptionScore:
    """The mean divergence of a split is the entropy of its mean answer less their mean entropy."""
    mean = of.probability / of.count[:, None]
    divergences = of.sureness / of.count - scipy.special.xlogy(mean, mean).sum(axis=1)
    scores = np.exp(divergences)
    return InceptionScore(float(scores.mean()), float(scores.std()), len(scores))
