"""Which condition each image gets, and what is refused."""

import dataclasses

import numpy as np
import pytest

from motfm_jax.data.cache import Arrays
from motfm_jax.sampling.conditions import Conditions, choose, parse_classes

CLASSES = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
LABELS = ("background", "cavity", "myocardium")


def arrays(count=6, masks=True, labels=True):
    names = [{"name": f"record{index}", "affine": np.eye(4).tolist()} for index in range(count)]
    return Arrays(
        np.zeros((count, 4, 6, 1), np.float32),
        np.arange(count, dtype=np.uint8)[:, None, None] % 3 + np.zeros((count, 4, 6), np.uint8)
        if masks
        else None,
        np.arange(count, dtype=np.int32) % 2 if labels else None,
        names,
        CLASSES,
        LABELS,
    )


def chosen(kind, num=None, split=arrays, **rest):
    return choose(
        kind,
        num=num,
        classes=CLASSES,
        mask_labels=LABELS,
        size=(4, 6),
        split=split,
        split_name="valid",
        **rest,
    )


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


@pytest.mark.parametrize(
    "text, num, labels",
    [
        ("2CH_ED=2,4CH_ES=1", None, [0, 0, 3]),
        ("2CH_ED=2,4CH_ES=1", 3, [0, 0, 3]),
        ("4CH_ES,2CH_ED", 5, [3, 0, 3, 0, 3]),
        ("3, 1", 3, [3, 1, 3]),
    ],
)
def test_classes_are_read_from_text(text, num, labels):
    assert parse_classes(text, CLASSES, num).tolist() == labels


