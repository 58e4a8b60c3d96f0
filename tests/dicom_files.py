"""DICOM files for tests, written with pydicom."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

NAME = "Doe^Jane"  # must never reach an output


def make(pixels, series=None, position=None, **fields):
    """A data set of pixels [H, W], [H, W, 3] or [frames, H, W]; fields by keyword."""
    pixels = np.asarray(pixels)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.InstitutionName = NAME, "4711", "Clinic"
    data.SeriesInstanceUID = series or generate_uid()
    is_colour = pixels.ndim == 3 and pixels.shape[2] == 3
    data.SamplesPerPixel = 3 if is_colour else 1
    data.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        data.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.Rows, data.Columns = pixels.shape[:2] if is_colour else pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    if position is not None:
        data.ImagePositionPatient = list(map(float, position))
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [1, 1]
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def sequence(**fields):
    """A sequence of one item."""
    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder, volume, affine, **fields):
    """A volume [I, J, K] with an affine to RAS+ mm as one series, a file a plane of K."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # to DICOM's left and back
    columns, rows = (affine[:3, axis] for axis in (0, 1))
    spacing = [float(np.linalg.norm(rows)), float(np.linalg.norm(columns))]
    directions = [*(columns / spacing[1]), *(rows / spacing[0])]
    series = generate_uid()
    for plane in range(volume.shape[2]):
        data = make(
            np.ascontiguousarray(volume[:, :, plane].T),
            series,
            position=affine[:3] @ [0, 0, plane, 1],
            **fields,
        )
        data.ImageOrientationPatient, data.PixelSpacing = list(map(float, directions)), spacing
        # Neither the names nor the numbers of files tell where a plane lies.
        save(folder / f"IM{(7 * plane) % 1000:04d}", data)
