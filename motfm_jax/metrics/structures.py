"""Label maps to the size, the shape and the neighbours of each structure."""

from collections.abc import Iterable
from math import gamma, pi
from typing import NamedTuple

import numpy as np
import scipy.ndimage


class Structures(NamedTuple):
    """Of N label maps with labels 0 (background) .. L, all on one grid, in voxels.

    Attributes:
      size: [N, L], share of the map that labels 1 .. L have.
      compactness: [N, L], see `compactness`; NaN where the label is absent.
      eccentricity: [N, L], see `eccentricity`; likewise.
      pieces: [N, L], connected components; voxels that share a corner are connected.
      borders: [N, L + 1, L + 1], row a, column b: which share of a's border, the faces between its
        voxels and those of other labels, it has with b. 0 where a has no border.
    """

    size: np.ndarray
    compactness: np.ndarray
    eccentricity: np.ndarray
    pieces: np.ndarray
    borders: np.ndarray


def structures(masks: Iterable[np.ndarray], num_labels: int) -> Structures:
    """The structures of label maps [*S] of num_labels labels, background included."""
    rows = [_of_one(np.asarray(mask), num_labels) for mask in masks]
    return Structures(*map(np.stack, zip(*rows)))


def compactness(spread: np.ndarray, volume: float) -> float:
    """How near a structure is to a disc or ball, which has 1; all others have less.

    The trace of a ball's covariance is the least that a volume V can have, d / (d + 2) R^2 with
    R^d = V / V_1, where V_1 is the unit ball's volume. The measure is this least over the trace.

    Args:
      spread: covariance of the structure's points, [d, d].
      volume: in the same unit.

    Source: Zunic, Hirota and Rosin 2010 (A Hu moment invariant as a shape circularity measure);
    Zunic, Hirota and Martinez-Ortiz 2012 (Compactness measure for 3D shapes).
    """
    dims = len(spread)
    unit_ball = pi ** (dims / 2) / gamma(dims / 2 + 1)
    return dims / (dims + 2) * (volume / unit_ball) ** (2 / dims) / float(np.trace(spread))


def eccentricity(spread: np.ndarray) -> float:
    """Of the ellipse with these second moments: 0 round, 1 a line; in 3-D of its longest and
    shortest axis. sqrt(1 - shortest variance / longest)."""
    variances = np.linalg.eigvalsh(spread)
    return float(np.sqrt(1 - variances[0] / variances[-1]))


def _of_one(mask: np.ndarray, num_labels: int) -> tuple[np.ndarray, ...]:
    counts = np.bincount(mask.ravel(), minlength=num_labels)[1:]
    shapes = np.full((2, num_labels - 1), np.nan)
    pieces = np.zeros(num_labels - 1, int)
    connected = np.ones((3,) * mask.ndim)
    for row in np.flatnonzero(counts):
        inside = mask == row + 1
        # A voxel is a cube, whose points have the variance 1/12 along each axis.
        points = np.argwhere(inside)
        spread = np.cov(points, rowvar=False, bias=True) + np.eye(mask.ndim) / 12
        shapes[:, row] = compactness(spread, counts[row]), eccentricity(spread)
        numbered = np.zeros(mask.shape, np.int32)
        pieces[row] = scipy.ndimage.label(inside, connected, numbered)
    return counts / mask.size, *shapes, pieces, _borders(mask, num_labels)


def _borders(mask: np.ndarray, num_labels: int) -> np.ndarray:
    faces = np.zeros((num_labels, num_labels))
    for axis in range(mask.ndim):
        lines = np.moveaxis(mask, axis, 0)
        np.add.at(faces, (lines[:-1].ravel(), lines[1:].ravel()), 1)
    faces += faces.T
    np.fill_diagonal(faces, 0)
    return faces / np.maximum(faces.sum(axis=1, keepdims=True), 1)
