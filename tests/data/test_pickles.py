import pickle
import re

import numpy as np
import pytest
from tiny import make_config

from motfm_jax import datasets
from motfm_jax.core import encode_mask
from motfm_jax.data.cache import entry_key, open_cached
from motfm_jax.data.convert import to_entry, write_pickle
from motfm_jax.data.integrity import check_pickle
from motfm_jax.data.pickles import PickleSet, read_pickle
from motfm_jax.data.source import Fitted

MASK = np.array([[0, 1, 1, 0], [0, 2, 2, 0], [0, 0, 0, 0]], np.int32)


def entry(index=0, **changes):
    """As the original writes: image (1, H, W) float32, mask (1, H, W) int32."""
    image = np.random.default_rng(index).random((1, 3, 4), np.float32)
    values = {
        "image": image,
        "mask": MASK[None],
        "class": index % 3,
        "metadata": {"name": f"scan{index}", "patient": f"p{index}", "age": np.int64(50 + index)},
    }
    return {**values, **changes}


def save(tmp_path, train, **splits):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps({"train": train, **splits}))
    return path


def record_of(tmp_path, size=(3, 4), **changes):
    return PickleSet(save(tmp_path, [entry(**changes)]), "train", size)[0]


def test_records_of_the_original(tmp_path):
    path = save(tmp_path, [entry(0), entry(1)], valid=[entry(2)], test=[])
    train, valid = PickleSet(path, "train", (3, 4)), PickleSet(path, "valid", (3, 4))
    assert len(train) == 2 and len(valid) == 1
    assert train.classes == valid.classes == ("0", "1", "2")
    assert train.mask_labels == ("background", "label 1", "label 2")
    record = train[1]
    np.testing.assert_array_equal(record.image, entry(1)["image"].transpose(1, 2, 0))
    np.testing.assert_array_equal(record.mask, MASK)
    assert record.image.shape == (3, 4, 1) and record.image.dtype == np.float32
    assert record.label == 1 and valid[0].label == 2
    assert record.meta == {"name": "scan1", "patient": "p1", "age": 51}
    arrays = open_cached(train, tmp_path / "cache")
    np.testing.assert_array_equal(arrays.images[1], record.image)


@pytest.mark.parametrize(
    "shape, size, expected",
    [
        ((3, 4), (3, 4), (3, 4, 1)),
        ((2, 3, 4), (3, 4), (3, 4, 2)),
        ((5, 3, 4), (5, 3, 4), (5, 3, 4, 1)),
        ((2, 5, 3, 4), (5, 3, 4), (5, 3, 4, 2)),
    ],
)
def test_layouts(tmp_path, shape, size, expected):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    mask = np.zeros(size, np.uint8)
    mask[0] = 1
    for masks in (mask, mask[None]):
        record = record_of(tmp_path, size, image=image, mask=masks)
        assert record.image.shape == expected and record.image.dtype == np.uint8
        channels = image.reshape(-1, *size)
        np.testing.assert_array_equal(np.moveaxis(record.image, -1, 0), channels)
        np.testing.assert_array_equal(record.mask, mask)


@pytest.mark.parametrize(
    "given, names, label",
    [
        ([3, 7, 3], ("3", "7"), 0),
        (["ED", "ES", "ED"], ("ED", "ES"), 0),
        ([np.int32(1), np.array(0), np.array([1.0])], ("0", "1"), 1),
        ([np.array([0, 1.0]), np.array([[1, 0]]), np.array([0, 1])], ("0", "1"), 1),
        ([10, 9, 10], ("9", "10"), 1),
    ],
)
def test_classes(tmp_path, given, names, label):
    path = save(tmp_path, [entry(**{"class": value}) for value in given])
    source = PickleSet(path, "train", (3, 4))
    assert source.classes == names
    assert source[0].label == source[2].label == label
    assert source[1].label == 1 - label


