"""Noise, masks and classes from files: what is taken, and what is refused by name."""

import pickle
import struct
import zlib

import nibabel
import numpy as np
import pytest
from motfm_jax.sampling.given import known, read_classes, read_masks, read_noise
from PIL import Image

from motfm_jax.data.records import Facts

CLASSES = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
LABELS = ("background", "cavity", "myocardium")


def test_masks_are_read_from_every_kind_of_file_alike(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(np.uint8)
    np.save(tmp_path / "a.npy", mask)
    Image.fromarray(mask).save(tmp_path / "b.png")
    palette = Image.fromarray(mask, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "c.png")
    affine = np.diag([0.5, 0.25, 1, 1])
    nibabel.save(nibabel.Nifti1Image(mask.T[:, :, None], affine), tmp_path / "d.nii.gz")
    (tmp_path / "notes.txt").write_text("not a mask")
    masks, origins, affines, are_rows = read_masks([tmp_path], LABELS, (4, 6))
    np.testing.assert_array_equal(masks, np.stack([mask] * 4))
    assert [origin[-5:] for origin in origins] == ["a.npy", "b.png", "c.png", "ii.gz"]
    assert affines[:3] == [None] * 3 and not are_rows
    np.testing.assert_allclose(np.array(affines[3]) @ [1, 2, 0, 1], affine @ [2, 1, 0, 1])


def test_suffixes_count_in_any_case(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "A.PNG")
    with open(tmp_path / "B.NPY", "wb") as file:
        np.save(file, mask)
    nibabel.save(nibabel.Nifti1Image(mask.T, np.eye(4)), tmp_path / "c.nii.gz")
    (tmp_path / "c.nii.gz").rename(tmp_path / "C.NII.GZ")
    for paths in ([tmp_path], [tmp_path / name for name in ("A.PNG", "B.NPY", "C.NII.GZ")]):
        masks, origins, *_ = read_masks(paths, LABELS, (4, 6))
        np.testing.assert_array_equal(masks, np.stack([mask] * 3))
        assert [origin[-5:] for origin in origins] == ["A.PNG", "B.NPY", "II.GZ"]


def test_volumes_keep_the_files_axes(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "a.nii.gz")
    masks, *_ = read_masks([tmp_path / "a.nii.gz"], LABELS, (4, 5, 6))
    np.testing.assert_array_equal(masks[0], mask)


def test_a_mask_of_another_size_is_refused_or_resized_to_the_nearest_label(tmp_path):
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 6:] = 2
    np.save(tmp_path / "a.npy", mask)
    with pytest.raises(ValueError, match=r"a\.npy: mask \(8, 12\).*\(4, 6\); .* use --fit"):
        read_masks([tmp_path / "a.npy"], LABELS, (4, 6))
    masks, *_ = read_masks([tmp_path / "a.npy"], LABELS, (4, 6), fit="stretch")
    np.testing.assert_array_equal(masks[0], mask[::2, ::2])


def write(path, values):
    np.save(path, values)
    return path


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: folder / "none.npy", "no such mask file"),
        (lambda folder: folder, "no mask in it"),
        (lambda folder: write(folder / "a.npy", np.full((4, 6), 3)), "label 3 found"),
        (lambda folder: write(folder / "a.npy", np.full((4, 6), 0.5)), "whole numbers needed"),
        (
            lambda folder: write(folder / "a.npy", np.full((4, 6), np.nan)),
            "24 NaN or infinite mask",
        ),
        (lambda folder: write(folder / "a.npy", np.full((4, 6), 1e20)), "label 1" + "0" * 20),
        (lambda folder: write(folder / "a.npy", np.array([{}])), "cannot be read"),
        (lambda folder: write(folder / "a.npy", np.zeros((4, 6, 2), int)), r"row 0: mask \(6, 2\)"),
        (lambda folder: write(folder / "a.npy", np.zeros(6, int)), r"mask \(6,\), but"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_masks_that_cannot_be_are_refused_by_name(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        read_masks([path], LABELS, (4, 6))
    assert str(path) in str(error.value)


def test_a_colour_picture_or_a_damaged_one_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a colour picture"):
        read_masks([tmp_path / "a.png"], LABELS, (4, 6))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:30])
    with pytest.raises(ValueError, match=r"b\.png: cannot be read"):
        read_masks([tmp_path / "b.png"], LABELS, (4, 6))


