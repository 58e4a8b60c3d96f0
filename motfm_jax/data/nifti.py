"""Reads NIfTI and MetaImage files, with checks; writes NIfTI."""

import errno
import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from motfm_jax.io.folders import whole_file

NIFTI_SUFFIXES = (".nii.gz", ".nii")
METAIMAGE_SUFFIXES = (".mhd", ".mha")
# Errors of the system, not of the file: it may be read another time.
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


class Volume(NamedTuple):
    """A file's array with where it lies.

    Attributes:
      array: [*S] or [*S, C] in the file's axis order (x first) and type.
      affine: [4, 4] float64, array index to RAS+ millimetres.
      spacing_mm: one number a spatial axis.
    """

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...]


def read(path: Path) -> Volume:
    """Reads a NIfTI or, through SimpleITK, a MetaImage (.mhd) file.

    Raises:
      ValueError: no such file, of another type, unreadable, not of numbers, NaN or infinite
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
            f"has {volume.spacing_mm}; they must agree and point to different directions: repair "
            "the header"
        )


def to_labels(path: Path, values: np.ndarray, allowed: Sequence[int]) -> np.ndarray:
    """A mask file's values as whole numbers, int64 if the file's type is not an integer.

    Raises:
      ValueError: values that are not whole numbers, or not among the allowed ones.
    """
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{path}: {count} NaN or infinite mask values, whole numbers needed; give them a label"
        )
    values = values.astype(np.uint8) if values.dtype == bool else values
    labels = values if values.dtype.kind in "ui" else np.rint(values)
    if labels is not values and np.abs(values - labels).max() > 1e-3:
        raise ValueError(
            f"{path}: mask values such as {values[values != labels][0]}, whole numbers needed; "
            "was it resampled with interpolation? use nearest neighbour"
        )
    unknown = sorted({int(label) for label in np.unique(labels)} - set(allowed))
    if unknown:
        declared = ", ".join(map(str, sorted(allowed)))
        if isinstance(allowed, range) and len(allowed) > 8:
            declared = f"{allowed[0]} to {allowed[-1]}"
        raise ValueError(
            f"{path}: label {', '.join(map(str, unknown[:5]))} found, only "
            f"{declared} declared; correct the mask, or declare or remap the label"
        )
    return labels if labels is values else labels.astype(np.int64)


def check_same_space(path: Path, mask: np.ndarray, image_path: Path, shape: Sequence[int]) -> None:
    """Raises ValueError if a mask's shape is not its image's spatial shape."""
    if mask.shape != tuple(shape):
        raise ValueError(
            f"{path}: mask {mask.shape} and image {tuple(shape)} ({image_path.name}) differ in "
            "space; resample one to the other's grid"
        )


def read_nifti(path: Path) -> Volume:
    """Reads a .nii or .nii.gz file of either version; raises anything for a bad file."""
    content = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.decompress(content)
    is_second = 540 in {int.from_bytes(content[:4], order) for order in ("little", "big")}
    kind = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
    header = kind(content[: kind.sizeof_hdr])
    shape, itemsize = header.get_data_shape(), header.get_data_dtype().itemsize
    expected = header.get_data_offset() + math.prod(shape) * itemsize
    if expected != len(content):
        raise ValueError(f"{shape} voxels need {expected} bytes, it has {len(content)}")
    array = np.asanyarray(ArrayProxy(io.BytesIO(content), header))
    spacing = tuple(abs(float(extent)) for extent in header.get_zooms()[:3])
    return Volume(array, header.get_best_affine(), spacing)


def read_metaimage(path: Path) -> Volume:
    """Reads an .mhd or .mha file through SimpleITK; raises anything for a bad file."""
    import SimpleITK  # optional: only the older CAMUS release needs it

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    image = reader.Execute()
    array = SimpleITK.GetArrayFromImage(image).T
    voxels = path.with_suffix(".raw")
    if voxels.is_file() and voxels.stat().st_size != array.nbytes:
        raise ValueError(f"{voxels.name} has {voxels.stat().st_size} bytes, {array.nbytes} needed")
    dims = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dims, dims)
    affine[:dims, :dims] = direction * np.array(image.GetSpacing())
    affine[:dims, 3] = image.GetOrigin()
    affine[:2] *= -1  # ITK counts millimetres to the left and back, NIfTI to the right and front
    return Volume(array, affine, image.GetSpacing())


def write_nifti(path: Path, image: np.ndarray, affine: Any = None, description: str = "") -> None:
    """Writes one image as NIfTI (.nii or .nii.gz).

    Args:
      path: the file.
      image: [*S, C]; C = 1 is dropped. A volume keeps its axis order; rows and columns of a frame
        are swapped back to the files' x-first order.
      affine: 4 x 4, array index (of S as in memory) to RAS+ millimetres; None for the identity.
      description: for the header, at most 79 characters.
    """
    affine = np.eye(4) if affine is None else np.array(affine, np.float64)
    image = np.asarray(image, np.float32)
    if image.ndim == 3:  # 2-D: rows are depth in memory
        image, affine = image.swapaxes(0, 1)[:, :, None], affine[:, [1, 0, 2, 3]]
    image = image[..., 0] if image.shape[-1] == 1 else image
    volume = nibabel.Nifti1Image(image, affine)
    volume.header["descrip"] = description.encode()[:79]
    volume.header.set_xyzt_units("mm")
    with whole_file(path) as draft:
        nibabel.save(volume, draft)
