"""Arrays to start from, masks and classes: what is taken, and what is refused by name."""

import pickle

import nibabel
import numpy as np
import pytest
from PIL import Image
from toy import CLASSES, LABELS

from motfm_jax.sampling.inputs import class_indices, read_masks, start_images

MASK = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(np.uint8)


def save(path, values):
    np.save(path, values)
    return path


def test_masks_are_read_from_every_kind_of_file_alike(tmp_path):
    save(tmp_path / "a.npy", MASK)
    Image.fromarray(MASK).save(tmp_path / "B.PNG")
    palette = Image.fromarray(MASK, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "c.png")
    affine = np.diag([0.5, 0.25, 1, 1])
    nibabel.save(nibabel.Nifti1Image(MASK.T[:, :, None], affine), tmp_path / "d.nii.gz")
    (tmp_path / "notes.txt").write_text("not a mask")
    for paths in (
        [tmp_path],
        [tmp_path / name for name in ("B.PNG", "a.npy", "c.png", "d.nii.gz")],
    ):
        masks = read_masks(paths, LABELS, (4, 6))
        np.testing.assert_array_equal(masks.values, np.stack([MASK] * 4))
        assert [origin[-5:] for origin in masks.origins] == ["B.PNG", "a.npy", "c.png", "ii.gz"]
        assert masks.affines[:3] == [None] * 3 and not masks.are_rows
        np.testing.assert_allclose(np.array(masks.affines[3]) @ [1, 2, 0, 1], affine @ [2, 1, 0, 1])


def test_files_hold_the_values_of_the_data_and_arrays_label_numbers(tmp_path):
    Image.fromarray(np.uint8([0, 90, 255])[MASK]).save(tmp_path / "a.png")
    save(tmp_path / "b.npy", MASK)
    masks = read_masks([tmp_path], LABELS, (4, 6), label_values=(0, 90, 255))
    np.testing.assert_array_equal(masks.values, [MASK, MASK])


def test_volumes_come_in_ras_axes(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask[::-1], np.diag([-1, 1, 1, 1])), tmp_path / "a.nii.gz")
    masks = read_masks([tmp_path / "a.nii.gz"], LABELS, (4, 5, 6))
    np.testing.assert_array_equal(masks.values[0], mask)
    np.testing.assert_array_equal(np.array(masks.affines[0]) @ [0, 1, 2, 1], [-3, 1, 2, 1])


def test_a_mask_of_another_size_is_refused_or_resized_to_the_nearest_label(tmp_path):
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 6:] = 2
    path = save(tmp_path / "a.npy", mask)
    with pytest.raises(ValueError, match=r"a\.npy: mask \(8, 12\).*\(4, 6\); .* use --fit"):
        read_masks([path], LABELS, (4, 6))
    masks = read_masks([path], LABELS, (4, 6), fit="stretch")
    np.testing.assert_array_equal(masks.values[0], mask[::2, ::2])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_an_array_or_its_file_holds_the_labels_of_many_images(tmp_path, dtype):
    labels = np.stack([MASK] * 5).astype(dtype)
    path = save(tmp_path / "m.npy", labels)
    for masks, name in ((labels, "masks"), ([path], str(path))):
        result = read_masks(masks, LABELS, (4, 6), channels=3)
        np.testing.assert_array_equal(result.values, labels)
        assert result.values.dtype == np.uint8 and result.are_rows and result.affines == [None] * 5
        assert result.origins[4] == f"{name}, row 4"


def test_floats_with_a_channel_axis_reach_the_network_unchanged(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 4, 6, 3))
    for masks in (values, [save(tmp_path / "m.npy", values)]):
        result = read_masks(masks, LABELS, (4, 6), channels=3)
        assert result.values.dtype == np.float32 and result.are_rows
        np.testing.assert_array_equal(result.values, values.astype(np.float32))