def test_mask_labels_are_those_of_the_whole_file(tmp_path):
    full = np.full((3, 4), 255, np.uint8)
    path = save(tmp_path, [entry(mask=MASK[None] * 85.0)], valid=[entry(mask=full)])
    train, valid = PickleSet(path, "train", (3, 4)), PickleSet(path, "valid", (3, 4))
    assert train.mask_labels == ("background", "label 85", "label 170", "label 255")
    assert train.label_values == valid.label_values == (0, 85, 170, 255)
    np.testing.assert_array_equal(Fitted(train, (3, 4), "pad")[0].mask, MASK)
    assert (Fitted(valid, (3, 4), "pad")[0].mask == 3).all()


@pytest.mark.parametrize(
    "values, labels",
    [
        ((0, 255), (0, 1)),
        ((255, 85, 170), (3, 1, 2)),
        ((0, 1, 4), (0, 1, 2)),
        ((0,), (0,)),
        ((3, 4, 100_000), (1, 2, 3)),
    ],
)
def test_labels_are_consecutive_and_scaled_as_the_original_scales_the_values(
    tmp_path, values, labels
):
    mask = np.resize(values, (3, 4))
    source = PickleSet(save(tmp_path, [entry(mask=mask[None])]), "train", (3, 4))
    np.testing.assert_array_equal(source[0].mask, mask)
    found = Fitted(source, (3, 4), "pad")[0].mask
    np.testing.assert_array_equal(found, np.resize(labels, (3, 4)))
    scaled = encode_mask(found, len(source.mask_labels), "scalar", source.label_values)[..., 0]
    np.testing.assert_allclose(scaled, mask / max(mask.max(), 1), rtol=1e-6)


def test_only_the_image_is_needed(tmp_path):
    path = save(tmp_path, [{"image": np.ones((3, 4), np.int16)}])
    source = PickleSet(path, "train", (3, 4))
    record = source[0]
    assert record.mask is None and record.label is None
    assert source.classes == source.mask_labels == ()
    assert record.meta == {"name": "train[0]", "patient": "train[0]"}


@pytest.mark.parametrize("fit, content", [("pad", (slice(2, 8), slice(1, 9))), ("stretch", (...,))])
def test_another_size_is_fitted(tmp_path, fit, content):
    path = save(
        tmp_path,
        [
            entry(
                image=np.full((1, 3, 4), 5.0, np.float32) * MASK,
                metadata={"spacing_mm": (2.0, 2.0)},
            )
        ],
    )
    record = PickleSet(path, "train", (10, 8), fit)[0]
    assert record.image.shape == (10, 8, 1) and record.mask.shape == (10, 8)
    assert set(np.unique(record.mask)) == {0, 1, 2}
    expected = (1.0, 1.0) if fit == "pad" else (0.6, 1.0)
    np.testing.assert_allclose(record.meta["spacing_mm"], expected)


METADATA = {
    "name": "scan",
    "age": np.int64(50),
    "spacing_mm": (2.0, 1.0),
    "nested": {"list": [1, None]},
    "protocol": np.arange(6.0).reshape(2, 3),
    7: "seven",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": MASK[None] * 85},
        {"mask": np.resize(np.int32([0, 1, 1000]), (1, 3, 4))},
        {"mask": MASK, "image": np.ones((3, 4), np.float32)},
        {"image": np.random.default_rng(5).random((3, 3, 4), np.float32)},
        {"class": "007"},
        {"class": "1"},
        {"class": np.int32(4)},
        {"class": "ED"},
        {"metadata": METADATA},
        {"metadata": "a line"},
        {"name": "beside the others"},
    ],
    ids=str,
)
def test_the_originals_file_comes_back_as_it_was(tmp_path, changes):
    """By reading and writing, and example by example, as `prepare_data.py convert` does it."""
    path, out = tmp_path / "in.pkl", tmp_path / "out.pkl"
    splits = {name: [entry(1, **changes), entry(2, **changes)] for name in ("train", "test")}
    path.write_bytes(pickle.dumps(splits))
    sources = {split: PickleSet(path, split, (3, 4)) for split in splits}
    examples = {
        split: [source.entry(index) for index in range(len(source))]
        for split, source in sources.items()
    }
    for entries in (read_pickle(path), examples):
        write_pickle(out, entries)
        assert b"motfm_jax" not in out.read_bytes()
        written = pickle.loads(out.read_bytes())
        assert list(written) == list(splits)
        for split in splits:
            for new, old in zip(written[split], splits[split], strict=True):
                assert list(new) == list(old)
                assert (new["image"].dtype, new["mask"].dtype) == (np.float32, np.int32)
                assert type(new["class"]) is type(old["class"])
                np.testing.assert_equal(new, old)


