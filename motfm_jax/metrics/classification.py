"""Accuracy, F1 and confusion of predicted classes."""

from typing import NamedTuple

import numpy as np


class Classification(NamedTuple):
    """How well classes were predicted.

    Attributes:
      accuracy: share of right predictions.
      macro_f1: mean of f1 over the classes that have one.
      f1: [K], 2 TP / (2 TP + FP + FN); NaN for a class neither present nor predicted.
      confusion: [K, K] counts, row the actual class, column the predicted one.
    """

    accuracy: float
    macro_f1: float
    f1: np.ndarray
    confusion: np.ndarray


def classification(predicted: np.ndarray, actual: np.ndarray, num_classes: int) -> Classification:
    """Scores of predicted [N] against actual [N] classes, integers in 0 .. num_classes - 1.

    Raises:
      ValueError: shapes, no examples, other than integers, classes out of range.
    """
    predicted, actual = np.asarray(predicted), np.asarray(actual)
    if predicted.shape != actual.shape or predicted.ndim != 1 or not len(predicted):
        raise ValueError(
            f"predicted {predicted.shape} and actual {actual.shape}: needed one class an example, "
            "both [N] with N >= 1"
        )
    for name, classes in (("predicted", predicted), ("actual", actual)):
        if classes.dtype.kind not in "iu":
            raise ValueError(
                f"{name} classes are {classes.dtype}: needed integers; take the argmax of scores"
            )
        if classes.min() < 0 or classes.max() >= num_classes:
            raise ValueError(
                f"{name} classes run from {classes.min()} to {classes.max()}: needed 0 to "
                f"{num_classes - 1} for {num_classes} classes"
            )
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (actual, predicted), 1)
    right = np.diagonal(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.full(num_classes, np.nan)
    np.divide(2 * right, either, out=f1, where=either > 0)
    return Classification(float(right.sum() / len(actual)), float(np.nanmean(f1)), f1, confusion)
