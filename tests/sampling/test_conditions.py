"""Which condition each image gets, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from toy import CLASSES, LABELS, make_bundle

from motfm_jax.data.cache import Arrays
from motfm_jax.sampling.conditions import (
    Conditions,
    Selection,
    choose,
    of_samples,
    parse_classes,
)
from motfm_jax.sampling.outputs import FORMAT

MASKS = np.arange(4)[:, None, None] % 3 + np.zeros((4, 4, 6), int)
AFFINE = np.eye(4).tolist()
RECORDS = Arrays(
    images=np.zeros((6, 4, 6, 1), np.float32),
    masks=np.arange(6, dtype=np.uint8)[:, None, None] % 3 + np.zeros((6, 4, 6), np.uint8),
    labels=np.arange(6, dtype=np.int32) % 2,
    meta=[{"name": f"record{index}", "affine": AFFINE} for index in range(6)],
    classes=CLASSES,
    mask_labels=LABELS,
)


def chosen(cond, num=None, *, records=lambda split: RECORDS, rows=None, **selection):
    return choose(make_bundle(cond=cond), Selection(num, **selection), records, rows)


def not_opened(split):
    raise AssertionError("the data is opened though nothing is needed from it")


def test_records_of_a_split_are_taken_in_order_and_repeat():
    conditions = chosen("mask+class", num=8)
    assert conditions.masks[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert conditions.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert conditions.origins[6] == "valid: record0" and conditions.affines[6] == AFFINE
    only_mask, only_class = chosen("mask", num=2), chosen("class", num=2)
    assert only_mask.labels is None and only_class.masks is None
    assert only_class.labels.dtype == np.int32 and only_mask.masks.dtype == np.uint8


def test_data_is_not_opened_without_need():
    assert chosen("none", num=3, records=not_opened) == Conditions(3)
    assert len(chosen("none", records=not_opened)) == 16
    conditions = chosen("class", classes="4CH_ES=2,2CH_ED=1", records=not_opened)
    assert conditions.labels.tolist() == [3, 3, 0] and conditions.masks is None


def test_each_class_gets_masks_of_its_own_records(tmp_path):
    np.save(tmp_path / "c.npy", np.array([1, 1, 1, 1, 0]))
    for classes in (
        "2CH_ES=4,2CH_ED=1",
        ["2CH_ES"] * 4 + ["2CH_ED"],
        [1, 1, 1, 1, 0],
        np.array([1, 1, 1, 1, 0]),
        str(tmp_path / "c.npy"),
    ):
        conditions = chosen("mask+class", classes=classes)
        assert conditions.labels.tolist() == [1, 1, 1, 1, 0]
        assert conditions.origins == [f"valid: record{row}" for row in (1, 3, 5, 1, 0)]
    with pytest.raises(ValueError, match="no record of the valid split is 4CH_ES"):
        chosen("mask+class", classes="4CH_ES=1")


@pytest.mark.parametrize(
    "text, num, labels, are_rows",
    [
        ("2CH_ED=2,4CH_ES=1", None, [0, 0, 3], True),
        ("2CH_ED=2,4CH_ES=1", 3, [0, 0, 3], True),
        ("4CH_ES, 1", 5, [3, 1], False),
    ],
)
def test_classes_are_read_from_text(text, num, labels, are_rows):
    result, rows = parse_classes(text, CLASSES, num)
    assert (result.tolist(), rows) == (labels, are_rows)


@pytest.mark.parametrize(
    "text, num, message",
    [
        ("2CH", None, "unknown class '2CH'; use 2CH_ED, 2CH_ES"),
        ("4", None, "unknown class '4'"),
        ("2CH_ED=0", None, "whole number above 0"),
        ("2CH_ED=2", 3, "2 images, but --num=3"),
        ("2CH_ED=2,2CH_ES", None, "for all of the classes or for none"),
    ],
)
def test_classes_that_cannot_be_are_refused(text, num, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(text, CLASSES, num)


def test_a_number_is_a_name_where_names_are_numbers():
    assert parse_classes("3", ("0", "2", "3"), None)[0].tolist() == [2]
    with pytest.raises(ValueError, match="unknown class '1'; use 0, 2, 3"):
        parse_classes("1", ("0", "2", "3"), None)
    with pytest.raises(ValueError, match="unknown class '0'; use 1, 2, 3, 4"):
        parse_classes("0", ("1", "2", "3", "4"), None)


def test_mask_files_and_class_names_repeat(tmp_path):
    for value in (1, 2):
        np.save(tmp_path / f"{value}.npy", np.full((4, 6), value, np.uint8))
    options = dict(masks=[tmp_path], records=not_opened)
    conditions = chosen("mask+class", num=3, classes="2CH_ES,4CH_ED", **options)
    assert conditions.masks[:, 0, 0].tolist() == [1, 2, 1]
    assert conditions.labels.tolist() == [1, 2, 1]
    assert len(chosen("mask", **options)) == 2, "each once by default"
    assert len(chosen("mask+class", classes="2CH_ES", **options)) == 2
    with pytest.raises(ValueError, match="--masks without --classes"):
        chosen("mask+class", **options)


def test_rows_of_arrays_belong_to_the_images_one_by_one():
    classes = np.array([3, 2, 1, 0])
    whole = chosen(
        "mask+class", masks=MASKS, classes=classes, records=not_opened, rows={"--noise": 4}
    )
    assert whole.masks[:, 0, 0].tolist() == [0, 1, 2, 0] and whole.labels.tolist() == [3, 2, 1, 0]
    assert whole.origins[3] == "masks, row 3" and not whole.raw_masks
    floats = np.eye(3)[MASKS] / 7
    first = chosen("mask+class", num=3, masks=floats, classes=classes, records=not_opened)
    assert len(first) == 3 and first.labels.tolist() == [3, 2, 1] and first.raw_masks
    np.testing.assert_array_equal(first.masks, np.float32(floats[:3]))
    assert first.digest() != whole.digest()


def test_each_condition_is_repeated_in_a_row_and_num_counts_all_images():
    conditions = chosen("mask+class", num=6, repeat=3)
    assert conditions.masks[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert conditions.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert conditions.origins[2:4] == ["valid: record0", "valid: record1"]
    assert conditions.affines == [AFFINE] * 6
    assert chosen("class", classes=[3, 1], repeat=2).labels.tolist() == [3, 3, 1, 1]
    assert len(chosen("none", repeat=2, rows={"--noise": 8})) == 8
    assert len(chosen("mask", repeat=2)) == 32


def test_arrays_to_start_from_decide_how_many_where_conditions_repeat():
    rows = {"--noise": 5}
    assert len(chosen("none", records=not_opened, rows=rows)) == 5
    assert len(chosen("none", num=2, records=not_opened, rows=rows)) == 2
    assert chosen("mask+class", rows=rows).labels.tolist() == [0, 1, 0, 1, 0]
    assert chosen("class", classes="2CH_ES,3", rows=rows).labels.tolist() == [1, 3, 1, 3, 1]


@pytest.mark.parametrize(
    "cond, selection, message",
    [
        ("none", dict(classes="2CH_ED"), "trained with cond=none; leave --classes out"),
        ("class", dict(masks=["x.png"]), "trained with cond=class; leave --masks out"),
        ("none", dict(num=0), "--num=0"),
        ("class", dict(num=7, repeat=2), "--repeat=2 with --num=7: a divisor of it needed"),
        ("class", dict(num=7, repeat=0), "--repeat=0 with --num=7"),
        ("none", dict(repeat=2, rows={"--noise": 5}), "--repeat=2 with --noise=5"),
        ("mask", dict(masks=MASKS, rows={"--noise": 5}), "--noise holds 5, --masks holds 4: as"),
        ("class", dict(classes="2CH_ED=2", rows={"--noise": 5}), "5, --classes holds 2"),
        ("mask+class", dict(masks=MASKS, classes=[0, 1]), "--masks holds 4, --classes holds 2"),
        ("none", dict(num=6, rows={"--noise": 5}), "--num=6: --noise holds 5; leave --num out"),
        ("mask", dict(num=6, masks=MASKS), "--num=6: --masks holds 4"),
    ],
)
def test_wishes_that_cannot_be_served_are_refused(cond, selection, message):
    with pytest.raises(ValueError, match=message):
        chosen(cond, **{"records": not_opened, **selection})


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(masks=None), "--split=valid: 6 records without masks"),
        (dict(labels=None), "without classes"),
        (dict(classes=CLASSES[::-1]), "the data's classes are 4CH_ES"),
        (dict(mask_labels=LABELS[:2]), "the data's mask labels are background, cavity, the"),
    ],
)
def test_records_without_the_models_conditions_are_refused(changes, message):
    other = dataclasses.replace(RECORDS, **changes)
    with pytest.raises(ValueError, match=message):
        chosen("mask+class", records=lambda split: other)


def saved_samples(folder, **condition):
    """A folder of samples, as far as conditions are read from it."""
    there = {
        "mask_labels": LABELS,
        "classes": ["4CH_ES", "2CH_ES", "2CH_ES", "2CH_ED"],
        **condition,
    }
    sidecar = {"format": FORMAT, "settings": {"raw": False}, "condition": there}
    (folder / "samples.json").write_text(json.dumps(sidecar))
    np.savez(folder / "samples.npz", masks=MASKS)
    return folder


def test_masks_and_classes_of_other_samples_are_taken_as_far_as_the_model_takes_them(tmp_path):
    folder = saved_samples(tmp_path)
    for cond in ("mask", "class", "mask+class"):
        model = make_bundle(cond=cond)
        selection = of_samples(model, folder, Selection(3))
        conditions = choose(model, selection, not_opened)
        masks = MASKS[:3] if "mask" in cond else None
        np.testing.assert_array_equal(conditions.masks, masks)
        labels = [3, 1, 1] if "class" in cond else None
        np.testing.assert_array_equal(conditions.labels, labels)


@pytest.mark.parametrize(
    "cond, saved, selection, message",
    [
        ("none", {}, {}, "trained with cond=none; leave it out"),
        ("mask", {"mask_labels": LABELS[:2]}, {}, "its mask labels are background, cavity, the"),
        ("mask", {"mask_labels": None}, {}, "its mask labels are none, the model's background"),
        ("class", {"classes": None}, {}, "its images have no class"),
        ("mask", {}, {"masks": MASKS}, "with --masks: both say what is sampled"),
    ],
)
def test_other_samples_without_what_the_model_needs_are_refused(
    tmp_path, cond, saved, selection, message
):
    folder = saved_samples(tmp_path, **saved)
    with pytest.raises(ValueError, match=message):
        of_samples(make_bundle(cond=cond), folder, Selection(**selection))


def test_the_digest_tells_conditions_apart():
    first, second = chosen("mask+class", num=4), chosen("mask+class", num=4)
    assert first.digest() == second.digest()
    others = [chosen("mask", num=4), chosen("class", num=4), chosen("mask+class", num=5)]
    assert len({first.digest(), *(other.digest() for other in others)}) == 4
