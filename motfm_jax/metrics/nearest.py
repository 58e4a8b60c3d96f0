"""Nearest training image of each generated one, to find copies: in features and in pixels."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Array
from motfm_jax.metrics import checks

BLOCK_ROWS = 1024  # references compared with all queries at once, by features
BLOCK_PIXELS = 2**24  # of the references compared with one query at once, by pixels


class Nearest(NamedTuple):
    """For each query the nearest of a reference set.

    Attributes:
      distance: [N] float64.
      index: [N] into the reference set.
      second: [N] distance of the nearest reference of another group; inf where all are of one.
      shift: [N, len(S)] pixels by which the reference was moved, or None for features.
    """

    distance: np.ndarray
    index: np.ndarray
    second: np.ndarray
    shift: np.ndarray | None = None


class Closer(NamedTuple):
    """Share of queries closer than a threshold, and the threshold."""

    share: float
    threshold: float


def nearest_features(
    queries: np.ndarray, references: np.ndarray, groups: np.ndarray | None = None
) -> Nearest:
    """Euclidean nearest neighbours of features [N, F] among [M, F], block by block.

    Args:
      queries, references: features.
      groups: [M], such as the patient of each reference; None for a group each.

    Raises:
      ValueError: shapes, values that are not finite, an empty set.
    """
    queries = checks.feature_rows("queries", queries, fewest=1)
    references = checks.feature_rows("references", references, fewest=1)
    checks.same_width(queries, references)
    groups = np.arange(len(references)) if groups is None else groups
    closest = _Closest(len(queries))
    for start in range(0, len(references), BLOCK_ROWS):
        block = references[start : start + BLOCK_ROWS]
        # without the query's own square, which is the same for every reference
        squared = (block**2).sum(axis=1) - 2 * queries @ block.T
        closest.see(slice(None), squared, groups, start)
    second = np.sqrt((closest.second + (queries**2).sum(axis=1)).clip(min=0))
    # exact for copies, which differences of squares are not
    distance = np.linalg.norm(queries - references[closest.index], axis=1)
    return Nearest(distance, closest.index, second)


def nearest_pixels(
    queries: np.ndarray,
    references: Iterable[np.ndarray],
    max_shift: int | None = None,
    groups: np.ndarray | None = None,
) -> Nearest:
    """Nearest images after the best integer translation of the reference.

    The translation is cyclic (what leaves on one side enters on the other) and found for every
    pair by cross-correlation through the FFT, which finds the smallest squared difference. The
    distance is the root mean square difference of intensities after it.

    Args:
      queries: [N, *S, C].
      references: blocks [m, *S, C] of one set, same intensity range, read once; `block_rows` says
        how many images a block should have.
      max_shift: pixels along each axis, both ways; None allows any.
      groups: see `nearest_features`.

    Raises:
      ValueError: shapes, values that are not finite, an empty set, a negative shift.
    """
    queries = np.asarray(queries)
    if max_shift is not None and max_shift < 0:
        raise ValueError(f"max_shift {max_shift}: needed 0 or more pixels, or None")
    size = queries.shape[1:-1]
    allowed = _allowed_shifts(size, max_shift)
    closest = _Closest(len(queries))
    place, nearest = np.zeros(len(queries), np.int64), list(queries)
    start = 0
    for block in references:
        block = np.asarray(block)
        _check_images(queries, block)
        values = block.astype(np.float32)
        spectra = _spectra(values)
        squares = (values.astype(np.float64) ** 2).reshape(len(block), -1).sum(axis=1)
        for number, query in enumerate(queries):
            correlation, places = _best_shifts(
                _spectra(query[None].astype(np.float32)), spectra, allowed, size
            )
            squared = squares - 2 * np.asarray(correlation, np.float64)
            if closest.see(slice(number, number + 1), squared[None], groups, start)[0]:
                winner = closest.index[number] - start
                place[number], nearest[number] = places[winner], block[winner].copy()
        start += len(block)
    if not start:
        raise ValueError("references: needed at least one, got none")
    shifts = np.stack(np.unravel_index(place, size), axis=1)
    energy = (queries.astype(np.float64) ** 2).reshape(len(queries), -1).sum(axis=1)
    second = np.sqrt((closest.second + energy).clip(min=0) / queries[0].size)
    return _measured(queries, nearest, shifts, Nearest(closest.second, closest.index, second))


def block_rows(shape: tuple[int, ...]) -> int:
    """Images [*S, C] of a block of references."""
    return max(1, BLOCK_PIXELS // int(np.prod(shape)))


def share_closer(generated: np.ndarray, held_out: np.ndarray, quantile: float = 0.05) -> Closer:
    """Share of generated images closer to training images than nearly all held-out real ones.

    A set without copies, distributed like the held-out one, has a share near `quantile`.

    Args:
      generated: [N] distances of generated images to their nearest training image.
      held_out: [M] of real images not trained on, measured in the same way.
      quantile: of the held-out distances, the threshold.

    Raises:
      ValueError: shapes, values that are not finite, quantile out of (0, 1), fewer held-out
        distances than 1 / quantile.
    """
    generated, held_out = np.asarray(generated), np.asarray(held_out)
    if generated.ndim != 1 or held_out.ndim != 1 or not len(generated):
        raise ValueError(
            f"generated {generated.shape} and held-out {held_out.shape} distances: needed one per "
            "image, [N] and [M]"
        )
    if not 0 < quantile < 1 or len(held_out) * quantile < 1:
        raise ValueError(
            f"quantile {quantile} of {len(held_out)} held-out distances: needed one between 0 "
            "and 1, and 1 / quantile distances or more"
        )
    checks.finite("generated distances", generated)
    checks.finite("held-out distances", held_out)
    threshold = float(np.quantile(held_out, quantile))
    return Closer(float((generated < threshold).mean()), threshold)


def auc(generated: np.ndarray, held_out: np.ndarray) -> float:
    """Share of pairs in which the generated image is nearer to training than the held-out one.

    The area under the curve of telling both apart by their distance [N], [M]; ties count a half.
    Without copying 0.5, 1 where every generated image is nearer. Source: Mann and Whitney 1947.
    """
    order = np.sort(held_out)
    farther = len(order) - np.searchsorted(order, generated, "right")
    equal = np.searchsorted(order, generated, "right") - np.searchsorted(order, generated, "left")
    return float((farther + equal / 2).mean() / len(order))


def ratio_share(distance: np.ndarray, second: np.ndarray, below: float = 1 / 3) -> float:
    """Share of images [N] much nearer to one training image than to any of another group.

    A copy has a distance near 0 to its original and an ordinary one to the next patient.

    Source: Yoon et al., "Diffusion probabilistic models generalize when they fail to memorize",
    2023: below a third.
    """
    return float((distance < below * second).mean())


@jax.jit
def _spectra(images: Array) -> Array:
    return jnp.fft.rfftn(images, axes=range(1, images.ndim - 1))


@partial(jax.jit, static_argnames="size")
def _best_shifts(
    query: Array, references: Array, allowed: Array, size: tuple[int, ...]
) -> tuple[Array, Array]:
    """Largest correlation with each reference over its allowed shifts, and the flat shift: [R]."""
    product = (query * references.conj()).sum(axis=-1)
    correlation = jnp.fft.irfftn(product, size, axes=range(1, 1 + len(size)))
    correlation = jnp.where(allowed[None], correlation, -jnp.inf).reshape(len(references), -1)
    return correlation.max(axis=1), correlation.argmax(axis=1)


class _Closest:
    """The nearest of the references seen so far, and the nearest of another group, squared."""

    def __init__(self, num: int):
        self.first, self.second = np.full((2, num), np.inf)
        self.index, self.group = np.zeros((2, num), np.int64)

    def see(
        self, rows: slice, squared: np.ndarray, groups: np.ndarray | None, start: int
    ) -> np.ndarray:
        """Takes in the references from `start`, at `squared` [n, m] from the queries `rows`.

        Returns:
          [n], for which of them the nearest is new.
        """
        own = np.arange(start, start + squared.shape[1])
        group = own if groups is None else groups[own]
        winner = squared.argmin(axis=1)
        near, name = squared[np.arange(len(squared)), winner], group[winner]
        after = np.where(group == name[:, None], np.inf, squared).min(axis=1)
        first, second, known = self.first[rows], self.second[rows], self.group[rows]
        new, other = near < first, known != name
        self.second[rows] = np.where(
            new,
            np.minimum(after, np.where(other, first, second)),
            np.minimum(second, np.where(other, near, after)),
        )
        self.first[rows] = np.where(new, near, first)
        self.group[rows] = np.where(new, name, known)
        self.index[rows] = np.where(new, start + winner, self.index[rows])
        return new


def _measured(
    queries: np.ndarray, nearest: list[np.ndarray], shift: np.ndarray, found: Nearest
) -> Nearest:
    """The distances again in float64, from the nearest images themselves: exact for copies."""
    size, axes = np.array(queries.shape[1:-1]), tuple(range(queries.ndim - 2))
    moved = (np.roll(image, tuple(s), axes) for image, s in zip(nearest, shift))
    distance = [
        np.sqrt(np.mean((query.astype(np.float64) - other) ** 2))
        for query, other in zip(queries, moved)
    ]
    shift = np.where(shift > size // 2, shift - size, shift)
    return found._replace(distance=np.array(distance), shift=shift)


def _allowed_shifts(size: tuple[int, ...], max_shift: int | None) -> np.ndarray:
    """[*S] bool, entry k along an axis of n standing for a shift by k or k - n."""
    if max_shift is None:
        return np.ones(size, bool)
    near = [np.minimum(np.arange(n), n - np.arange(n)) <= max_shift for n in size]
    return np.logical_and.reduce(np.meshgrid(*near, indexing="ij"))


def _check_images(queries: np.ndarray, references: np.ndarray) -> None:
    if queries.shape[1:] != references.shape[1:] or queries.ndim not in (4, 5):
        raise ValueError(
            f"queries {queries.shape} and references {references.shape}: needed [N, *S, C] and "
            "[M, *S, C] of one size, 2-D or 3-D"
        )
    if not (queries.size and references.size):
        raise ValueError(f"queries {queries.shape} and references {references.shape}: one is empty")
    checks.finite("queries", queries)
    checks.finite("references", references)
