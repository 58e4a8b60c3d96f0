"""Volumes to closest RAS+ axes, and masks onto the grid of their image.

An affine sends an array's indices to millimetres towards the patient's right, front (anterior) and
top (superior): RAS+, the world of NIfTI.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import scipy.ndimage

from motfm_jax.data import nifti
from motfm_jax.data.nifti import Volume

TOLERANCE = 0.02  # between the corners of one grid, in voxels


class Reading(NamedTuple):
    """How image files and their masks are placed in space.

    Attributes:
      geometry: the field of NIfTI headers that places voxels, see `nifti.read`.
      resample_masks: take the nearest voxels of masks on another grid instead of refusing them.
    """

    geometry: str = ""
    resample_masks: bool = False

    @classmethod
    def from_config(cls, data: Any) -> "Reading":
        """From the fields of config.data; the defaults for None."""
        return cls(data.geometry, data.resample_masks) if data else cls()

    def image(self, path: Path) -> Volume:
        """An image file; see `nifti.read`."""
        return nifti.read(path, self.geometry)

    def mask(self, path: Path, image: Volume, image_path: Path) -> np.ndarray:
        """A mask file on the grid of its image; see `onto_grid`."""
        mask = nifti.read(path, self.geometry)
        return onto_grid(mask, image, path, image_path, self.resample_masks)


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Permutes and flips axes to the closest RAS+ ones; nothing is resampled.

    Args:
      array: [I, J, K, ...].
      affine: [4, 4], index to RAS+ millimetres.

    Returns:
      A view of the array, its first axes towards right, front and top, and its affine.
    """
    return _reorient(array, affine, nibabel.io_orientation(affine))


def ras_volume(volume: Volume) -> Volume:
    """A volume [I, J, K, ...] with its axes as `to_ras` orders them."""
    array, affine = to_ras(volume.array, volume.affine)
    return Volume(array, affine, tuple(volume.spacing_mm[n] for n in ras_order(volume.affine)))


def ras_order(affine: np.ndarray) -> list[int]:
    """Which axes become the first, second and third of `to_ras`."""
    return np.argsort(nibabel.io_orientation(affine)[:, 0]).tolist()


def is_ras(affine: Any) -> bool:
    """Whether `to_ras` changes nothing."""
    return nibabel.aff2axcodes(np.asarray(affine, float)) == ("R", "A", "S")


def onto_grid(
    mask: Volume, image: Volume, mask_path: Path, image_path: Path, resample: bool
) -> np.ndarray:
    """A mask's values on the index grid of its image: [*S], the image's spatial shape.

    The same grid in other axes (permuted, mirrored) is brought to the image's.

    Args:
      mask: [*S0], with or without trailing axes of 1.
      image: [*S] or [*S, C], as many axes in space as it has spacings.
      mask_path, image_path: for messages.
      resample: take the nearest voxel of a mask on another grid, 0 outside of it.

    Raises:
      ValueError: a mask with channels; or another grid without `resample`: the corners of the two
        are further apart than a fiftieth of a voxel.
    """
    shape = image.array.shape[: len(image.spacing_mm)]
    full = (*shape, 1)[:3]
    values = mask.array.reshape(*mask.array.shape[:3], *[1] * (3 - mask.array.ndim), -1)
    if values.shape[3] != 1:
        raise ValueError(
            f"{mask_path}: shape {mask.array.shape}, one label a voxel needed; save one channel"
        )
    values, source, target = values[..., 0], _filled(mask), _filled(image)
    relative = np.linalg.inv(target) @ source
    values, source = _reorient(values, source, nibabel.io_orientation(relative))
    apart = _corners(values.shape, source) - _corners(full, target)
    distance = np.linalg.norm(apart, axis=1).max()
    if values.shape == full and distance <= TOLERANCE * min(image.spacing_mm):
        return values.reshape(shape)
    if not resample:
        how = f"mask {mask.array.shape} and image {shape} ({image_path.name}) differ in space"
        if values.shape == full:
            how = f"its affine differs from {image_path.name}'s"
        raise ValueError(
            f"{mask_path}: {how}, at a corner by {distance:.3g} mm; correct the header that is "
            "wrong, or resample masks to the nearest voxels: config.data.resample_masks=True, in "
            "motfm prepare --resample-masks"
        )
    matrix = np.linalg.inv(source) @ target
    nearest = scipy.ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], full, order=0, mode="grid-constant"
    )
    return nearest.reshape(shape)


def _reorient(
    array: np.ndarray, affine: np.ndarray, orientation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    back = nibabel.orientations.inv_ornt_aff(orientation, array.shape[:3])
    return nibabel.apply_orientation(array, orientation), affine @ back


def _filled(volume: Volume) -> np.ndarray:
    """The affine with a unit step across the plane where the array is one voxel thick."""
    affine = volume.affine.copy()
    for axis, extent in enumerate((*volume.array.shape, 1)[:3]):
        if extent == 1:
            across = np.cross(affine[:3, axis - 2], affine[:3, axis - 1])
            affine[:3, axis] = across / np.linalg.norm(across)
    return affine


def _corners(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Centres of the eight corner voxels [mm], [8, 3]."""
    indices = np.array(list(itertools.product(*((0, extent - 1) for extent in shape))))
    return indices @ affine[:3, :3].T + affine[:3, 3]