@pytest.mark.parametrize(
    "width, height, message",
    [
        (60_000, 60_000, "cannot be read"),
        (0, 4, "cannot be read"),
        (9_000, 9_000, ".*9000 x 9000 pix"),
    ],
)
def test_a_picture_of_a_size_that_cannot_be_is_refused(tmp_path, width, height, message):
    """Pillow has errors of its own for the first two."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = struct.pack(">I", 4) + b"IDAT"
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)
    with pytest.raises(ValueError, match=rf"a\.png: {message}"):
        read_masks([tmp_path / "a.png"], LABELS, (4, 6))


def test_one_npy_holds_the_labels_of_many_images(tmp_path):
    masks = np.random.default_rng(0).integers(0, 3, (5, 4, 6))
    for dtype in (np.uint8, np.int64, np.float64):
        path = write(tmp_path / "m.npy", masks.astype(dtype))
        read = read_masks([path], LABELS, (4, 6), channels=3)
        np.testing.assert_array_equal(read.values, masks)
        assert read.values.dtype == np.uint8 and read.are_rows and read.affines == [None] * 5
        assert read.origins[4] == f"{path}, row 4"
    twice = read_masks(
        [write(tmp_path / "n.npy", masks.repeat(2, 1).repeat(2, 2))], LABELS, (4, 6), fit="stretch"
    )
    np.testing.assert_array_equal(twice.values, masks)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_with_a_channel_axis_reach_the_network_untouched(tmp_path, dtype):
    values = np.random.default_rng(0).normal(size=(5, 4, 6, 3)).astype(dtype)
    path = write(tmp_path / "m.npy", values)
    for labels in (LABELS, ()):
        read = read_masks([path], labels, (4, 6), channels=3)
        assert read.values.dtype == np.float32 and read.are_rows
        np.testing.assert_array_equal(read.values, values.astype(np.float32))


@pytest.mark.parametrize(
    "values, labels, message",
    [
        (
            np.full((2, 4, 6), 0.5),
            LABELS,
            r"row 0: mask values such as 0\.5.*one npy \[N, 4, 6, 3\]",
        ),
        (np.full((4, 6), 0.5), LABELS, r"mask values such as 0\.5.*one npy \[N, 4, 6, 3\]"),
        (np.zeros((2, 4, 6, 1)), LABELS, r"\(2, 4, 6, 1\), but the network takes floats \[N, 4, 6"),
        (np.zeros((2, 4, 5, 3)), LABELS, r"\(2, 4, 5, 3\), but the network takes floats \[N, 4, 6"),
        (np.zeros((2, 4, 6, 3), int), LABELS, "int64 .*but the network takes floats"),
        (np.full((2, 4, 6, 3), np.inf), LABELS, "144 values are NaN, infinite"),
        (np.full((2, 4, 6, 3), 1e300), LABELS, "144 values are .*beyond float32"),
        (np.full((2, 4, 6), 3), LABELS, "row 0: label 3 found"),
        (np.zeros((0, 4, 6), int), LABELS, "an empty array"),
        (np.zeros((2, 4, 6), int), (), r"row 0: labels cannot.*floats \[N, 4, 6, 3\].*with --data"),
        (np.zeros((4, 6), int), (), r"m\.npy: labels cannot be encoded"),
        (np.zeros((4, 6), complex), LABELS, "complex128, real numbers needed"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_arrays_that_are_no_masks_of_the_run_are_refused(tmp_path, values, labels, message):
    path = write(tmp_path / "m.npy", values)
    with pytest.raises(ValueError, match=message) as error:
        read_masks([path], labels, (4, 6), channels=3)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("size", [(4, 8), (0, 0)])
def test_noise_is_read_as_float32_whatever_its_float_type(tmp_path, size):
    values = np.random.default_rng(0).normal(size=(3, 4, 8, 2))
    for dtype in (np.float64, np.float32, np.float16):
        noise = read_noise(write(tmp_path / "x.npy", values.astype(dtype)), size, 2, 2)
        assert noise.dtype == np.float32 and noise.flags.c_contiguous
        np.testing.assert_array_equal(noise, values.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    "values, size, message",
    [
        (np.zeros((3, 4, 8, 2), int), (4, 8), r"type int64, floats \[N, 4, 8, 2\] needed"),
        (
            np.zeros((3, 4, 8, 1)),
            (4, 8),
            r"\(3, 4, 8, 1\), but this run starts from \[N, 4, 8, 2\]",
        ),
        (np.zeros((3, 4, 4, 2)), (4, 8), r"this run starts from \[N, 4, 8, 2\]"),
        (np.zeros((4, 8, 2)), (4, 8), r"this run starts from \[N, 4, 8, 2\]"),
        (np.zeros((3, 4, 8, 1)), (0, 0), r"this run starts from \[N, any, any, 2\]"),
        (np.zeros((3, 4, 4, 8, 2)), (0, 0), r"this run starts from \[N, any, any, 2\]"),
        (np.zeros((3, 4, 6, 2)), (0, 0), r"images \(4, 6\), .*extents divisible by 4"),
        (np.zeros((0, 4, 8, 2)), (4, 8), "an empty array"),
        (np.full((3, 4, 8, 2), np.nan), (4, 8), "192 values are NaN"),
        (np.full((3, 4, 8, 2), -1e39), (4, 8), "192 values are .*beyond float32"),
        (np.array([{}]), (4, 8), "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_noise_that_cannot_be_started_from_is_refused(tmp_path, values, size, message):
    path = write(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=message) as error:
        read_noise(path, size, 2, 2)
    assert str(path) in str(error.value)


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_an_npy_is_not_executed(tmp_path):
    write(tmp_path / "a.npy", np.array([Trap(tmp_path / "sprung")], object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert (tmp_path / "sprung").exists(), "the trap works"
    (tmp_path / "sprung").unlink()
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            read_noise(tmp_path / name, (4, 8), 1, 1)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("shape", [(10**6, 4, 8, 1), (2**70,), (2**40, 2**40, 1, 1)])
def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path, shape):
    with open(tmp_path / "x.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"1234")
    with pytest.raises(ValueError, match=r"x\.npy: cannot be read"):
        read_noise(tmp_path / "x.npy", (4, 8), 1, 1)


@pytest.mark.parametrize("size", [(4, 2**16 + 1), (2**13, 2**13)])
def test_a_picture_that_claims_too_many_pixels_is_refused(tmp_path, size):
    Image.new("1", size).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=rf"m\.png: .*{size[0]} x {size[1]} pixels, at most"):
        read_masks([tmp_path / "m.png"], LABELS, (4, 8), "pad")


def test_classes_are_read_from_integers(tmp_path):
    for dtype in (np.uint8, np.int64):
        labels = read_classes(write(tmp_path / "c.npy", np.array([3, 0, 1], dtype)), CLASSES)
        assert labels.tolist() == [3, 0, 1] and labels.dtype == np.int32


@pytest.mark.parametrize(
    "values, message",
    [
        (np.array([0, 4]), "row 1 is 4, but the classes are 0 to 3: 2CH_ED"),
        (np.array([-1]), "row 0 is -1"),
        (np.array([0.0]), r"float64 \(1,\), but one whole number an image"),
        (np.array([[0]]), r"int64 \(1, 1\), but one whole number"),
        (np.array(["2CH_ED"]), "real numbers needed"),
    ],
)
def test_arrays_that_are_no_classes_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        read_classes(write(tmp_path / "c.npy", values), CLASSES)


def facts(size=(4, 8), intensity=True):
    return Facts(size, 1, CLASSES, LABELS, {"mode": "none"} if intensity else None)


def test_a_run_that_knows_everything_needs_nothing_and_one_that_does_not_takes_the_noises_size():
    assert known("run", facts(), None, raw=False) == facts()
    noise = np.zeros((2, 16, 32, 1), np.float32)
    assert known("run", facts((0, 0)), noise, raw=False) == facts((16, 32))
    assert known("run", facts((0, 0), False), noise, raw=True) == facts((16, 32), False)


@pytest.mark.parametrize(
    "size, intensity, raw, message",
    [
        (
            (0, 0),
            False,
            False,
            r"the extents and intensities .*give --noise and --raw, or .* --data$",
        ),
        ((0, 0), False, True, r"the extents of .*give --noise, or .* --data or --size$"),
        ((4, 8), False, False, r"the intensities of .*give --raw, or .* --data$"),
    ],
)
def test_what_a_converted_run_lacks_is_said_in_one_line(size, intensity, raw, message):
    with pytest.raises(ValueError, match=f"^runs/x: was converted without its data.*{message}"):
        known("runs/x", facts(size, intensity), None, raw)
