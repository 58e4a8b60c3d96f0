"""DICOM through pydicom: single frames, multi-frame files, and folders of one series as volumes.

Stored values become those that the file declares (rescale slope and intercept, or its table).
MONOCHROME1, where high values are black, is mirrored within the range that the file can store.
Other colour spaces become RGB. Nothing that names a person or a place is read: names and patients
of the examples come from folders, file names or a table.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups), C.11.1
(modality LUT).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data.nifti import Refused

SUFFIXES = (".dcm", ".dicom", ".ima")
SAME_DIRECTION = 1e-3  # between the orientations of a series' images
SAME_STEP = 0.05  # between the steps of a series, relative
CENTIMETRES = 3  # of an ultrasound region's units


class Planes(NamedTuple):
    """Pixels with their place.

    Attributes:
      array: [H, W, C], or [H, W, frames, C].
      affine: [4, 4], array index to RAS+ millimetres, or None.
      spacing_mm: rows, columns and, for a volume, across; or None.
      is_colour: whether the channels are red, green and blue.
    """

    array: np.ndarray
    affine: np.ndarray | None
    spacing_mm: tuple[float, ...] | None
    is_colour: bool


class _Plane(NamedTuple):
    pixels: np.ndarray  # [H, W, C]
    position: np.ndarray | None  # [3], of the first pixel, LPS
    orientation: np.ndarray | None  # [6], directions of a row and of a column
    spacing: tuple[float, float] | None  # rows, columns
    thickness: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its suffix or its first bytes; not a list of files (DICOMDIR)."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.name.lower().endswith(SUFFIXES):
        return True
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def series(path: Path) -> str:
    """The identifier of a file's series."""
    import pydicom

    found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    return str(found.get("SeriesInstanceUID", path))


def files(folder: Path) -> list[Path]:
    """The DICOM files of a folder, sorted."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]


def read(path: Path) -> Planes:
    """A file, or the series in a folder, as a volume.

    Raises:
      ModuleNotFoundError: pydicom is not installed.
      Refused: images that are no volume.
      Anything else: a bad file.
    """
    import pydicom

    paths = files(path) if path.is_dir() else [path]
    if not paths:
        raise Refused("a folder without DICOM files")
    planes, is_colour = [], False
    for each in paths:
        data = pydicom.dcmread(each)
        is_colour = data.SamplesPerPixel == 3 or data.PhotometricInterpretation == "PALETTE COLOR"
        planes += _planes(data)
    if len(planes) == 1:
        (plane,) = planes
        across = plane.thickness * _normal(plane) if plane.position is not None else None
        affine = None if across is None else _affine(plane, plane.position, across)
        return Planes(plane.pixels, affine, plane.spacing, is_colour)
    for what in ("shape", "spacing", "orientation"):
        first, *others = [getattr(plane, what) for plane in planes]
        if not all(_agree(first, other) for other in others):
            raise Refused(f"images of different {what} in one series; separate them")
    if any(plane.position is None for plane in planes):
        if len(paths) > 1:
            raise Refused(
                "a series without positions in space; put each file into a folder of its own, or "
                "list the files in dataset.csv"
            )
        return Planes(np.stack([plane.pixels for plane in planes], 2), None, None, is_colour)
    return _volume(planes, is_colour)


def _volume(planes: list[_Plane], is_colour: bool) -> Planes:
    """The planes in the order of their positions."""
    normal = _normal(planes[0])
    planes = sorted(planes, key=lambda plane: float(plane.position @ normal))
    steps = np.diff([plane.position @ normal for plane in planes])
    if steps.min() <= 0 or np.ptp(steps) > SAME_STEP * np.median(steps):
        raise Refused(
            f"images {steps.min():.4g} to {steps.max():.4g} mm apart in one series, equal steps "
            "needed; images are missing, or several stand at one place: separate them"
        )
    first, last = planes[0].position, planes[-1].position
    across = (last - first) / (len(planes) - 1)
    spacing = planes[0].spacing
    return Planes(
        np.stack([plane.pixels for plane in planes], axis=2),
        _affine(planes[0], first, across),
        None if spacing is None else (*spacing, float(np.linalg.norm(across))),
        is_colour,
    )


def _normal(plane: _Plane) -> np.ndarray:
    return np.cross(plane.orientation[:3], plane.orientation[3:])


def _affine(plane: _Plane, position: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(row, column, plane) to RAS+ millimetres."""
    rows, columns = plane.spacing
    affine = np.eye(4)
    affine[:3, 0] = plane.orientation[3:] * rows
    affine[:3, 1] = plane.orientation[:3] * columns
    affine[:3, 2] = across
    affine[:3, 3] = position
    affine[:2] *= -1  # DICOM counts to the left and back
    return affine