def test_a_fitted_example_keeps_the_files_values(tmp_path):
    metadata = {**METADATA, "affine": np.diag([2.0, 1, 1, 1])}
    mask = np.repeat(MASK, 2, axis=1) * 85
    path = save(
        tmp_path,
        [
            entry(
                image=np.ones((1, 3, 8), np.float32),
                mask=mask[None],
                metadata=metadata,
                **{"class": "007"},
            )
        ],
    )
    out, source = tmp_path / "out.pkl", PickleSet(path, "train", (6, 8), "stretch")
    write_pickle(out, {"train": [source.entry(0)]})
    (written,) = pickle.loads(out.read_bytes())["train"]
    assert written["class"] == "007" and written["image"].shape == (1, 6, 8)
    np.testing.assert_array_equal(written["mask"], np.repeat(mask, 2, axis=0)[None])
    grid = {"spacing_mm": source[0].meta["spacing_mm"], "affine": source[0].meta["affine"]}
    assert grid["spacing_mm"] == [1.0, 1.0] and grid["affine"] != metadata["affine"].tolist()
    np.testing.assert_equal(written["metadata"], {**metadata, **grid})


def test_a_record_of_any_source_is_written_in_the_originals_layout(tmp_path):
    source = PickleSet(save(tmp_path, [entry(1), entry(2)]), "train", (3, 4))
    write_pickle(tmp_path / "out.pkl", {"train": [to_entry(source[1], source.classes)]})
    (written,) = read_pickle(tmp_path / "out.pkl")["train"]
    np.testing.assert_array_equal(written["image"], entry(2)["image"], strict=True)
    np.testing.assert_array_equal(written["mask"], MASK[None], strict=True)
    assert written["class"] == 2
    assert written["metadata"] == entry(2)["metadata"]


def test_class_names_that_are_words_are_written_as_words(tmp_path):
    path = save(tmp_path, [entry(**{"class": "ED"}), entry(**{"class": "ES"})])
    source = PickleSet(path, "train", (3, 4))
    assert to_entry(source[1], source.classes)["class"] == "ES"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mask": MASK[None] / 2}, "mask has values such as 0.5, whole numbers"),
        ({"mask": MASK[None] * np.nan}, "mask has values such as nan"),
        ({"mask": MASK[None] - 1}, "mask has the value -1"),
        ({"mask": MASK[None] * 1e30}, "mask has the value 2e"),
        ({"mask": MASK[None, :2]}, r"mask \(2, 4\) and image \(3, 4\)"),
        ({"mask": np.zeros((3, 3, 4), int)}, r"mask \(3, 3, 4\), one channel"),
        ({"mask": "none"}, "mask is a str"),
        ({"image": None}, "keys .*a dict with an .image. needed"),
        ({"image": [[1, 2]]}, "image is a list"),
        ({"image": np.array(["a"])}, "image is <U1"),
        ({"image": np.zeros((0, 4))}, "image is float64"),
        (
            {"image": np.zeros((1, 1, 3, 4)), "mask": None},
            r"\(1, 1, 3, 4\).*\(H, W\) or \(C, H, W\)",
        ),
        ({"class": 0.5}, "class 0.5"),
        ({"class": np.array([1, 1, 0])}, "one-hot"),
        ({"class": {"a": 1}}, "one-hot"),
    ],
)
def test_bad_entries_are_named(tmp_path, changes, message):
    path = save(tmp_path, [entry(), entry(**changes)])
    with pytest.raises(ValueError, match=message) as caught:
        PickleSet(path, "train", (3, 4))[1]
    assert "data.pkl: train[1]" in str(caught.value)