@pytest.mark.parametrize(
    "text, num, message",
    [
        ("2CH", None, "'2CH' is no class of this run; use 2CH_ED, 2CH_ES"),
        ("4", None, "'4' is no class"),
        ("2CH_ED=0", None, "whole number above 0"),
        ("2CH_ED=x", None, "whole number above 0"),
        ("2CH_ED=2", 3, "2 images, but --num=3"),
        ("2CH_ED=2,2CH_ES", None, "for all of the classes or for none"),
        (f"2CH_ED={10**30},2CH_ES=1", None, "at most 10000000 images a call"),
    ],
)
def test_classes_that_cannot_be_are_refused(text, num, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(text, CLASSES, num)


def test_mask_files_repeat_and_pair_with_the_classes(tmp_path):
    for value in (1, 2):
        np.save(tmp_path / f"{value}.npy", np.full((4, 6), value, np.uint8))
    conditions = chosen(
        "mask+class", num=3, mask_paths=[tmp_path], class_text="2CH_ES,4CH_ED", split=not_opened
    )
    assert conditions.masks[:, 0, 0].tolist() == [1, 2, 1]
    assert conditions.labels.tolist() == [1, 2, 1]
    assert len(chosen("mask", mask_paths=[tmp_path], split=not_opened)) == 2, "each once by default"
    with pytest.raises(ValueError, match="--masks without --classes"):
        chosen("mask+class", mask_paths=[tmp_path])


@pytest.mark.parametrize(
    "kind, rest, message",
    [
        ("none", {"class_text": "2CH_ED"}, "trained with cond=none; leave --classes out"),
        ("class", {"mask_paths": ["x.png"]}, "trained with cond=class; leave --masks out"),
        ("none", {"num": 0}, "--num=0"),
        ("class", {"num": 10**30}, "at most 10000000 images a call"),
        ("mask", {"split": lambda: arrays(masks=False)}, "--split=valid: 6 records without masks"),
        ("class", {"split": lambda: arrays(labels=False)}, "without classes"),
    ],
)
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


def save(path, values):
    np.save(path, values)
    return path


@pytest.fixture
def files(tmp_path):
    masks = np.arange(4)[:, None, None] % 3 + np.zeros((4, 4, 6), int)
    return {
        "masks": save(tmp_path / "m.npy", masks),
        "raw": save(tmp_path / "raw.npy", masks[..., None] / 7),
        "classes": str(save(tmp_path / "c.npy", np.array([3, 2, 1, 0]))),
        "three": str(save(tmp_path / "three.npy", np.array([3, 2, 1]))),
    }


def test_rows_of_given_arrays_belong_to_the_images_one_by_one(files):
    whole = chosen(
        "mask+class",
        mask_paths=[files["masks"]],
        class_text=files["classes"],
        split=not_opened,
        noise=np.zeros((4, 4, 6, 1)),
    )
    assert whole.masks[:, 0, 0].tolist() == [0, 1, 2, 0] and whole.labels.tolist() == [3, 2, 1, 0]
    assert whole.origins[3] == f"{files['masks']}, row 3" and not whole.raw_masks
    first = chosen(
        "mask+class",
        num=3,
        mask_paths=[files["raw"]],
        class_text=files["classes"],
        split=not_opened,
        mask_channels=1,
    )
    assert len(first) == 3 and first.labels.tolist() == [3, 2, 1] and first.raw_masks
    np.testing.assert_array_equal(first.masks[:, 0, 0, 0], np.float32([0, 1 / 7, 2 / 7]))
    assert first.masks.dtype == np.float32 and first.digest() != whole.digest()


def test_the_noise_says_how_many_where_conditions_repeat(files, tmp_path):
    noise = np.zeros((5, 4, 6, 1))
    assert len(chosen("none", split=not_opened, noise=noise)) == 5
    assert chosen("none", num=2, split=not_opened, noise=noise).num == 2
    assert chosen("mask+class", noise=noise).labels.tolist() == [0, 1, 0, 1, 0]
    assert chosen("class", class_text="2CH_ES,3", noise=noise).labels.tolist() == [1, 3, 1, 3, 1]
    save(tmp_path / "one.npy", np.ones((4, 6), int))
    repeated = chosen(
        "mask+class", mask_paths=[tmp_path / "one.npy"], class_text="2CH_ES", noise=noise
    )
    assert repeated.masks.shape == (5, 4, 6) and repeated.labels.tolist() == [1] * 5


def test_given_classes_get_masks_of_their_own_records(tmp_path):
    path = save(tmp_path / "c.npy", np.array([1, 0, 1]))
    conditions = chosen("mask+class", class_text=str(path))
    assert conditions.origins == [f"valid: record{row}" for row in (1, 0, 3)]


@pytest.mark.parametrize(
    "kind, rest, message",
    [
        (
            "mask",
            {"mask_paths": ["masks"], "noise": 5},
            "--noise holds 5, --masks holds 4: as many",
        ),
        ("class", {"class_text": "three", "noise": 5}, "--noise holds 5, --classes holds 3"),
        (
            "mask+class",
            {"class_text": "three", "mask_paths": ["masks"]},
            "--masks holds 4, --classes holds 3",
        ),
        ("class", {"class_text": "2CH_ED=2", "noise": 5}, "--noise holds 5, --classes holds 2"),
        ("none", {"num": 6, "noise": 5}, "--num=6: --noise holds 5; leave --num out"),
        ("mask", {"num": 6, "mask_paths": ["masks"]}, "--num=6: --masks holds 4"),
        ("class", {"num": 6, "class_text": "three"}, "--num=6: --classes holds 3"),
        ("mask", {"class_text": "three"}, "trained with cond=mask; leave --classes out"),
    ],
)
def test_arrays_of_different_numbers_are_refused_with_the_numbers(files, kind, rest, message):
    rest = {
        "mask_paths": [files[name] for name in rest.get("mask_paths", [])],
        "class_text": str(files.get(rest.get("class_text"), rest.get("class_text", ""))),
        "noise": np.zeros((rest["noise"], 4, 6, 1)) if "noise" in rest else None,
        "num": rest.get("num"),
    }
    with pytest.raises(ValueError, match=message):
        chosen(kind, split=not_opened, **rest)


@pytest.mark.parametrize(
    "kind, class_text, flags",
    [
        ("mask", "", "--masks"),
        ("class", "", "--classes"),
        ("mask+class", "", "--masks and --classes"),
        ("mask+class", "2CH_ED", "--masks"),
    ],
)
def test_a_run_without_data_needs_its_conditions_said(kind, class_text, flags):
    with pytest.raises(ValueError, match=f"converted without its data.*give {flags}, or convert"):
        chosen(kind, class_text=class_text, split=None)
    assert len(chosen("class", class_text="2CH_ED", split=None)) == 16
