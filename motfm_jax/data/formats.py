"""One reader for the files that medical images come in, by suffix.

A picture is [H, W, C], rows from top to bottom. A volume is [I, J, K, C] in the file's axis order,
with its affine. What is one file's business is decided here:

* A palette is read as its colours for an image, as its indices for a mask.
* An alpha channel is dropped where it is opaque, and refused where it is not.
* A mask in colour is refused unless its three channels agree. JPEG blurs the values of a mask: it
  is read as black and white (0 and 255, cut at 128) if 95% of its pixels are close to either, else
  refused.
* Pictures have no spacing: their dots per inch are those of a printer. A camera's note that the
  picture lies on its side (EXIF) is followed.
* The pages of a TIFF are a volume without an affine.
* A volume of one slice is a picture, as a slice of a RAS volume if its header places it.
* A numpy array [H, W, C] with at most 4 in the last axis is a picture, else [I, J, K] is a volume;
  four axes are [I, J, K, C]. An .npz holds "image" (or "mask") or a single array, and may hold
  "affine" and "spacing_mm".
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from motfm_jax.data import dicom, nifti, orientation, slices
from motfm_jax.data.nifti import Volume
from motfm_jax.data.source import MOST_CHANNELS

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ARRAYS = (".npy", ".npz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
SUFFIXES = (*nifti.NIFTI_SUFFIXES, *PICTURES, *ARRAYS, *ITK, *dicom.SUFFIXES)
VOXELS = (".raw", ".zraw", ".raw.gz")  # beside a header
COLOURS = ("red", "green", "blue")
GREY, PURE = 16, 0.95  # a JPEG mask: distance from black or white, and the share that keeps it


class Scan(NamedTuple):
    """A file's array with where it lies.

    Attributes:
      array: [H, W, C] or [I, J, K, C].
      affine: [4, 4] float64, array index to RAS+ millimetres, or None.
      spacing_mm: one number an axis in space, or None.
      channels: names of the channels if the file tells them, as in a colour picture.
    """

    array: np.ndarray
    affine: np.ndarray | None = None
    spacing_mm: tuple[float, ...] | None = None
    channels: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of space."""
        return self.array.shape[:-1]


def suffix(path: Path) -> str:
    """The suffix that names the format, in lower case; "" for a file that is none of them."""
    name = path.name.lower()
    return next((end for end in SUFFIXES if name.endswith(end)), "")


def stem(path: Path) -> str:
    """The file's name without that suffix; a folder's name as it is."""
    return path.name if path.is_dir() else path.name[: len(path.name) - len(suffix(path))]


def beside(path: Path) -> list[Path]:
    """The voxels of a header that keeps them in another file."""
    if not path.name.lower().endswith((".mhd", ".nhdr")):
        return []
    voxels = (path.with_suffix(end) for end in VOXELS)
    return [each for each in voxels if each.is_file()]


