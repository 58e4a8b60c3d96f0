"""Reads NIfTI and MetaImage files, with checks; writes NIfTI."""

import contextlib
import errno
import gzip
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

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
GEOMETRIES = ("sform", "qform", "pixdim")  # what in a NIfTI header places voxels
MILLIMETRES = {1: 1e3, 3: 1e-3}  # of a unit, by NIfTI's xyzt_units: metres, microns
PACKAGES = {"SimpleITK": "itk", "pydicom": "dicom"}  # the extra that brings each
SPACING_TOLERANCE = 0.01  # between the fields of a header, relative


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


class Refused(Exception):
    """A file that is whole and cannot be used all the same; `decoding` adds its path."""


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """What a decoder raises within it becomes a ValueError that names the file, or an OSError where
    the system failed."""
    try:
        yield
    except Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except ModuleNotFoundError as error:
        package = error.name or str(error)
        raise ValueError(
            f"{path}: reading it needs {package}, which is not installed; "
            f"pip install 'motfm_jax[{PACKAGES.get(package, package)}]'"
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


def read(path: Path, geometry: str = "") -> Volume:
    """Reads a NIfTI or, through SimpleITK, a MetaImage (.mhd) file.

    Args:
      path: the file.
      geometry: the field of a NIfTI header that places its voxels: "sform", "qform" or "pixdim"
        (axes to the left, front and top, centred, as nibabel takes headers without the others).
        "" takes the first one there is, if the others agree.

    Raises:
      ValueError: no such file, of another type, unreadable, not of numbers, a spacing that is
        not positive, fields of the header that disagree, or no such field.
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
    with decoding(path):
        decode = read_nifti if name.endswith(NIFTI_SUFFIXES) else read_metaimage
        array, affines = decode(path)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{path}: voxels of type {array.dtype}, real numbers needed; convert the file"
        )
    if array.size == 0:
        raise ValueError(f"{path}: no voxels, shape {array.shape}; copy the file again")
    return _place(path, array, affines, geometry)


def _place(path: Path, array: np.ndarray, affines: dict[str, np.ndarray], geometry: str) -> Volume:
    """The array where the chosen one of a header's affines puts it."""
    field = geometry or next(iter(affines))
    if field not in affines:
        raise ValueError(
            f"{path}: config.data.geometry={geometry!r}, but its header has only "
            f"{' and '.join(affines)}; choose of these"
        )
    steps = {name: affine[:3, : min(array.ndim, 3)] for name, affine in affines.items()}
    spacings = {name: np.linalg.norm(step, axis=0) for name, step in steps.items()}
    spacing = spacings[field]
    if not np.isfinite(affines[field]).all() or not (spacing > 0).all():
        raise ValueError(
            f"{path}: spacing {_times(spacing)} mm, positive numbers needed; repair its header, "
            "or choose another field of it: config.data.geometry"
        )
    if np.linalg.matrix_rank(steps[field]) < len(spacing):
        raise ValueError(
            f"{path}: the axes of its {field} lie in one plane, they must point to different "
            "directions; repair its header, or choose another field of it: config.data.geometry"
        )
    has_same_spacing = np.allclose(spacings["pixdim"], spacing, rtol=SPACING_TOLERANCE, atol=0)
    turned = (steps["qform"] * steps[field]).sum(0) if "qform" in steps else spacing**2
    if not geometry and not (has_same_spacing and (turned > spacing**2 / 2).all()):
        ways = [
            f"{name} {_times(spacings[name])} mm {_directions(affines[name])}"
            if name in affines
            else f"{name} not set"
            for name in GEOMETRIES
        ]
        raise ValueError(
            f"{path}: its header disagrees with itself: {', '.join(ways)}; choose the field that "
            f"is right: config.data.geometry={'|'.join(GEOMETRIES)}, in motfm prepare --geometry"
        )
    return Volume(
        array,
        affines[field],
        # pixdim has no rounding of a rotation
        tuple((spacings["pixdim"] if has_same_spacing else spacing).tolist()),
    )


def _times(spacing: np.ndarray) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing)


def _directions(affine: np.ndarray) -> str:
    """Where the axes lead, such as "RAS"; "" if there are no numbers."""
    if not np.isfinite(affine).all():
        return ""
    return "".join(code or "" for code in nibabel.aff2axcodes(affine))


def finite(image: np.ndarray, nan: float | str = "") -> tuple[np.ndarray, int]:
    """An image without NaN and infinite values, and how many it had.

    Called before an image is resampled, since one such value spreads.

    Args:
      nan: config.data.intensity.nan, a number to put in their place; "" refuses them.

    Raises:
      ValueError: there are some, and no number is given. The message names no file.
    """
    wrong = ~np.isfinite(image)
    count = int(wrong.sum())
    if count and nan == "":
        raise ValueError(
            f"{count} of {image.size} values are NaN or infinite; repair the file or take it out, "
            "or config.data.intensity.nan=0 puts a number in their place"
        )
    return (np.where(wrong, image.dtype.type(nan), image) if count else image), count


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


def read_nifti(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The array of a .nii or .nii.gz file of either version, and its affines by field, in mm.

    Raises anything for a bad file.
    """
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
    sform, qform = header.get_sform(coded=True)[0], None
    try:
        qform = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # no rotation; an sform makes up for it
        if sform is None:
            raise
    stated = {"sform": sform, "qform": qform, "pixdim": header.get_base_affine()}
    unit = MILLIMETRES.get(int(header["xyzt_units"]) % 8, 1.0)
    to_mm = np.diag([unit, unit, unit, 1.0])
    return array, {name: to_mm @ affine for name, affine in stated.items() if affine is not None}


def read_metaimage(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The array of an .mhd or .mha file, through SimpleITK, and its affine under each field's name.

    Raises anything for a bad file.
    """
    volume = read_itk(path)
    voxels = path.with_suffix(".raw")
    if voxels.is_file() and voxels.stat().st_size != volume.array.nbytes:
        size = voxels.stat().st_size
        raise ValueError(f"{voxels.name} has {size} bytes, {volume.array.nbytes} needed")
    return volume.array, dict.fromkeys(GEOMETRIES, volume.affine)


def read_itk(path: Path) -> Volume:
    """An image of any format of SimpleITK, channels last; raises anything for a bad file."""
    import SimpleITK  # optional

    image = SimpleITK.ReadImage(str(path))
    dims = image.GetDimension()
    array = SimpleITK.GetArrayFromImage(image)
    array = array.transpose(*range(dims)[::-1], *range(dims, array.ndim))
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
        are swapped back to the files' x-first order. Unsigned integers keep their type, the rest
        becomes float32.
      affine: 4 x 4, array index (of S as in memory) to RAS+ millimetres; None for the identity.
      description: for the header, at most 79 characters.
    """
    affine = np.eye(4) if affine is None else np.array(affine, np.float64)
    image = image if image.dtype.kind == "u" else np.asarray(image, np.float32)
    if image.ndim == 3:  # 2-D: rows are depth in memory
        image, affine = image.swapaxes(0, 1)[:, :, None], affine[:, [1, 0, 2, 3]]
    image = image[..., 0] if image.shape[-1] == 1 else image
    volume = nibabel.Nifti1Image(image, affine)
    volume.header["descrip"] = description.encode()[:79]
    volume.header.set_xyzt_units("mm")
    with whole_file(path) as draft:
        nibabel.save(volume, draft)
