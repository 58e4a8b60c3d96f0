"""DICOM against files of known values and places, written with pydicom."""

import json

import numpy as np
import pytest

from motfm_jax.data import formats, orientation, trees
from motfm_jax.data.folder import Folder
from motfm_jax.data.geometry import Grid

pydicom = pytest.importorskip("pydicom")
files = pytest.importorskip("dicom_files")

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 4096, (4, 6), dtype=np.uint16)


def read(tmp_path, data):
    return formats.read(files.save(tmp_path / "a.dcm", data))


@pytest.mark.parametrize(
    "slope, intercept, dtype", [(1, 0, np.uint16), (2, -1024, np.int32), (0.5, 0.25, np.float32)]
)
def test_stored_values_become_those_they_stand_for(slope, intercept, dtype, tmp_path):
    data = files.make(PIXELS, RescaleSlope=slope, RescaleIntercept=intercept)
    scan = read(tmp_path, data)
    np.testing.assert_allclose(scan.array[..., 0], PIXELS * float(slope) + intercept)
    assert scan.array.dtype == dtype


@pytest.mark.parametrize("dtype, highest", [(np.uint16, 4095), (np.int16, -1)])
def test_monochrome1_is_mirrored_in_the_range_that_can_be_stored(dtype, highest, tmp_path):
    data = files.make(PIXELS.astype(dtype), PhotometricInterpretation="MONOCHROME1")
    data.BitsStored, data.HighBit = 12 if dtype == np.uint16 else 16, 15
    np.testing.assert_array_equal(read(tmp_path, data).array[..., 0], highest - PIXELS.astype(int))


def test_colours_are_red_green_and_blue(tmp_path):
    colours = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    scan = read(tmp_path, files.make(colours))
    np.testing.assert_array_equal(scan.array, colours)
    assert scan.channels == ("red", "green", "blue")
    grey = files.make(np.dstack([np.full((4, 6), v, np.uint8) for v in (90, 128, 128)]))
    grey.PhotometricInterpretation = "YBR_FULL"
    np.testing.assert_array_equal(read(tmp_path, grey).array, 90)


def test_a_palette_is_read_as_its_colours(tmp_path):
    indices = RNG.integers(0, 4, (4, 6), dtype=np.uint8)
    data = files.make(indices, PhotometricInterpretation="PALETTE COLOR")
    table = RNG.integers(0, 256, (3, 256), dtype=np.uint8)
    for name, values in zip(("Red", "Green", "Blue"), table):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(data, f"{name}PaletteColorLookupTableData", values.tobytes())
    np.testing.assert_array_equal(read(tmp_path, data).array, np.moveaxis(table[:, indices], 0, -1))


def test_a_frame_knows_its_spacing_and_place(tmp_path):
    data = files.make(PIXELS, position=(10, 20, 30))
    data.PixelSpacing = [2, 3]  # rows, columns
    scan = read(tmp_path, data)
    assert scan.spacing_mm == (2, 3)
    np.testing.assert_allclose(scan.affine @ [1, 1, 0, 1], [-13, -22, 30, 1])
    x_ray = read(tmp_path, files.make(PIXELS, ImagerPixelSpacing=[0.5, 0.5]))
    assert x_ray.spacing_mm == (0.5, 0.5) and x_ray.affine is None


def test_ultrasound_states_centimetres(tmp_path):
    region = files.sequence(
        PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3,
        PhysicalDeltaX=0.03,
        PhysicalDeltaY=0.04,
    )
    data = files.make(PIXELS, SequenceOfUltrasoundRegions=region)
    assert read(tmp_path, data).spacing_mm == pytest.approx((0.4, 0.3))


def test_a_film_is_a_stack_of_its_frames(tmp_path):
    frames = RNG.integers(0, 4096, (6, 4, 5), dtype=np.uint16)
    scan = read(tmp_path, files.make(frames))
    assert scan.affine is None
    np.testing.assert_array_equal(scan.array[..., 0], np.moveaxis(frames, 0, -1))