@pytest.mark.parametrize(
    "values, message",
    [
        (np.full((4, 6), 3), r"m\.npy: label 3 found"),
        (np.full((2, 4, 6), 3), "row 0: label 3 found"),
        (np.full((4, 6), 0.5), r"mask values such as 0\.5.*one array \[N, 4, 6, 3\]"),
        (np.full((4, 6), np.nan), "24 NaN or infinite mask"),
        (np.zeros(6, int), r"mask \(6,\), but"),
        (np.zeros((4, 6, 2), int), r"row 0: mask \(6, 2\)"),
        (np.zeros((2, 4, 6, 1)), r"\(2, 4, 6, 1\), but the network takes floats \[N, 4, 6, 3\]"),
        (np.zeros((2, 4, 6, 3), int), "int64 .*but the network takes floats"),
        (np.full((2, 4, 6, 3), 1e300), "144 values are .*beyond float32"),
        (np.zeros((0, 4, 6), int), "an empty array"),
        (np.zeros((4, 6), complex), "complex128, real numbers needed"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_arrays_that_are_no_masks_of_the_model_are_refused(tmp_path, values, message):
    path = save(tmp_path / "m.npy", values)
    with pytest.raises(ValueError, match=message) as error:
        read_masks([path], LABELS, (4, 6), channels=3)
    assert str(path) in str(error.value)


def test_files_that_are_no_masks_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "colour.png").read_bytes()[:30])
    (tmp_path / "empty").mkdir()
    (tmp_path / "mask.txt").write_text("0")
    for name, message in {
        "none.npy": "no such mask file",
        "empty": "no mask in it",
        "colour.png": "a colour picture",
        "cut.png": "cannot be read",
        "mask.txt": "unknown type of mask",
    }.items():
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            read_masks([tmp_path / name], LABELS, (4, 6))


def test_arrays_to_start_from_become_float32(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4, 8, 2))
    for start in (values, values.astype(np.float16), save(tmp_path / "x.npy", values)):
        result = start_images(start, (4, 8, 2))
        assert result.dtype == np.float32 and result.flags.c_contiguous
        expected = (start if isinstance(start, np.ndarray) else values).astype(np.float32)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros((3, 4, 8, 2), int), r"int64 \(3, 4, 8, 2\), floats \[N, 4, 8, 2\] needed"),
        (np.zeros((4, 8, 2)), r"floats \[N, 4, 8, 2\] needed"),
        (np.zeros((3, 4, 4, 2)), r"\(3, 4, 4, 2\), this model starts from \[N, 4, 8, 2\]"),
        (np.full((3, 4, 8, 2), np.nan), "192 values are NaN"),
        (np.array([{}]), "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_started_from_are_refused(tmp_path, values, message):
    path = save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=message) as error:
        start_images(path, (4, 8, 2))
    assert str(path) in str(error.value)


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_an_npy_is_not_executed(tmp_path):
    save(tmp_path / "a.npy", np.array([Trap(tmp_path / "sprung")], object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert (tmp_path / "sprung").exists(), "the trap works"
    (tmp_path / "sprung").unlink()
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            start_images(tmp_path / name, (4, 8, 1))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("shape", [(10**6, 4, 8, 1), (2**40, 2**40, 1, 1)])
def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path, shape):
    with open(tmp_path / "x.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"1234")
    with pytest.raises(ValueError, match=r"x\.npy: cannot be read"):
        start_images(tmp_path / "x.npy", (4, 8, 1))


def test_classes_are_whole_numbers_one_an_image(tmp_path):
    for values in ([3, 0, 1], np.array([3, 0, 1], np.uint8)):
        for classes in (values, save(tmp_path / "c.npy", values)):
            labels = class_indices(classes, CLASSES)
            assert labels.tolist() == [3, 0, 1] and labels.dtype == np.int32


@pytest.mark.parametrize(
    "values, message",
    [
        ([0, 4], "classes: row 1 is 4, but the classes are 0 to 3: 2CH_ED"),
        ([-1], "row 0 is -1"),
        ([0.0], r"float64 \(1,\), but one whole number an image"),
        ([[0]], r"int64 \(1, 1\), but one whole number"),
        (["2CH_ED"], "real numbers needed"),
    ],
)
def test_arrays_that_are_no_classes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        class_indices(values, CLASSES)
