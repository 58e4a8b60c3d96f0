"""Conditional diversity: how much images of one condition differ."""

import numpy as np
import scipy.spatial

from motfm_jax.metrics import checks


def mean_distances(rows: np.ndarray) -> np.ndarray:
    """Root mean square distance of each image from the others, averaged over them, [N].

    Its mean is that over all pairs: 0 where noise changes nothing.

    Args:
      rows: [N, F], N >= 2: intensities or features, in whose unit the distances are.

    Raises:
      ValueError: shape, values that are not finite, fewer than two rows.
    """
    rows = checks.feature_rows("rows", rows, fewest=2)
    distances = scipy.spatial.distance.pdist(rows) / np.sqrt(rows.shape[1])
    return scipy.spatial.distance.squareform(distances).sum(axis=1) / (len(rows) - 1)