@pytest.mark.parametrize(
    "spacing", [[1.0, [2.0]], ["wide", 2.0], [1.0, 10**400], np.array(["a", "b"])]
)
def test_metadata_that_are_no_numbers_are_left_out(tmp_path, spacing):
    grid = {"spacing_mm": spacing, "affine": [[1.0, 0, 0, 0]] * 3 + ["none"]}
    meta = record_of(tmp_path, metadata=grid).meta
    assert "spacing_mm" not in meta and "affine" not in meta
    rows = [np.float32(2), np.array(3)]
    assert record_of(tmp_path, metadata={"spacing_mm": rows}).meta["spacing_mm"] == [2.0, 3.0]


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, np.nan)])
def test_a_spacing_that_cannot_be_is_refused(tmp_path, spacing):
    with pytest.raises(ValueError, match=r"train\[0\]: spacing_mm .* finite numbers"):
        record_of(tmp_path, metadata={"spacing_mm": spacing})


def test_a_record_with_nan_is_told_with_file_and_position(tmp_path):
    path = save(tmp_path, [entry(0), entry(7, image=np.full((1, 3, 4), np.nan))])
    with pytest.raises(ValueError, match=r"data\.pkl: train\[1\]: 12 of 12") as caught:
        open_cached(PickleSet(path, "train", (3, 4)), tmp_path / "cache")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "contents, message",
    [
        ([1, 2], "holds a list"),
        ({"a": 1}, r"a dict with the keys \['a'\]"),
        ({"train": {"image": 1}}, "train is a dict, a list of dicts"),
        ({"train": [1]}, r"train\[0\]: int"),
        ({"train": [{"mask": 1}]}, r"train\[0\]: keys \['mask'\]"),
        ({"valid": [entry()]}, "split 'train' has no entries; the file has: valid 1"),
        ({"train": [entry(**{"class": 1}), entry(**{"class": "a"})]}, "partly numbers"),
        ({"train": [entry(mask=np.arange(100).reshape(1, 10, 10))]}, "more than 64 distinct"),
    ],
)
def test_bad_files_are_named(tmp_path, contents, message):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(contents))
    with pytest.raises(ValueError, match=message) as caught:
        list(PickleSet(path, "train", (3, 4)))
    assert "data.pkl" in str(caught.value)


def coloured(index, shape, alpha=None):
    image = np.random.default_rng(index).random(shape, np.float32)
    if alpha is not None:
        image[3] = alpha
    return {"image": image}


@pytest.mark.parametrize(
    "images, told, refused",
    [
        (
            [coloured(0, (1, 8, 8)), coloured(1, (3, 8, 8))],
            "images of different numbers of channels",
            "3 channels, but train.0. has 1",
        ),
        (
            [coloured(0, (4, 8, 8), 1), coloured(1, (4, 8, 8), 1)],
            "channel 4 is 1 in all images; leave it out if it is alpha",
            "of channel 4 of 4 from 1 to 1 .* leave the channel out",
        ),
        (
            [coloured(0, (8, 8, 3)), coloured(1, (8, 8, 3))],
            r"image \(8, 8, 3\), with its 3 channels last; they come first",
            r"image \(8, 8, 3\), with its 3 channels last; they come first .* \(3, 8, 8\)",
        ),
    ],
    ids=["grey and colour", "alpha", "channels last"],
)
def test_channels_that_cannot_be_are_told_by_check_and_by_training(tmp_path, images, told, refused):
    path = save(tmp_path, images, valid=images)
    report = check_pickle(path)
    assert any(re.search(told, line) for line in report.errors + report.warnings)
    fields = {"data__source": "pickle", "data__root": str(path), "data__size": (8, 8)}
    with pytest.raises(ValueError, match=refused):
        datasets.data(make_config(cond="none", **fields))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pkl: no such file"):
        PickleSet(tmp_path / "none.pkl", "train", (3, 4))


def test_the_file_is_read_once_for_its_splits_and_anew_when_changed(tmp_path, monkeypatch):
    from motfm_jax.data import unpickle

    reads, load = [], unpickle.load
    monkeypatch.setattr(unpickle, "load", lambda path: reads.append(path) or load(path))
    path = save(tmp_path, [entry()], valid=[entry(1)])
    train = PickleSet(path, "train", (3, 4))
    PickleSet(path, "valid", (3, 4))
    assert len(reads) == 1
    before = entry_key(train)
    save(tmp_path, [entry(3), entry(4)])
    changed = PickleSet(path, "train", (3, 4))
    assert len(reads) == 2 and len(changed) == 2
    assert entry_key(changed) != before
