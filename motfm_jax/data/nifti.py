"""Reads NIfTI and MetaImage files, with checks; writes NIfTI.

What a header claims is compared with the file before any memory is taken for it. Nothing is read
but the file itself and a MetaImage's voxels beside it.
"""

import errno
import gzip
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
MOST_BYTES = 2**32  # of one image's voxels: 1024 x 1024 x 1024 of 4 bytes
MOST_BEFORE = 2**28  # bytes before a NIfTI's voxels: header and extensions
MOST_INFLATED = 1032  # times its size, what a deflated byte can become
VOXEL_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 8,
    "MET_ULONG": 8,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}


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
            f"says {volume.spacing_mm}; they must agree and point to different directions: repair "
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
    is_packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if is_packed else open(path, "rb") as stream:
        header, spacing = _nifti_header(stream)
        shape, start = header.get_data_shape(), header.get_data_offset()
        claimed = _check_claim(shape, header.get_data_dtype().itemsize, path, is_packed)
        if start > MOST_BEFORE:
            raise ValueError(f"the header puts the voxels behind {start} bytes")
        array = np.asanyarray(ArrayProxy(stream, header))
        if not is_packed:
            stream.seek(start + claimed)
        # A packed stream's checksum is compared at its end alone.
        if stream.read(1):
            raise ValueError(f"it holds more than the {shape} voxels its header declares")
    return Volume(array, header.get_best_affine(), spacing)


def _nifti_header(stream: BinaryIO) -> tuple[nibabel.Nifti1Header, tuple[float, ...]]:
    """The header without its extensions, which may be of any length, and the spacing it states."""
    block = stream.read(nibabel.Nifti2Header.sizeof_hdr)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    kind = nibabel.Nifti2Header if 540 in sizes else nibabel.Nifti1Header
    header = kind(block[: kind.sizeof_hdr])
    if header["magic"].item() != kind.single_magic:
        raise ValueError("not a NIfTI file with voxels inside")
    if np.isinf(header["scl_slope"]):
        raise ValueError("its values are scaled by infinity")
    # As stated: the header above was checked, which makes 0 mm into 1 mm.
    stated = kind(block[: kind.sizeof_hdr], check=False).get_zooms()[:3]
    return header, tuple(abs(float(extent)) for extent in stated)


def read_metaimage(path: Path) -> Volume:
    """Reads an .mhd or .mha file through SimpleITK; raises anything for a bad file."""
    import SimpleITK  # optional: only the older CAMUS release needs it

    _check_metaimage(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    image = reader.Execute()
    dims = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dims, dims)
    affine[:dims, :dims] = direction * np.array(image.GetSpacing())
    affine[:dims, 3] = image.GetOrigin()
    affine[:2] *= -1  # ITK counts millimetres to the left and back, NIfTI to the right and front
    return Volume(SimpleITK.GetArrayFromImage(image).T, affine, image.GetSpacing())


def _check_metaimage(path: Path) -> None:
    """Raises ValueError for voxels in another folder, or fewer voxels than declared."""
    with open(path, "rb") as stream:
        text = stream.read(1 << 16).decode("latin-1")
    fields = dict(reversed(re.findall(r"^\s*(\w+)\s*[=:][ \t]*(.*?)\s*$", text, re.MULTILINE)))
    name = fields.get("ElementDataFile", "")
    beside = path if name.upper() == "LOCAL" else path.parent / name
    if not name or Path(name).name != name or not beside.is_file():
        raise ValueError(f"its voxels are in {name!r}, a file beside it needed")
    if int(fields.get("ElementNumberOfChannels", 1)) != 1:
        raise ValueError("several channels, one needed")
    shape = tuple(map(int, fields["DimSize"].split()))
    if fields["ElementType"] not in VOXEL_BYTES:
        raise ValueError(f"voxels of type {fields['ElementType']}")
    is_packed = fields.get("CompressedData", "False").lower() == "true"
    claimed = _check_claim(shape, VOXEL_BYTES[fields["ElementType"]], beside, is_packed)
    if beside != path and not is_packed and beside.stat().st_size != claimed:
        raise ValueError(f"{name} holds more than the {shape} voxels declared")


def _check_claim(shape: tuple[int, ...], itemsize: int, path: Path, is_packed: bool) -> int:
    """The bytes of voxels of this shape; ValueError if the file cannot hold them."""
    if min(shape, default=0) < 0:
        raise ValueError(f"the header declares {shape} voxels")
    claimed = math.prod(shape) * itemsize
    held = path.stat().st_size * (MOST_INFLATED if is_packed else 1)
    if claimed > held:
        raise ValueError(f"the header declares {shape} voxels, more than the file can hold")
    if claimed > MOST_BYTES:
        raise ValueError(f"{claimed} bytes of voxels, at most {MOST_BYTES} are read")
    return claimed


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
