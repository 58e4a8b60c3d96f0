"""Resizing images and masks, with the affine and spacing that then hold.

Voxel k of an axis is centred at coordinate k, so an axis of n voxels covers [-0.5, n - 0.5]. Every
resampling here keeps the centre of the field of view: with a step of r old voxels to a new one,
new voxel j of m is centred at the old coordinate

    (j - (m - 1) / 2) r + (n - 1) / 2.

For r = n / m this is (j + 0.5) n / m - 0.5: the field of view is kept, not the corner voxels'
centres. Images are interpolated linearly, with the kernel widened by r where r > 1 (no aliasing);
masks take the nearest voxel. New voxels centred outside the old field of view are padding: the
image's background (see `background`), label 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from motfm_jax.data import labels
from motfm_jax.data.nifti import finite


class Resized(NamedTuple):
    """An image on a new grid.

    Attributes:
      image: [*S, C] float32.
      mask: [*S], the given type, or None.
      affine: [4, 4] float64, array index to millimetres, or None if none was given.
      spacing_mm: one number an axis, or None if none was given.
      lost: labels of the mask of which nothing is left.
      filled: how many values of the image were NaN or infinite.
    """

    image: np.ndarray
    mask: np.ndarray | None
    affine: np.ndarray | None
    spacing_mm: tuple[float, ...] | None
    lost: tuple[int, ...] = ()
    filled: int = 0


class Grid(NamedTuple):
    """Where records lie: how images of any size are brought to one.

    Attributes:
      size: S.
      fit: "pad" or "stretch", see `fit`.
      spacing_mm: resample to this, one number per axis, then cut or pad about the centre; fit is
        not used. () fits the whole field of view into the size.
      crop_foreground: first cut to the box of voxels above the background (the corners' value).
      nan: what NaN and infinite values become, see `nifti.finite`.
    """

    size: Sequence[int]
    fit: str = "pad"
    spacing_mm: Sequence[float] = ()
    crop_foreground: bool = False
    nan: str = ""

    @classmethod
    def from_config(cls, data: Any) -> "Grid":
        """From the fields of config.data."""
        nan = data.intensity.nan
        return cls(data.size, data.fit, data.spacing_mm, data.crop_foreground, nan)

    def place(
        self,
        image: np.ndarray,
        mask: np.ndarray | None,
        affine: np.ndarray | None,
        spacing_mm: Sequence[float] | None,
    ) -> Resized:
        """The image on this grid. Args and errors as for `fit`, and for `nifti.finite`."""
        image, filled = finite(image, self.nan)
        if self.crop_foreground:
            image, mask, affine = crop_foreground(image, mask, affine)
        if self.spacing_mm:
            placed = fit_at_spacing(image, mask, affine, spacing_mm, self.size, self.spacing_mm)
        else:
            placed = fit(image, mask, affine, spacing_mm, self.size, self.fit)
        return placed._replace(filled=filled)


def check_spacing(spacing_mm: Sequence[float], size: Sequence[int]) -> None:
    """Raises ValueError for a config.data.spacing_mm that is not one length an axis."""
    are_lengths = all(type(step) in (int, float) and 0 < step < np.inf for step in spacing_mm)
    if spacing_mm and not (are_lengths and len(spacing_mm) == len(size)):
        raise ValueError(
            f"config.data.spacing_mm={tuple(spacing_mm)}: give {len(size)} numbers, each above 0"
        )


def fit(
    image: np.ndarray,
    mask: np.ndarray | None,
    affine: np.ndarray | None,
    spacing_mm: Sequence[float] | None,
    size: Sequence[int],
    mode: str,
) -> Resized:
    """Resizes the whole field of view into a size.

    Args:
      image: [*S0, C]; C = 0 if there is only a mask, and then the result's image is unchanged.
      mask: [*S0] or None.
      affine: [4, 4], index to millimetres, or None.
      spacing_mm: one number an axis; None counts as equal on all axes.
      size: S.
      mode: "stretch" makes each axis fill its side, so the aspect ratio changes (spacing
        becomes s0 S0 / S on each axis). "pad" keeps the aspect ratio in millimetres: the spacing
        becomes max(s0 S0 / S) on every axis, the image is centred and the rest is padding.

    Raises:
      ValueError: an unknown mode, or sizes of different dimension.
    """
    shape = np.array(_spatial_shape(image, mask, size))
    spacing = np.ones(len(shape)) if spacing_mm is None else np.array(spacing_mm, float)
    filling = spacing * shape / np.array(size)
    if mode == "stretch":
        target = filling
    elif mode == "pad":
        target = np.full(len(shape), filling.max())
    else:
        raise ValueError(f"fit {mode!r}: use 'pad' or 'stretch'")
    resized = _resample(image, mask, affine, target / spacing, size)
    known = spacing_mm is not None
    return resized._replace(spacing_mm=tuple(target.tolist()) if known else None)


def fit_at_spacing(
    image: np.ndarray,
    mask: np.ndarray | None,
    affine: np.ndarray | None,
    spacing_mm: Sequence[float],
    size: Sequence[int],
    target_mm: Sequence[float],
) -> Resized:
    """Resamples to a spacing, then cuts or pads about the centre to the size, in one interpolation.

    Args and errors as for `fit`; target_mm is the new spacing, one number an axis.
    """
    shape = _spatial_shape(image, mask, size)
    if len(target_mm) != len(shape):
        raise ValueError(
            f"spacing {tuple(target_mm)} mm: the image has {len(shape)} axes, give one number each"
        )
    resized = _resample(image, mask, affine, np.array(target_mm) / np.array(spacing_mm), size)
    return resized._replace(spacing_mm=tuple(float(step) for step in target_mm))


def crop_foreground(
    image: np.ndarray, mask: np.ndarray | None, affine: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Cuts image [*S0, C], mask and affine to the box around the voxels above the background.

    Raises:
      ValueError: there are no such voxels.
    """
    foreground = (image > background(image)).any(axis=-1)
    if not foreground.any():
        raise ValueError("no voxel is above the background: nothing to crop to; do not crop")
    axes = range(foreground.ndim)
    box = []
    for axis in axes:
        others = tuple(other for other in axes if other != axis)
        inside = np.flatnonzero(foreground.any(axis=others))
        box.append(slice(inside[0], inside[-1] + 1))
    if affine is not None:
        affine = affine @ _index_map(np.ones(len(box)), np.array([side.start for side in box]))
    return image[tuple(box)], None if mask is None else mask[tuple(box)], affine


def background(image: np.ndarray) -> np.ndarray:
    """By channel, [C]: the lower median of the corner voxels of [*S, C]."""
    dims = image.ndim - 1
    corners = image[np.ix_(*[(0, -1)] * dims)].reshape(2**dims, image.shape[-1])
    return np.sort(corners, axis=0)[(len(corners) - 1) // 2]


def _spatial_shape(image, mask, size) -> tuple[int, ...]:
    shape = image.shape[:-1]
    if len(shape) != len(size):
        raise ValueError(
            f"size {tuple(size)}: the image has {len(shape)} axes {shape}, give one number each"
        )
    if mask is not None and mask.shape != shape:
        raise ValueError(f"mask {mask.shape} and image {shape} differ in space")
    return shape


def _resample(image, mask, affine, steps, size) -> Resized:
    """Onto a grid of this size with steps [old voxels to a new one] about the same centre."""
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused later
        outside = background(image).astype(np.float32)
        image = np.array(image, np.float32)
    starts, whole = [], mask
    for axis, (step, count) in enumerate(zip(steps, size)):
        old_count = image.shape[axis]
        start = (old_count - 1) / 2 - (count - 1) / 2 * step
        starts.append(start)
        if step == 1 and old_count == count:
            continue
        centres = start + step * np.arange(count)
        inside = (centres >= -0.5) & (centres <= old_count - 0.5)
        if image.shape[-1]:
            image = _apply(_weights(centres, old_count, max(step, 1.0)), image, axis)
            np.moveaxis(image, axis, 0)[~inside] = outside
        if mask is not None:
            nearest = np.clip(np.floor(centres + 0.5), 0, old_count - 1).astype(int)
            mask = np.take(mask, nearest, axis)
            np.moveaxis(mask, axis, 0)[~inside] = 0
    if affine is not None:
        affine = affine @ _index_map(np.array(steps), np.array(starts))
    lost = () if mask is whole else labels.vanished(whole, mask)
    return Resized(np.ascontiguousarray(image), mask, affine, None, lost)


def _weights(centres, old_count, width) -> scipy.sparse.csr_array:
    """Triangle weights [new, old] float32 of half-width `width`; a row sums to 1 or is all 0.

    Sparse, and within the old voxels: a file may be millions of voxels long, or have one axis with
    a million times the spacing of another.
    """
    first = np.clip(np.ceil(centres - width), 0, old_count).astype(int)
    old = first[:, None] + np.arange(int(min(2 * width + 1, old_count)))
    weights = np.maximum(1 - np.abs(centres[:, None] - old) / width, 0)
    weights[(old < 0) | (old >= old_count)] = 0
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
    weights = weights.astype(np.float32)
    stored = weights > 0
    ends = np.concatenate([[0], stored.sum(axis=1).cumsum()])
    return scipy.sparse.csr_array(
        (weights[stored], old[stored], ends), shape=(len(centres), old_count)
    )


def _apply(weights: scipy.sparse.csr_array, image: np.ndarray, axis: int) -> np.ndarray:
    """The matrix on one axis; sparse, so one thread does it, in the same order everywhere."""
    front = np.moveaxis(image, axis, 0)
    product = weights @ front.reshape(len(front), -1)
    return np.moveaxis(product.reshape(-1, *front.shape[1:]), 0, axis)


def _index_map(steps: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[4, 4]: new index to old index, for arrays of two or three axes."""
    matrix = np.eye(4)
    dims = len(steps)
    matrix[range(dims), range(dims)] = steps
    matrix[:dims, 3] = starts
    return matrix