def _agree(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return np.shape(one) == np.shape(other) and np.allclose(one, other, atol=SAME_DIRECTION)


def _planes(data: Any) -> list[_Plane]:
    """The frames of a file."""
    count = int(data.get("NumberOfFrames", 1) or 1)
    pixels = _pixels(data)
    pixels = pixels.reshape(count, *pixels.shape[-3:])
    planes = [_plane(data, frame, pixels[frame]) for frame in range(count)]
    if count > 1 and all(_agree(plane.position, planes[0].position) for plane in planes):
        planes = [plane._replace(position=None) for plane in planes]  # a film
    return planes


def _plane(data: Any, frame: int, pixels: np.ndarray) -> _Plane:
    position = _group(data, frame, "PlanePositionSequence").get("ImagePositionPatient")
    orientation = _group(data, frame, "PlaneOrientationSequence").get("ImageOrientationPatient")
    measures = _group(data, frame, "PixelMeasuresSequence")
    spacing = measures.get("PixelSpacing") or data.get("ImagerPixelSpacing") or _ultrasound(data)
    placed = position and orientation and spacing
    return _Plane(
        _values(data, frame, pixels),
        np.array(position, float) if placed else None,
        np.array(orientation, float) if placed else None,
        tuple(map(float, spacing)) if spacing else None,
        float(measures.get("SliceThickness") or 1),
    )


def _group(data: Any, frame: int, name: str) -> Any:
    """The functional group of a frame, shared or its own; the file itself if it has none."""
    own = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for groups in (*own[frame : frame + 1], *shared):
        if groups.get(name):
            return groups.get(name)[0]
    return data


def _ultrasound(data: Any) -> tuple[float, float] | None:
    """Pixel spacing of the region that all of an ultrasound image is."""
    regions = data.get("SequenceOfUltrasoundRegions") or []
    if len(regions) != 1 or regions[0].get("PhysicalUnitsXDirection") != CENTIMETRES:
        return None
    return 10 * abs(regions[0].PhysicalDeltaY), 10 * abs(regions[0].PhysicalDeltaX)


def _pixels(data: Any) -> np.ndarray:
    """Stored pixels, [..., H, W, C]; colours as RGB, MONOCHROME1 mirrored."""
    from pydicom.pixels import apply_color_lut

    array, photometric = data.pixel_array, data.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        return apply_color_lut(array, data)
    if data.SamplesPerPixel > 1:
        return array
    if photometric == "MONOCHROME1":
        highest = -1 if data.PixelRepresentation else 2**data.BitsStored - 1
        array = highest - array.astype(np.int32)
    return array[..., None]


def _values(data: Any, frame: int, pixels: np.ndarray) -> np.ndarray:
    """What the stored pixels of a frame stand for."""
    from pydicom.pixels import apply_modality_lut

    if data.get("ModalityLUTSequence"):
        return apply_modality_lut(pixels, data)
    group = _group(data, frame, "PixelValueTransformationSequence")
    slope = float(group.get("RescaleSlope") or 1)
    intercept = float(group.get("RescaleIntercept") or 0)
    if (slope, intercept) == (1, 0):
        return pixels
    if slope.is_integer() and intercept.is_integer():
        return pixels.astype(np.int32) * int(slope) + int(intercept)
    return (pixels * slope + intercept).astype(np.float32)
