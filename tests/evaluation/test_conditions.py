"""Which condition each image gets, and what is refused."""

import dataclasses

import nibabel
import numpy as np
import pytest
from PIL import Image

from motfm_jax.data.cache import Arrays
from motfm_jax.evaluation.conditions import Conditions, choose, parse_classes, read_masks

CLASSES = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
LABELS = ("background", "cavity", "myocardium")


def arrays(count=6, masks=True, labels=True):
    names = [{"name": f"record{index}", "affine": np.eye(4).tolist()} for index in range(count)]
    return Arrays(
        np.zeros((count, 4, 6, 1), np.float32),
        np.arange(count, dtype=np.uint8)[:, None, None] % 3 + np.zeros((count, 4, 6), np.uint8)
        if masks else None,
        np.arange(count, dtype=np.int32) % 2 if labels else None,
        names, CLASSES, LABELS)  # fmt: skip


def chosen(kind, num=None, split=arrays, **rest):
    return choose(
        kind, num=num, classes=CLASSES, mask_labels=LABELS, size=(4, 6), split=split,
        split_name="valid", **rest)  # fmt: skip


def not_opened():
    raise AssertionError("the data is opened though nothing is needed from it")


def test_records_of_a_split_are_taken_in_order_and_repeat():
    conditions = chosen("mask+class", num=8)
    assert conditions.masks[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert conditions.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert conditions.origins[6] == "valid: record0" and conditions.affines[6] == np.eye(4).tolist()
    only_mask, only_class = chosen("mask", num=2), chosen("class", num=2)
    assert only_mask.labels is None and only_class.masks is None
    assert only_class.labels.dtype == np.int32 and only_mask.masks.dtype == np.uint8


def test_what_the_data_is_not_needed_for_does_not_open_it():
    assert chosen("none", num=3, split=not_opened) == Conditions(3)
    assert len(chosen("none", split=not_opened)) == 16
    conditions = chosen("class", class_text="4CH_ES=2,2CH_ED=1", split=not_opened)
    assert conditions.labels.tolist() == [3, 3, 0] and conditions.masks is None


def test_each_asked_class_gets_masks_of_its_own_records():
    conditions = chosen("mask+class", class_text="2CH_ES=4,2CH_ED=1")
    assert conditions.labels.tolist() == [1, 1, 1, 1, 0]
    assert conditions.origins == [f"valid: record{row}" for row in (1, 3, 5, 1, 0)]
    with pytest.raises(ValueError, match="no record of the valid split is 4CH_ES"):
        chosen("mask+class", class_text="4CH_ES=1")


@pytest.mark.parametrize("text, num, labels", [
    ("2CH_ED=2,4CH_ES=1", None, [0, 0, 3]),
    ("2CH_ED=2,4CH_ES=1", 3, [0, 0, 3]),
    ("4CH_ES,2CH_ED", 5, [3, 0, 3, 0, 3]),
    ("3, 1", 3, [3, 1, 3]),
])  # fmt: skip
def test_classes_are_read_from_text(text, num, labels):
    assert parse_classes(text, CLASSES, num).tolist() == labels


@pytest.mark.parametrize("text, num, message", [
    ("2CH", None, "'2CH' is no class of this run; use 2CH_ED, 2CH_ES"),
    ("4", None, "'4' is no class"),
    ("2CH_ED=0", None, "whole number above 0"),
    ("2CH_ED=x", None, "whole number above 0"),
    ("2CH_ED=2", 3, "2 images, but --num=3"),
    ("2CH_ED=2,2CH_ES", None, "for all of the classes or for none"),
])  # fmt: skip
def test_classes_that_cannot_be_are_refused(text, num, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(text, CLASSES, num)


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
    masks, origins, affines = read_masks([tmp_path], LABELS, (4, 6))
    np.testing.assert_array_equal(masks, np.stack([mask] * 4))
    assert [origin[-5:] for origin in origins] == ["a.npy", "b.png", "c.png", "ii.gz"]
    assert affines[:3] == [None] * 3
    np.testing.assert_allclose(np.array(affines[3]) @ [1, 2, 0, 1], affine @ [2, 1, 0, 1])


def test_suffixes_count_in_any_case(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "A.PNG")
    with open(tmp_path / "B.NPY", "wb") as file:
        np.save(file, mask)
    nibabel.save(nibabel.Nifti1Image(mask.T, np.eye(4)), tmp_path / "c.nii.gz")
    (tmp_path / "c.nii.gz").rename(tmp_path / "C.NII.GZ")
    for paths in ([tmp_path], [tmp_path / name for name in ("A.PNG", "B.NPY", "C.NII.GZ")]):
        masks, origins, _ = read_masks(paths, LABELS, (4, 6))
        np.testing.assert_array_equal(masks, np.stack([mask] * 3))
        assert [origin[-5:] for origin in origins] == ["A.PNG", "B.NPY", "II.GZ"]


def test_volumes_keep_the_files_axes(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "a.nii.gz")
    masks, _, _ = read_masks([tmp_path / "a.nii.gz"], LABELS, (4, 5, 6))
    np.testing.assert_array_equal(masks[0], mask)


def test_mask_files_repeat_and_pair_with_the_classes(tmp_path):
    for value in (1, 2):
        np.save(tmp_path / f"{value}.npy", np.full((4, 6), value, np.uint8))
    conditions = chosen(
        "mask+class", num=3, mask_paths=[tmp_path], class_text="2CH_ES,4CH_ED", split=not_opened)
    assert conditions.masks[:, 0, 0].tolist() == [1, 2, 1]
    assert conditions.labels.tolist() == [1, 2, 1]
    assert len(chosen("mask", mask_paths=[tmp_path], split=not_opened)) == 2, "each once by default"
    with pytest.raises(ValueError, match="--masks without --classes"):
        chosen("mask+class", mask_paths=[tmp_path])


def test_a_mask_of_another_size_is_refused_or_resized_to_the_nearest_label(tmp_path):
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 6:] = 2
    np.save(tmp_path / "a.npy", mask)
    with pytest.raises(ValueError, match=r"a\.npy: mask \(8, 12\).*\(4, 6\); .* use --fit"):
        read_masks([tmp_path / "a.npy"], LABELS, (4, 6))
    masks, _, _ = read_masks([tmp_path / "a.npy"], LABELS, (4, 6), fit="stretch")
    np.testing.assert_array_equal(masks[0], mask[::2, ::2])


def write(path, values):
    np.save(path, values)
    return path


@pytest.mark.parametrize("make, message", [
    (lambda folder: folder / "none.npy", "no such mask file"),
    (lambda folder: folder, "no mask in it"),
    (lambda folder: write(folder / "a.npy", np.full((4, 6), 3)), "label 3 found"),
    (lambda folder: write(folder / "a.npy", np.full((4, 6), 0.5)), "whole numbers needed"),
    (lambda folder: write(folder / "a.npy", np.full((4, 6), np.nan)), "24 NaN or infinite mask"),
    (lambda folder: write(folder / "a.npy", np.full((4, 6), 1e20)), "label 1" + "0" * 20),
    (lambda folder: write(folder / "a.npy", np.array([{}])), "cannot be read"),
    (lambda folder: write(folder / "a.npy", np.zeros((4, 6, 2), int)), r"mask \(4, 6, 2\)"),
])  # fmt: skip
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


@pytest.mark.parametrize("kind, rest, message", [
    ("none", {"class_text": "2CH_ED"}, "trained with cond=none; leave --classes out"),
    ("class", {"mask_paths": ["x.png"]}, "trained with cond=class; leave --masks out"),
    ("none", {"num": 0}, "--num=0"),
    ("mask", {"split": lambda: arrays(masks=False)}, "--split=valid: 6 records without masks"),
    ("class", {"split": lambda: arrays(labels=False)}, "without classes"),
])  # fmt: skip
def test_requests_that_the_run_cannot_serve_are_refused(kind, rest, message):
    with pytest.raises(ValueError, match=message):
        chosen(kind, **rest)


def test_the_digest_tells_conditions_apart():
    first, second = chosen("mask+class", num=4), chosen("mask+class", num=4)
    assert first.digest() == second.digest()
    others = [chosen("mask", num=4), chosen("class", num=4), chosen("mask+class", num=5)]
    assert len({first.digest(), *(other.digest() for other in others)}) == 4


@pytest.mark.parametrize("count", [3, 20])
def test_every_mask_file_is_used_once_where_classes_have_no_counts(tmp_path, count):
    for index in range(count):
        np.save(tmp_path / f"{index:02d}.npy", np.full((4, 6), index % 3, np.uint8))
    conditions = chosen("mask+class", mask_paths=[tmp_path], class_text="2CH_ES")
    assert conditions.masks[:, 0, 0].tolist() == [index % 3 for index in range(count)]
    assert conditions.labels.tolist() == [1] * count


@pytest.mark.parametrize("field, names", [("classes", CLASSES[::-1]), ("mask_labels", LABELS[:2])])
def test_a_split_with_other_names_than_the_run_is_refused(field, names):
    other = dataclasses.replace(arrays(), **{field: names})
    with pytest.raises(ValueError, match=f"the data's {field.replace('_', ' ')} are {names[0]}"):
        chosen("mask+class", split=lambda: other)