def read(path: Path, geometry: str = "", as_mask: bool = False) -> Scan:
    """Reads one image or one mask.

    Args:
      path: a file, or the folder of a DICOM series.
      geometry: of a NIfTI header, see `nifti.read`.
      as_mask: read labels; the result has one channel.

    Raises:
      ValueError: no such file, an unknown type, a package that is missing, an unreadable file, or
        values that are not numbers; or a rule above refuses it.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file; complete the data set or correct its table")
    kind = suffix(path)
    if kind in nifti.NIFTI_SUFFIXES:
        scan = _from_volume(path, nifti.read(path, geometry))
    else:
        with nifti.decoding(path):
            scan = _decode(path, kind, as_mask)
    if scan.array.dtype.kind not in "buif" or scan.array.size == 0:
        raise ValueError(
            f"{path}: an array {scan.array.shape} of {scan.array.dtype}, numbers needed; convert it"
        )
    if scan.array.shape[-1] > MOST_CHANNELS:
        raise ValueError(
            f"{path}: {scan.array.shape[-1]} channels, at most {MOST_CHANNELS} needed; is the last "
            "axis time? save one file a frame"
        )
    return _mask(path, kind, scan) if as_mask else scan


def _decode(path: Path, kind: str, as_mask: bool) -> Scan:
    if kind in PICTURES:
        return read_picture(path, as_mask)
    if kind in ARRAYS:
        return read_array(path, as_mask)
    if kind in ITK:
        return _from_volume(path, nifti.read_itk(path))
    if path.is_dir() or dicom.is_dicom(path):
        planes = dicom.read(path)
        return Scan(planes.array, planes.affine, planes.spacing_mm, COLOURS * planes.is_colour)
    raise nifti.Refused(f"unknown type of image; use one of {', '.join(SUFFIXES)}")


def _from_volume(path: Path, volume: Volume) -> Scan:
    """A volume x first; a single plane as a picture, see `_plane`."""
    array, affine, spacing = volume
    rank = min(len(spacing), 3)
    if array.ndim > 4 and set(array.shape[3:-1]) == {1}:  # NIfTI: vectors stand in a fifth axis
        array = array.reshape(*array.shape[:3], array.shape[-1])
    if not rank <= array.ndim <= rank + 1:
        raise ValueError(
            f"{path}: shape {array.shape}, 2 or 3 axes in space and one of channels at most needed"
        )
    array = array[..., None] if array.ndim == rank else array
    if rank == 3:
        is_plane = array.shape[:3].count(1) == 1
        volume = Volume(array, affine, tuple(spacing))
        return _plane(volume) if is_plane else Scan(*volume)
    return Scan(array.swapaxes(0, 1), affine[:, [1, 0, 2, 3]], (spacing[1], spacing[0]))


def _plane(volume: Volume) -> Scan:
    """A volume of one slice: shown as `slices` shows a slice of its RAS volume.

    A header without a place (axes along the patient's, position 0 across the plane) states spacings
    alone: the picture is as stored, its columns along the first axis of the array.
    """
    array, affine, spacing = volume
    across = array.shape.index(1)
    matrix = affine[:3, :3]
    if affine[across, 3] == 0 and (matrix == np.diag(np.diag(matrix))).all():
        columns, rows = (axis for axis in range(3) if axis != across)
        affine = affine[:, [rows, columns, across, 3]]
        image = array.transpose(rows, columns, across, 3)[:, :, 0]
        return Scan(image, affine, (spacing[rows], spacing[columns]))
    array, affine, spacing = orientation.ras_volume(volume)
    name = next(name for name, axes in slices.PLANES.items() if array.shape[axes[2]] == 1)
    whole = slices.Stack(array, None, affine, spacing, array.shape[-1])
    picture = slices.Cut(name).stack(whole).cut(0)
    return Scan(picture.image, picture.affine, picture.spacing_mm)


def _mask(path: Path, kind: str, scan: Scan) -> Scan:
    array = scan.array
    if array.shape[-1] == 3 and (array == array[..., :1]).all():
        array = array[..., :1]
    if array.shape[-1] != 1:
        raise ValueError(
            f"{path}: a mask of {array.shape[-1]} channels, one label a pixel needed; save the "
            "labels as grey values or as a palette"
        )
    if kind in (".jpg", ".jpeg"):
        pure = (np.minimum(array, 255 - array) < GREY).mean()
        if array.any() and (array.max() < 255 - GREY or pure < PURE):
            raise ValueError(
                f"{path}: a JPEG mask that is not black and white; JPEG changes labels, save masks "
                "as PNG"
            )
        array = np.where(array < 128, 0, 255).astype(np.uint8)
    return scan._replace(array=array, channels=())


def read_picture(path: Path, as_mask: bool) -> Scan:
    """A picture, or the pages of a TIFF as [H, W, pages, C]."""
    with Image.open(path) as image:
        # A camera's JPEG may hold a smaller copy of itself (MPO).
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if count > 1 and image.format != "TIFF":
            raise nifti.Refused(f"{count} moving frames; save one file a frame")
        pages = []
        for page in range(count):
            image.seek(page)
            pages.append(_page(path, image, as_mask))
    if len({page.shape for page in pages}) > 1:
        raise nifti.Refused(f"{count} pages of different sizes; save one file a page")
    array = pages[0] if count == 1 else np.stack(pages, axis=2)
    return Scan(array, channels=COLOURS if array.shape[-1] == 3 else ())


def _page(path: Path, image: Image.Image, as_mask: bool) -> np.ndarray:
    if _is_deep_colour(path, image):
        array = nifti.read_itk(path).array.swapaxes(0, 1)
        return _without_alpha(array) if array.shape[-1] in (2, 4) else array
    tags = getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode == "P" and as_mask:
        return np.asarray(image)[..., None]
    is_transparent = "transparency" in image.info
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if is_transparent or image.mode == "PA" else "RGB")
    elif is_transparent and image.mode in ("L", "RGB"):
        image = image.convert(image.mode + "A")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise nifti.Refused(f"colours as {image.mode}; save it as RGB or grey")
    array = np.asarray(image)
    if image.mode.startswith("I;16") and tags.get(262) == 0:  # white is zero
        array = 65535 - array
    array = array.astype(np.uint8) if array.dtype == bool else array
    array = array[..., None] if array.ndim == 2 else array
    return _without_alpha(array) if array.shape[-1] in (2, 4) else array


def _is_deep_colour(path: Path, image: Image.Image) -> bool:
    """Whether it has 16 bits a colour: Pillow would silently keep 8."""
    if image.format == "PNG":
        with open(path, "rb") as file:
            depth, colours = file.read(26)[24:]
        return depth == 16 and colours != 0
    bits = getattr(image, "tag_v2", {}).get(258, 8)
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _without_alpha(array: np.ndarray) -> np.ndarray:
    opaque = np.iinfo(array.dtype).max
    if (array[..., -1] != opaque).any():
        raise nifti.Refused("a transparent alpha channel; save it without one")
    return array[..., :-1]


def read_array(path: Path, as_mask: bool) -> Scan:
    """An .npy or .npz file, see the top of this module."""
    content = np.load(path, allow_pickle=False)
    affine, spacing = None, None
    if isinstance(content, np.ndarray):
        array = content
    else:
        with content:
            names = [name for name in content.files if name not in ("affine", "spacing_mm")]
            wanted = "mask" if as_mask else "image"
            name = wanted if wanted in names else names[0] if len(names) == 1 else ""
            if not name:
                raise nifti.Refused(f"arrays {', '.join(names)}; call one of them {wanted!r}")
            array = content[name]
            affine = content["affine"].astype(float) if "affine" in content else None
            spacing = tuple(content["spacing_mm"].tolist()) if "spacing_mm" in content else None
    if not 2 <= array.ndim <= 4:
        raise nifti.Refused(f"shape {array.shape}; 2 or 3 axes, and one of channels last, needed")
    if array.ndim == 3 and array.shape[0] <= 4 < array.shape[2]:
        raise nifti.Refused(f"shape {array.shape}: channels first? save (H, W, C)")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] > 4):
        array = array[..., None]
    rank = array.ndim - 1
    if affine is not None and affine.shape != (4, 4):
        raise nifti.Refused(f"an affine {affine.shape}; (4, 4) needed")
    if affine is not None and spacing is None:
        spacing = tuple(np.linalg.norm(affine[:3, :rank], axis=0).tolist())
    if spacing is not None and (len(spacing) != rank or not min(spacing) > 0):
        raise nifti.Refused(f"spacing_mm {spacing}; {rank} numbers above 0 needed")
    return Scan(array, affine, spacing)