def test_an_enhanced_file_is_a_volume_by_the_places_of_its_frames(tmp_path):
    frames = RNG.integers(0, 4096, (3, 4, 5), dtype=np.uint16)
    data = files.make(frames)
    data.SharedFunctionalGroupsSequence = files.sequence(
        PixelMeasuresSequence=files.sequence(PixelSpacing=[2, 3], SliceThickness=1),
        PlaneOrientationSequence=files.sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    groups = [
        files.sequence(
            PlanePositionSequence=files.sequence(ImagePositionPatient=[0, 0, z]),
            PixelValueTransformationSequence=files.sequence(RescaleSlope=n + 1, RescaleIntercept=0),
        )[0]
        for n, z in enumerate((8, 4, 0))
    ]
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(groups)
    scan = read(tmp_path, data)
    assert scan.spacing_mm == (2, 3, 4)
    for frame in range(3):  # from the lowest position to the highest
        expected = frames[2 - frame].astype(int) * (3 - frame)
        np.testing.assert_array_equal(scan.array[:, :, frame, 0], expected)


AFFINES = {
    "axial": np.array([[-1, 0, 0, 9], [0, -2, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1.0]]),
    "sagittal": np.array([[0, 0, 3, 9], [-2, 0, 0, 8], [0, -1, 0, 7], [0, 0, 0, 1.0]]),
    "turned": np.array([[0.8, -0.6, 0, 9], [0.6, 0.8, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("plane", AFFINES)
def test_a_series_is_a_volume_where_its_files_say(plane, tmp_path):
    volume = RNG.integers(-500, 500, (4, 5, 6), dtype=np.int16)
    files.write_series(tmp_path / "case", volume, AFFINES[plane])
    scan = formats.read(tmp_path / "case")
    array, affine = orientation.to_ras(scan.array[..., 0], scan.affine)
    expected, expected_affine = orientation.to_ras(volume, AFFINES[plane])
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_allclose(affine, expected_affine, atol=1e-6)


def test_a_series_with_a_gap_or_two_images_at_one_place_is_refused(tmp_path):
    for name, places in {"gap": (0, 1, 3), "twice": (0, 1, 1)}.items():
        for number, z in enumerate(places):
            data = files.make(PIXELS, series="1.2.3", position=(0, 0, z))
            files.save(tmp_path / name / f"{number}.dcm", data)
        with pytest.raises(ValueError, match="equal steps needed"):
            formats.read(tmp_path / name)


def test_a_folder_is_one_series_or_each_file_is_one(tmp_path):
    files.write_series(tmp_path / "volumes/one", np.zeros((2, 3, 4), np.int16), np.eye(4))
    files.write_series(tmp_path / "volumes/two", np.zeros((2, 3, 4), np.int16), np.eye(4))
    found = trees.read_tree(tmp_path / "volumes")
    assert [case.images[0].name for case in found.cases] == ["one", "two"]
    for number in range(3):
        files.save(tmp_path / "pictures" / f"{number}.dcm", files.make(PIXELS))
    assert len(trees.read_tree(tmp_path / "pictures").cases) == 3
    files.save(tmp_path / "volumes/one/another.dcm", files.make(PIXELS))
    with pytest.raises(ValueError, match="one: 5 DICOM files of 2 series"):
        trees.read_tree(tmp_path / "volumes")


def test_pictures_of_one_series_get_a_way_out(tmp_path):
    for number in range(3):
        files.save(tmp_path / f"{number}.dcm", files.make(PIXELS, series="1.2.3"))
    with pytest.raises(ValueError, match=r"1 patient to train on.* a folder of its own, or list"):
        Folder(tmp_path, "train", Grid((4, 6)))
    with pytest.raises(ValueError, match=r"\d: a series without positions in space; put each"):
        formats.read(tmp_path)


def test_compressed_pixels_are_decoded(tmp_path):
    data = files.make(PIXELS)
    data.compress(pydicom.uid.RLELossless)
    np.testing.assert_array_equal(read(tmp_path, data).array[..., 0], PIXELS)


def test_no_record_names_a_person_or_a_place(tmp_path):
    for number in range(3):
        files.save(tmp_path / f"{number}.dcm", files.make(PIXELS + number))
    source = Folder(tmp_path, "train", Grid((4, 6)))
    text = json.dumps([source[index].meta for index in range(2)] + [source.fingerprint()])
    assert not any(name in text for name in (files.NAME, "4711", "Clinic"))


def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "case").mkdir()
    with pytest.raises(ValueError, match=r"case: .*a folder without DICOM files"):
        formats.read(tmp_path / "case")
