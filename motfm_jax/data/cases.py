"""The files of one example, read and brought to one grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motfm_jax.data import formats, nifti, orientation
from motfm_jax.data.channels import find_channels
from motfm_jax.data.formats import Scan
from motfm_jax.data.layouts import Case
from motfm_jax.data.nifti import Volume
from motfm_jax.data.slices import Stack

LABELS = range(2**16)  # values that a mask may have


class Choices(NamedTuple):
    """Which files of a case are read, and how.

    Attributes:
      geometry: the field of NIfTI headers that places voxels, see `nifti.read`.
      resample_masks: masks on another grid take the nearest voxel; otherwise they are refused.
      channels: names of the channels to read, of those declared; () for all.
      source: the channels that a flow starts from; () for the case's `source`, None for nothing.
    """

    geometry: str = ""
    resample_masks: bool = False
    channels: tuple[str, ...] = ()
    source: tuple[str, ...] | None = None


def read_case(case: Case, names: Sequence[str], how: Choices) -> Stack:
    """The arrays of a case; volumes with an affine are turned to RAS axes.

    Args:
      case: whose files are read.
      names: of the channels as declared, one a file or all in one file; () if undeclared.
      how: see `Choices`.

    Raises:
      ValueError: a file that cannot be used, or that does not lie on the grid of the first.
    """
    chosen = find_channels(case.images[0], names, how.channels) or list(range(len(names)))
    sources = find_channels(case.images[0], names, how.source or ())
    images, picked = list(case.images), chosen + sources
    is_split = len(images) > 1 and bool(names)
    if is_split:
        images, picked = [images[index] for index in picked], []
    first, array = _read_images(images, how.geometry)
    if is_split and array.shape[-1] != len(images):
        raise ValueError(
            f"{images[0]}: {array.shape[-1]} channels in {len(images)} files that are one channel "
            f"each ({', '.join(names)}); save them as grey, or list all in one column of the "
            "table: image"
        )
    if picked:
        if array.shape[-1] != len(names):
            raise ValueError(
                f"{case.images[0]}: {array.shape[-1]} channels, {len(names)} needed "
                f"({', '.join(names)}); correct the file or the names"
            )
        array = array[..., picked]
    count = array.shape[-1] - len(sources)
    if how.source == ():
        made_from, values = _read_images(case.source, how.geometry)
        values = _on_grid(case.source[0], made_from._replace(array=values), images[0], first)
        array = np.concatenate([array, values], axis=-1)
    mask = None
    for path in case.masks:
        found = _read_mask(path, images[0], first, how)
        mask = found if mask is None else np.maximum(mask, found)
    affine, spacing = first.affine, first.spacing_mm
    if affine is not None and len(first.shape) == 3:
        if mask is not None:
            mask, _ = orientation.to_ras(mask, affine)
        array, affine = orientation.to_ras(array, affine)
        spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    return Stack(array, mask, affine, spacing, count)


def _read_images(paths: Sequence[Path], geometry: str) -> tuple[Scan, np.ndarray]:
    """The first file, and the channels of all on its grid."""
    first = formats.read(paths[0], geometry)
    arrays = [first.array]
    for path in paths[1:]:
        arrays.append(_on_grid(path, formats.read(path, geometry), paths[0], first))
    return first, np.concatenate(arrays, axis=-1)


def _on_grid(path: Path, scan: Scan, first_path: Path, first: Scan) -> np.ndarray:
    """The channels of an image on the grid of another."""
    if scan.affine is None or first.affine is None:
        _check_shape(path, scan, first_path, first)
        return scan.array
    channels = []
    for index in range(scan.array.shape[-1]):
        volume = Volume(scan.array[..., index], scan.affine, scan.spacing_mm)
        target = Volume(first.array, first.affine, first.spacing_mm)
        try:
            channels.append(orientation.onto_grid(volume, target, path, first_path, False))
        except ValueError as error:
            reason = str(error).partition(";")[0].removeprefix(f"{path}: ")
            raise ValueError(
                f"{path}: {reason}; channels of one image need one grid: resample them first"
            ) from error
    return np.stack(channels, axis=-1)


def _check_shape(path: Path, scan: Scan, first_path: Path, first: Scan) -> None:
    if scan.shape != first.shape:
        raise ValueError(
            f"{path}: shape {scan.shape}, {first_path.name} has {first.shape}; they must be of one "
            "size: resample one to the other's grid"
        )


def _read_mask(path: Path, image_path: Path, image: Scan, how: Choices) -> np.ndarray:
    """A mask's labels on the grid of its image, [*S]."""
    mask = formats.read(path, how.geometry, as_mask=True)
    if mask.affine is None or image.affine is None:
        _check_shape(path, mask, image_path, image)
        values = mask.array[..., 0]
    else:
        values = orientation.onto_grid(
            Volume(mask.array[..., 0], mask.affine, mask.spacing_mm),
            Volume(image.array, image.affine, image.spacing_mm),
            path,
            image_path,
            how.resample_masks,
        )
    return nifti.to_labels(path, values, LABELS)
