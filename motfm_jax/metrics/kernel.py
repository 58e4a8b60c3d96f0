"""Squared maximum mean discrepancies: KID, CMMD, and the two MMDs of volumes.

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y). "Unbiased" leaves the pairs of an item with itself
out of the first two means, so that the value may be negative when the sets agree; "biased" keeps
them. Source: Gretton et al., "A kernel two-sample test", JMLR 13, 2012, equations 3 and 5.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.spatial

from motfm_jax.metrics import checks

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # [N, F], [M, F] -> [N, M]
ROWS = 1024  # of a kernel matrix held at once, and columns


class Kid(NamedTuple):
    """Mean and standard deviation over subsets, and how many subsets of what size."""

    mean: float
    std: float
    num_subsets: int
    subset_size: int


def kid(
    generated: np.ndarray,
    real: np.ndarray,
    seed: int,
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> Kid:
    """Kernel distance: unbiased MMD^2 with the kernel (x.y / F + 1)^3, mean over random subsets.

    A set smaller than `subset_size` reduces it to its own size, which the result tells.

    Args:
      generated: [N, F] features.
      real: [M, F].
      seed: of the subsets, drawn without replacement.

    Raises:
      ValueError: shapes, values that are not finite, fewer than two rows.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018; 100 subsets of 1000 as torch-fidelity.
    """
    generated, real = checks.two_feature_sets(generated, real, fewest=2)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(
            f"{num_subsets} subsets of {subset_size}: needed at least 1 subset of at least 2"
        )
    size = min(subset_size, len(generated), len(real))
    random = np.random.default_rng(seed)
    values = [
        _unbiased(
            _cubic,
            generated[random.choice(len(generated), size, replace=False)],
            real[random.choice(len(real), size, replace=False)],
        )
        for _ in range(1 if size == len(generated) == len(real) else num_subsets)  # all are equal
    ]
    return Kid(float(np.mean(values)), float(np.std(values)), num_subsets, size)


def cubic_mmd(generated: np.ndarray, real: np.ndarray) -> float:
    """The kernel distance of `kid` over all rows [N, F] and [M, F] at once.

    Raises:
      ValueError: shapes, values that are not finite, fewer than two rows.
    """
    return float(_unbiased(_cubic, *checks.two_feature_sets(generated, real, fewest=2)))


def cmmd(generated: np.ndarray, real: np.ndarray) -> float:
    """1000 x biased MMD^2 of unit vectors with the kernel exp(-|x - y|^2 / 200).

    Args:
      generated: [N, F] CLIP embeddings of length 1.
      real: [M, F].

    Raises:
      ValueError: shapes, values that are not finite, lengths other than 1.

    Source: Jayasumana et al., "Rethinking FID", CVPR 2024, and google-research/cmmd: sigma 10.
    """
    generated, real = checks.two_feature_sets(generated, real, fewest=1)
    lengths = np.linalg.norm(np.concatenate([generated, real]), axis=1)
    if abs(lengths - 1).max() > 1e-3:
        raise ValueError(
            f"embeddings have lengths from {lengths.min():.4g} to {lengths.max():.4g}: "
            "divide each by its L2 norm first"
        )
    kernel = _gaussian(bandwidth=10.0)
    within = _mean(kernel, generated, generated) + _mean(kernel, real, real)
    return float(1000 * (within - 2 * _mean(kernel, generated, real)))


def gaussian_mmd(generated: np.ndarray, real: np.ndarray, bandwidth: float) -> float:
    """Unbiased MMD^2 with the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    Args:
      generated: [N, F] features.
      real: [M, F].
      bandwidth: in units of the features, see `median_distance`. Numbers of two systems compare
        only under the same bandwidth.

    Raises:
      ValueError: shapes, values that are not finite, fewer than two rows, bandwidth not positive.
    """
    generated, real = checks.two_feature_sets(generated, real, fewest=2)
    if not 0 < bandwidth < np.inf:
        raise ValueError(
            f"bandwidth {bandwidth}: needed a positive number; 0 comes from a set whose features "
            "are mostly equal"
        )
    return float(_unbiased(_gaussian(bandwidth), generated, real))


def median_distance(features: np.ndarray, seed: int, most: int = 2000) -> float:
    """Median distance of two different rows of features [N, F]: the usual bandwidth.

    Over real and generated rows together it is Gretton's rule; over the real rows alone it stays
    the same for every system compared with them. More than `most` rows are thinned out at random.

    Raises:
      ValueError: shape, values that are not finite, fewer than two rows.

    Source: Gretton et al. 2012, section 8.
    """
    features = checks.feature_rows("features", features, fewest=2)
    if len(features) > most:
        features = features[np.random.default_rng(seed).choice(len(features), most, replace=False)]
    return float(np.median(scipy.spatial.distance.pdist(features)))


def linear_mmd(generated: Iterable[np.ndarray], real: Iterable[np.ndarray]) -> float:
    """Unbiased MMD^2 with the kernel x.y on raw voxels: what the original's 3-D evaluation prints.

    It is MONAI's compute_mmd without a mapping. It compares mean images only, up to the noise of
    their estimates, and is near zero for a set that repeats the mean image; the paper's Table 2
    divides it by 1000. From sums over images, one image in memory at a time.

    Args:
      generated: N >= 2 images [*S, C] of one shape, read once.
      real: M >= 2 images of that shape, in the same intensity range.

    Raises:
      ValueError: shapes, values that are not finite, fewer than two images.
    """
    mean_generated, within_generated = _linear_means("generated images", generated)
    mean_real, within_real = _linear_means("real images", real)
    if mean_generated.shape != mean_real.shape:
        raise ValueError(
            f"generated images {mean_generated.shape} and real images {mean_real.shape} differ in "
            "shape: bring both to one size first"
        )
    between = np.vdot(mean_generated, mean_real)
    return float(within_generated + within_real - 2 * between)


def _linear_means(name: str, images: Iterable[np.ndarray]) -> tuple[np.ndarray, float]:
    """Mean of the images, and the mean of x.x' over pairs of different images."""
    total, squares, count = np.zeros(()), 0.0, 0
    for index, image in enumerate(images):
        image = np.asarray(image, np.float64)
        total = np.zeros(image.shape) if index == 0 else total
        if image.shape != total.shape:
            raise ValueError(
                f"{name}: number {index} is {image.shape}, number 0 is {total.shape}; "
                "bring all to one size first"
            )
        checks.finite(f"{name}: number {index}", image)
        total += image
        squares += np.vdot(image, image)
        count += 1
    if count < 2:
        raise ValueError(f"{name}: needed at least 2, got {count}")
    return total / count, float((np.vdot(total, total) - squares) / (count * (count - 1)))


def _cubic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _gaussian(bandwidth: float) -> Kernel:
    def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        lengths = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
        squared = lengths - 2 * first @ second.T  # products of matrices: fast, exact to rounding
        return np.exp(-squared / (2 * bandwidth**2))

    return kernel


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))


def _sum(kernel: Kernel, first: np.ndarray, second: np.ndarray) -> float:
    return sum(kernel(a, b).sum() for a in _blocks(first) for b in _blocks(second))


def _mean(kernel: Kernel, first: np.ndarray, second: np.ndarray) -> float:
    return _sum(kernel, first, second) / (len(first) * len(second))


def _mean_of_others(kernel: Kernel, rows: np.ndarray) -> float:
    """Mean over pairs of different rows."""
    with_itself = sum(np.trace(kernel(block, block)) for block in _blocks(rows))
    return (_sum(kernel, rows, rows) - with_itself) / (len(rows) * (len(rows) - 1))


def _unbiased(kernel: Kernel, first: np.ndarray, second: np.ndarray) -> float:
    within = _mean_of_others(kernel, first) + _mean_of_others(kernel, second)
    return within - 2 * _mean(kernel, first, second)
