"""One image file to one array, with its checks."""

import errno
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motfm_jax.data.formats import Volume, read_metaimage, read_nifti

NIFTI_SUFFIXES = (".nii.gz", ".nii")
METAIMAGE_SUFFIXES = (".mhd", ".mha")
# Of the system and not the file, which may be read another time: nothing to leave it out for.
PASSING = {
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOLCK,
}
SPACING_TOLERANCE = 0.01  # between pixel sizes and affine, relative


class NoSplit(ValueError):
    """The data set has no such split, or nothing in it; the data may be whole all the same."""


def read(path: Path) -> Volume:
    """Reads a NIfTI or, through SimpleITK, a MetaImage (.mhd) file.

    Raises:
      ValueError: no such file, of another type, unreadable, no numbers in it, NaN or infinite
        values, a spacing that is not positive, or an affine that does not fit it.
      OSError: the system failed, such as a network's file system (`PASSING`).
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; complete the data set or correct its list")
    name = path.name.lower()
    if not name.endswith((*NIFTI_SUFFIXES, *METAIMAGE_SUFFIXES)):
        raise ValueError(
            f"{path}: unknown type of image; {', '.join((*NIFTI_SUFFIXES, *METAIMAGE_SUFFIXES))} "
            "needed: convert it"
        )
    try:
        volume = read_nifti(path) if name.endswith(NIFTI_SUFFIXES) else read_metaimage(path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: .mhd files need SimpleITK, which is not installed; "
            "pip install SimpleITK, or use the NIfTI release"
        ) from error
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "no memory left to read it", str(path)) from error
    except Exception as error:  # a decoder may raise anything on foreign bytes
        if isinstance(error, OSError) and error.errno in PASSING:
            raise OSError(error.errno, error.strerror, str(path)) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: cannot be read as an image ({reason}); the file is damaged or incomplete, "
            "copy it again"
        ) from error
    if volume.array.dtype.kind not in "buif":
        raise ValueError(
            f"{path}: voxels of type {volume.array.dtype}, real numbers needed; convert the file"
        )
    if volume.array.size == 0:
        raise ValueError(f"{path}: no voxels, shape {volume.array.shape}; copy the file again")
    if not np.isfinite(volume.array).all():
        count = int((~np.isfinite(volume.array)).sum())
        raise ValueError(
            f"{path}: {count} NaN or infinite voxels, finite ones needed; repair the file or "
            "take it out of the data set"
        )
    _check_grid(path, volume)
    return volume


def _check_grid(path: Path, volume: Volume) -> None:
    spacing = np.array(volume.spacing_mm)
    if not np.isfinite(volume.affine).all() or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(
            f"{path}: spacing {volume.spacing_mm} mm, positive numbers needed; repair its header"
        )
    steps = volume.affine[:3, : len(spacing)]
    lengths = np.linalg.norm(steps, axis=0)
    if (
        np.linalg.matrix_rank(steps) < len(spacing)
        or (np.abs(lengths / spacing - 1) > SPACING_TOLERANCE).any()
    ):
        raise ValueError(
            f"{path}: its affine has steps of {tuple(lengths.round(4).tolist())} mm, its header "
            f"says {volume.spacing_mm}; they must agree and point to different directions: repair "
            "the header"
        )


def to_labels(path: Path, values: np.ndarray, allowed: Sequence[int]) -> np.ndarray:
    """A mask file's values as whole numbers, int64 where the file's type is not one of integers.

    Raises:
      ValueError: values that are no whole numbers, or not among the allowed ones.
    """
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{path}: {count} NaN or infinite mask values, whole numbers needed; give them a label"
        )
    labels = values if values.dtype.kind in "ui" else np.rint(values)
    if labels is not values and np.abs(values - labels).max() > 1e-3:
        raise ValueError(
            f"{path}: mask values such as {values[values != labels][0]}, whole numbers needed; "
            "was it resampled with interpolation? use nearest neighbour"
        )
    unknown = sorted({int(label) for label in np.unique(labels)} - set(allowed))
    if unknown:
        raise ValueError(
            f"{path}: label {', '.join(map(str, unknown[:5]))} found, only "
            f"{', '.join(map(str, sorted(allowed)))} declared; correct the mask, or declare "
            "or remap the label"
        )
    return labels if labels is values else labels.astype(np.int64)


def check_same_space(path: Path, mask: np.ndarray, image_path: Path, shape: Sequence[int]) -> None:
    """Raises ValueError where a mask's shape is not its image's spatial shape."""
    if mask.shape != tuple(shape):
        raise ValueError(
            f"{path}: mask {mask.shape} and image {tuple(shape)} ({image_path.name}) differ in "
            "space; resample one to the other's grid"
        )


def content_hash(path: Path) -> str:
    """blake2b of a file's bytes, hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
