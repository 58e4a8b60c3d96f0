"""NIfTI and MetaImage files to arrays. What a header claims is compared with the file before any
memory is taken for it; nothing is read but the file itself and a MetaImage's voxels beside it.
"""

import gzip
import math
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy

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


def read_nifti(path: Path) -> Volume:
    """Reads a .nii or .nii.gz file of either version; what is wrong with it raises anything."""
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
        raise ValueError("no NIfTI that holds its own voxels")
    if np.isinf(header["scl_slope"]):
        raise ValueError("its values are scaled by infinity")
    # As stated: the header above was checked, which makes 0 mm into 1 mm.
    stated = kind(block[: kind.sizeof_hdr], check=False).get_zooms()[:3]
    return header, tuple(abs(float(extent)) for extent in stated)


def read_metaimage(path: Path) -> Volume:
    """Reads an .mhd or .mha file through SimpleITK; what is wrong with it raises anything."""
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
    """Raises ValueError for voxels elsewhere than in or beside the file, or fewer than declared."""
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
    """The bytes that voxels of this shape take, where a file can hold them."""
    if min(shape, default=0) < 0:
        raise ValueError(f"the header declares {shape} voxels")
    claimed = math.prod(shape) * itemsize
    held = path.stat().st_size * (MOST_INFLATED if is_packed else 1)
    if claimed > held:
        raise ValueError(f"the header declares {shape} voxels, more than the file can hold")
    if claimed > MOST_BYTES:
        raise ValueError(f"{claimed} bytes of voxels, at most {MOST_BYTES} are read")
    return claimed
