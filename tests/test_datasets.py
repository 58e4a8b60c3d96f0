"""Sources given from Python, and sources registered from outside the package."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from tiny import FACTS, make_config

from motfm_jax import datasets, settings
from motfm_jax.commands import prepare
from motfm_jax.data import SOURCES
from motfm_jax.data.examination import Content, Item, Report, examine
from motfm_jax.data.facts import Facts
from motfm_jax.data.source import Record


class Given:
    """Records of images and labels in memory; no fingerprint."""

    def __init__(self, images, labels=None, masks=None, **attributes):
        self.images, self.labels, self.masks = images, labels, masks
        vars(self).update(attributes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Record(
            self.images[index],
            None if self.masks is None else self.masks[index],
            None if self.labels is None else self.labels[index],
        )


def images(num, *shape):
    return np.random.default_rng(0).normal(100, 20, (num, *shape))


def read(train, valid=None, **config):
    config = make_config(**{"cond": "none", "data__size": (8, 8)} | config)
    return datasets.data(config, train=train, valid=train if valid is None else valid)


def test_images_are_kept_in_memory_with_names_and_a_channel(caplog):
    caplog.set_level(logging.INFO)
    masks = np.repeat(3 * np.eye(8, dtype=int)[None], 3, axis=0)
    source = Given(images(3, 8, 8), np.array([0, 2, 1]), masks)
    data = read(source, cond="mask+class")
    assert data.train.images.shape == (3, 8, 8, 1) and data.train.folder is None
    np.testing.assert_allclose(data.train.images[..., 0], source.images, rtol=1e-6)
    assert data.train.masks.dtype == np.uint8 and data.train.labels.tolist() == [0, 2, 1]
    assert data.facts.classes == ("0", "1", "2")
    assert data.train.meta[1] == {"name": "example 1", "patient": "example 1"}
    assert len(caplog.records) == 2 and "decoded into memory" in caplog.text


def test_images_of_another_size_are_fitted_like_files():
    from motfm_jax.data import geometry

    image = images(1, 12, 20)[0].astype(np.float32)
    data = read(Given([image], masks=[image > 100]), data__fit="pad")
    expected = geometry.fit(image[..., None], image > 100, None, None, (8, 8), "pad")
    np.testing.assert_array_equal(data.train.images[0], expected.image)
    np.testing.assert_array_equal(data.train.masks[0], expected.mask)


def test_names_are_those_of_the_training_source():
    labels = np.arange(3)
    train = Given(images(3, 8, 8), labels, classes=("a", "b", "c"))
    assert read(train, Given(images(3, 8, 8), labels, classes=("a", "b", "c"))).facts.classes == (
        "a",
        "b",
        "c",
    )
    few = read(Given(images(3, 8, 8), labels), Given(images(1, 8, 8), [0]))
    assert few.valid.classes == few.facts.classes == ("0", "1", "2")
    with pytest.raises(ValueError, match=r"classes of the validation examples.*same `classes`"):
        read(train, Given(images(3, 8, 8), labels, classes=("c", "b", "a")))


def test_classes_without_names_are_the_numbers_that_occur():
    valid = Given(images(2, 8, 8), [255, 7])
    data = read(Given(images(3, 8, 8), [255, 0, 7]), valid)
    assert data.facts.classes == data.valid.classes == ("0", "7", "255")
    assert data.train.labels.tolist() == [2, 0, 1] and data.valid.labels.tolist() == [2, 1]
    old = dataclasses.replace(data.facts, classes=tuple(map(str, range(256))))
    config = make_config(cond="class", data__size=(8, 8))
    again = datasets.data(config, train=valid, valid=valid, facts=old)
    assert again.facts.classes == old.classes and again.train.labels.tolist() == [255, 7]
    with pytest.raises(ValueError, match=r"example 1: class 7, but the training .* only 0, 255"):
        read(Given(images(2, 8, 8), [0, 255]), valid)


def test_patients_of_both_splits_are_named():
    class Patients(Given):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(patient=self.names[index])

    train = Patients(images(2, 8, 8), names=("a", "b"))
    assert read(train, Patients(images(1, 8, 8), names=("c",))).remarks() == []
    (line,) = read(train, Patients(images(1, 8, 8), names=("b",))).remarks()
    assert "patient b, one of 1, is in train and in valid" in line


def test_volumes_with_an_affine_are_turned_like_files():
    """The array's axes lead to the patient's back, left and top."""
    affine = np.array([[0, -2, 0, 5], [-3, 0, 0, 7], [0, 0, 4, 0], [0, 0, 0, 1.0]])

    class Turned(Given):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            return record._replace(affine=affine, spacing_mm=(3, 2, 4), source=record.image + 1)

    volumes = images(2, 8, 8, 8).astype(np.float32)
    source = Turned(volumes, masks=volumes > 100)
    data = read(source, data__size=(8, 8, 8), data__source="python")
    expected = volumes.transpose(0, 2, 1, 3)[:, ::-1, ::-1, :]
    np.testing.assert_array_equal(data.train.images[..., 0], expected)
    np.testing.assert_array_equal(data.train.sources[..., 0], expected + 1)
    np.testing.assert_array_equal(data.train.masks, expected > 100)
    assert data.facts.spacing_mm == (2, 3, 4)
    np.testing.assert_array_equal(
        data.facts.affine, [[2, 0, 0, -9], [0, 3, 0, -14], [0, 0, 4, 0], [0, 0, 0, 1]]
    )
    old = dataclasses.replace(data.facts, affine=affine.tolist())
    config = make_config(cond="none", data__size=(8, 8, 8), data__source="python")
    kept = datasets.data(config, train=source, valid=source, facts=old)
    np.testing.assert_array_equal(kept.valid.images[..., 0], volumes)


@pytest.mark.parametrize(
    "source, message",
    [
        (Given(images(2, 1, 8, 8)), r"^example 0: image \(1, 8, 8\).*channels last"),
        (Given(images(2, 8, 8, 8)), r"example 0: image \(8, 8, 8\).* or are these 8 channels\?"),
        (
            Given([*images(1, 8, 8), *images(1, 8, 8, 3)]),
            "example 1: 3 channels, but example 0 has 1",
        ),
        (Given(images(2, 8, 8), ["a", "b"]), "example 0: label 'a'.*whole number"),
        (Given(images(2, 8, 8), [0, 5], classes=("a",)), r"example 1: class 5, but.*0 to 0 \(a\)"),
        (Given(np.full((2, 8, 8), np.nan)), "example 0: 64 of 64 values are NaN"),
        (Given([]), "no examples"),
        (Given(images(2, 8, 8)), "cond='class' needs classes"),
        ([np.zeros((8, 8))], "example 0 is a ndarray, a Record needed"),
    ],
)
def test_records_that_cannot_be_used_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        read(source, cond="class" if "cond" in message else "none")


def test_several_channels_have_names_and_a_scale_each():
    source = Given(images(2, 8, 8, 8) * np.arange(1, 9), channel_names=[f"c{n}" for n in range(8)])
    facts = read(source).facts
    assert facts.channels == 8 and facts.channel_names[:2] == ("c0", "c1")
    highest = source.images.max(axis=(0, 1, 2))
    np.testing.assert_allclose(facts.intensity["high"], highest, rtol=1e-6)
    again = Facts.from_json(json.loads(json.dumps(facts.to_json())))
    assert again.bounds == facts.bounds and again.channel_names == facts.channel_names


@pytest.mark.parametrize("mode", ["none", "zscore", "minmax"])
def test_the_bounds_of_scores_are_the_range_of_the_training_images(mode):
    source = Given(images(3, 8, 8))
    facts = read(source, data__intensity__mode=mode).facts
    expected = source.images.min(), source.images.max()
    np.testing.assert_allclose(facts.bounds, expected, rtol=1e-5)


def test_a_run_of_before_keeps_its_one_scale():
    old = dataclasses.replace(FACTS, channels=2)
    source = Given(images(3, 8, 8, 2) * (1, 10))
    config = make_config(cond="none", data__size=(8, 8))
    scaling = datasets.data(config, train=source, valid=source, facts=old).facts.intensity
    expected = source.images.min(), source.images.max()
    np.testing.assert_allclose((scaling["low"], scaling["high"]), expected, rtol=1e-6)


def test_a_window_takes_the_place_of_mode_and_scope():
    fields = {"mode": "zscore", "scope": "sample", "window": (80, 120)}
    source = Given(images(3, 8, 8))
    data = read(source, **{f"data__intensity__{name}": value for name, value in fields.items()})
    scaled = data.examples("train")[0]["image"]
    np.testing.assert_allclose(
        scaled[..., 0], (np.clip(source.images[0], 80, 120) - 100) / 20, atol=1e-5
    )


def test_nan_are_filled_before_resampling_and_counted():
    filled = images(2, 16, 16)
    filled[0, 3, 3:6] = 0
    source = Given(np.where(filled == 0, np.nan, filled))
    data = read(source, data__intensity__nan="0")
    np.testing.assert_array_equal(data.train.images, read(Given(filled)).train.images)
    assert [meta.get("filled") for meta in data.train.meta] == [3, None]


def test_labels_lost_by_resizing_and_classes_without_training_are_told():
    """Of 16 columns every second is left, the odd ones: label 5 is in an even one."""
    masks = np.zeros((2, 16, 16), int)
    masks[0, :, 2], masks[:, :, 3] = 5, 1
    train = Given(images(2, 16, 16), [0, 0], masks, classes=("a", "b"))
    valid = Given(images(2, 16, 16), [0, 1], masks * 0, classes=("a", "b"))
    lines = read(train, valid, cond="mask+class").remarks()
    assert lines == [
        "train: at this size nothing is left of label 5 in 1 of 2 masks; a larger "
        "config.data.size keeps small structures",
        "no training example is of class b, so it is never learned",
    ]


def test_training_examples_need_validation_examples():
    with pytest.raises(ValueError, match="valid is missing: give both"):
        datasets.data(make_config(), train=Given(images(2, 8, 8)))
    config = make_config(data__source="python")
    settings.check(config)
    with pytest.raises(ValueError, match=r"given from Python; give them again"):
        datasets.arrays(config, "valid")


class Mine(Given):
    """A source from outside the package: images in one .npy file."""

    dims = (2,)
    needs_root = True
    classes = ()

    @classmethod
    def from_config(cls, data, split):
        whole = np.load(data.root)
        return cls(whole[:-2] if split == "train" else whole[-2:])

    @staticmethod
    def check_config(data):
        if not data.root.endswith(".npy"):
            raise ValueError(f"config.data.root={data.root!r}: an .npy file needed")

    @staticmethod
    def check(root, progress=None):
        report, stack = Report(f"mine {root}"), np.load(root)
        contents = [Content(image[..., None], None, None) for image in stack]
        items = [
            Item(str(i), str(i), "train", "", False, lambda i=i: contents[i])
            for i in range(len(stack))
        ]
        examine(items, (), report, progress)
        return report


def test_a_source_registered_from_outside_is_read_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "mine", Mine)
    path = tmp_path / "images.npy"
    np.save(path, images(5, 16, 16).astype(np.float32))
    fields = {"cond": "none", "data__source": "mine", "data__root": str(path)}
    config = make_config(**fields)
    settings.check(config)
    data = datasets.data(config)
    assert len(data.train) == 3 and len(data.valid) == 2
    assert prepare.main(["check", "--layout=mine", f"--root={path}"]) == 0
    assert "errors: 0" in capsys.readouterr().out
    common = ["--layout=mine", f"--root={path}", "--size", "8", "8"]
    assert prepare.main(["preview", *common, f"--out={tmp_path / 'preview.png'}"]) == 0
    with pytest.raises(ValueError, match="numbers above 0"):
        prepare.main(["preview", *common[:-1], "0"])
    for change, message in (
        ({"data__size": (8, 8, 8)}, "mine is 2-D"),
        ({"data__root": ""}, "root is empty: mine"),
        ({"data__root": "a.txt"}, r"an \.npy file needed"),
        ({"cond": "class"}, "mine data have no classes"),
    ):
        with pytest.raises(ValueError, match=message):
            make_config(**fields | change)
    monkeypatch.delitem(SOURCES, "mine")
    with pytest.raises(ValueError, match=r"source='mine': use one of .*SOURCES\[NAME\]"):
        settings.check(config)


def masked(*values, **attributes):
    """Two images with these values in their masks."""
    masks = np.resize(values, (2, 8, 8))
    return Given(images(2, 8, 8), masks=masks, **attributes)


@pytest.mark.parametrize(
    "source, labels, names, values",
    [
        (masked(0, 255), "", ("0", "255"), (0, 255)),
        (masked(1, 4), "", ("0", "1", "4"), (0, 1, 4)),
        (masked(0, 1), "", ("0", "1"), ()),
        (masked(0, 255), "0:back, 255:lesion", ("back", "lesion"), (0, 255)),
        (masked(0, 1), "back,lesion", ("back", "lesion"), ()),
        (masked(0, 255, mask_labels=("a", "b"), label_values=(255, 0)), "", ("a", "b"), (255, 0)),
    ],
)
def test_mask_values_become_consecutive_labels(source, labels, names, values, caplog):
    caplog.set_level(logging.INFO)
    data = read(source, cond="mask", data__labels=labels)
    assert (data.facts.mask_labels, data.facts.label_values) == (names, values)
    for arrays in (data.train, data.valid):
        restored = np.array(values or range(len(names)))[arrays.masks]
        np.testing.assert_array_equal(restored, source.masks)
        assert arrays.masks.dtype == np.uint8
    assert sum("mask labels" in line for line in caplog.messages) == bool(values)
    again = Facts.from_json(json.loads(json.dumps(data.facts.to_json())))
    assert (again.mask_labels, again.label_values) == (names, values)


def test_validation_masks_are_numbered_as_the_training_masks():
    data = read(masked(0, 1, 4), masked(4), cond="mask")
    assert (data.valid.masks == 2).all()
    with pytest.raises(ValueError, match="label 7 found, only 0, 1, 4 declared"):
        read(masked(0, 1, 4), masked(0, 7), cond="mask")


def test_a_runs_labels_hold_for_its_data():
    """A run of before, whose network has a channel for a value that is never there."""
    old = dataclasses.replace(FACTS, mask_labels=("back", "unused 1", "lesion"), label_values=())
    source = masked(0, 2, mask_labels=("back", "lesion"), label_values=(0, 2))
    config = make_config(cond="mask", data__size=(8, 8))
    data = datasets.data(config, train=source, valid=source, facts=old)
    assert data.facts.mask_labels == old.mask_labels and data.facts.label_values == ()
    np.testing.assert_array_equal(data.valid.masks, source.masks)


def test_grey_levels_are_no_mask_labels():
    with pytest.raises(ValueError, match=r"masks hold 100 values up to 99, .*config\.data\.labels"):
        read(masked(*range(100)), cond="mask")


def test_channels_of_both_splits_must_agree():
    with pytest.raises(ValueError, match="training images have 2 channels, validation images 1"):
        read(Given(images(2, 8, 8, 2)), Given(images(2, 8, 8)))
