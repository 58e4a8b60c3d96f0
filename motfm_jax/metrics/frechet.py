"""Fréchet distance between two feature sets: FID with Inception features, 3D-FID with R3D-18's."""

import numpy as np
import scipy.linalg

from motfm_jax.metrics import checks
from motfm_jax.metrics.moments import Moments, covariance


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2), between the Gaussians with these moments.

    In squared units of the features. With no more samples than features a covariance has no full
    rank: the distance exists, but depends strongly on the number of samples.

    With S1 = A A^T and S2 = B B^T, Tr (S1 S2)^1/2 is the sum of the singular values of A^T B. It
    is real, symmetric in the two sets and exists for singular covariances too. pytorch-fid 0.3.0
    takes the square root of S1 S2 itself and adds 1e-6 to both diagonals if that fails. Here
    nothing is added; both agree whenever its root succeeds.

    Raises:
      ValueError: different numbers of features, or a set below two samples.

    Source: Heusel et al. 2017, equation 6; pytorch-fid 0.3.0 (Seitzer 2020), covariances with N-1.
    """
    checks.same_width(first.mean, second.mean)
    covariances = covariance(first), covariance(second)
    product = _factor(covariances[0]).T @ _factor(covariances[1])
    root_trace = np.sum(scipy.linalg.svdvals(product))
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    difference = first.mean - second.mean
    covariance_part = max(0.0, float(traces - 2 * root_trace))  # rounding may go just below
    return float(difference @ difference) + covariance_part


def frechet_of_rows(generated: np.ndarray, real: np.ndarray) -> float:
    """`frechet_distance` of features [N, F] and [M, F] themselves, cheaper where N or M is below F.

    With X the centred features over sqrt(N - 1), the covariance is X^T X, and any R with
    R^T R = X^T X factors it: X itself, or the triangle of its QR decomposition where N exceeds F.

    Raises:
      ValueError: shapes, values that are not finite, fewer than two rows.
    """
    sets = checks.two_feature_sets(generated, real, fewest=2)
    difference = sets[0].mean(axis=0) - sets[1].mean(axis=0)
    factors = []
    for rows in sets:
        centred = (rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1)
        factors.append(np.linalg.qr(centred, mode="r") if len(rows) > rows.shape[1] else centred)
    root_trace = np.sum(scipy.linalg.svdvals(factors[0] @ factors[1].T))
    traces = sum(np.sum(factor**2) for factor in factors)
    return float(difference @ difference + max(0.0, traces - 2 * root_trace))


def _factor(symmetric: np.ndarray) -> np.ndarray:
    """A with A A^T = the matrix, [F, F]."""
    values, vectors = scipy.linalg.eigh(symmetric)
    return vectors * np.sqrt(values.clip(min=0))  # rounding may make a zero negative
