import os
import pickle

import numpy as np
import pytest

from motfm_jax.data.cache import open_cached
from motfm_jax.data.pickles import PickleSet, read_pickle, to_entry, write_pickle

MASK = np.array([[0, 1, 1, 0], [0, 2, 2, 0], [0, 0, 0, 0]], np.int32)


def entry(index=0, **changes):
    """As the original writes: image (1, H, W) float32, mask (1, H, W) int32."""
    image = np.random.default_rng(index).random((1, 3, 4), np.float32)
    values = {
        "image": image, "mask": MASK[None], "class": index % 3,
        "metadata": {"name": f"scan{index}", "patient": f"p{index}", "age": np.int64(50 + index)},
    }  # fmt: skip
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
    assert record.mask.dtype == np.uint8 and record.label == 1 and valid[0].label == 2
    assert record.meta == {"name": "scan1", "patient": "p1", "age": 51}
    arrays = open_cached(train, tmp_path / "cache")
    np.testing.assert_array_equal(arrays.images[1], record.image)


@pytest.mark.parametrize("shape, size, expected", [
    ((3, 4), (3, 4), (3, 4, 1)),
    ((2, 3, 4), (3, 4), (3, 4, 2)),
    ((5, 3, 4), (5, 3, 4), (5, 3, 4, 1)),
    ((2, 5, 3, 4), (5, 3, 4), (5, 3, 4, 2)),
])  # fmt: skip
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


@pytest.mark.parametrize("given, names, label", [
    ([3, 7, 3], ("3", "7"), 0),
    (["ED", "ES", "ED"], ("ED", "ES"), 0),
    ([np.int32(1), np.array(0), np.array([1.0])], ("0", "1"), 1),
    ([np.array([0, 1.0]), np.array([[1, 0]]), np.array([0, 1])], ("0", "1"), 1),
    ([10, 9, 10], ("9", "10"), 1),
])  # fmt: skip
def test_classes(tmp_path, given, names, label):
    path = save(tmp_path, [entry(**{"class": value}) for value in given])
    source = PickleSet(path, "train", (3, 4))
    assert source.classes == names
    assert source[0].label == source[2].label == label
    assert source[1].label == 1 - label


def test_mask_values_become_consecutive_labels_of_the_whole_file(tmp_path):
    full = np.full((3, 4), 255, np.uint8)
    path = save(tmp_path, [entry(mask=MASK[None] * 85.0)], valid=[entry(mask=full)])
    train, valid = PickleSet(path, "train", (3, 4)), PickleSet(path, "valid", (3, 4))
    assert train.mask_labels == ("background", "label 85", "label 170", "label 255")
    np.testing.assert_array_equal(train[0].mask, MASK)
    assert (valid[0].mask == 3).all()


def test_only_the_image_is_needed(tmp_path):
    path = save(tmp_path, [{"image": np.ones((3, 4), np.int16)}])
    source = PickleSet(path, "train", (3, 4))
    record = source[0]
    assert record.mask is None and record.label is None
    assert source.classes == source.mask_labels == ()
    assert record.meta == {"name": "train[0]", "patient": "train[0]"}


@pytest.mark.parametrize("fit, content", [("pad", (slice(2, 8), slice(1, 9))), ("stretch", (...,))])
def test_another_size_is_fitted(tmp_path, fit, content):
    path = save(tmp_path, [entry(
        image=np.full((1, 3, 4), 5.0, np.float32) * MASK, metadata={"spacing_mm": (2.0, 2.0)})])
    record = PickleSet(path, "train", (10, 8), fit)[0]
    assert record.image.shape == (10, 8, 1) and record.mask.shape == (10, 8)
    assert set(np.unique(record.mask)) == {0, 1, 2}
    expected = (1.0, 1.0) if fit == "pad" else (0.6, 1.0)
    np.testing.assert_allclose(record.meta["spacing_mm"], expected)


def test_round_trip_gives_equal_arrays(tmp_path):
    original = {"train": [entry(0), entry(1)], "test": [entry(2, **{"class": 5})]}
    path = save(tmp_path, original["train"], test=original["test"])
    out = tmp_path / "out.pkl"
    sources = {split: PickleSet(path, split, (3, 4)) for split in original}
    write_pickle(out, {
        split: [to_entry(source[index], source.classes) for index in range(len(source))]
        for split, source in sources.items()
    })  # fmt: skip
    with open(out, "rb") as file:
        written = pickle.load(file)
    for split, entries in original.items():
        for new, old in zip(written[split], entries, strict=True):
            np.testing.assert_array_equal(new["image"], old["image"], strict=True)
            np.testing.assert_array_equal(new["mask"], old["mask"], strict=True)
            assert new["class"] == old["class"] and new["metadata"] == old["metadata"]
    again = read_pickle(out)
    np.testing.assert_array_equal(again["train"][1]["image"], original["train"][1]["image"])


def test_class_names_that_are_words_are_written_as_words(tmp_path):
    path = save(tmp_path, [entry(**{"class": "ED"}), entry(**{"class": "ES"})])
    source = PickleSet(path, "train", (3, 4))
    assert to_entry(source[1], source.classes)["class"] == "ES"


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "out.pkl"
    write_pickle(path, {"train": [{"image": np.zeros((2, 2, 1))}]})
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        write_pickle(path, {"train": [{"image": np.zeros((2, 2, 1)), "metadata": lambda: 0}]})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["out.pkl"]
    with pytest.raises(ValueError, match="split 'dev'"):
        write_pickle(path, {"dev": []})


@pytest.mark.parametrize("changes, message", [
    ({"mask": MASK[None] / 2}, "mask has values such as 0.5, whole numbers"),
    ({"mask": MASK[None] * np.nan}, "mask has values such as nan"),
    ({"mask": MASK[None] - 1}, "mask has the value -1"),
    ({"mask": MASK[None, :2]}, r"mask \(2, 4\) and image \(3, 4\)"),
    ({"mask": np.zeros((3, 3, 4), int)}, r"mask \(3, 3, 4\), one channel"),
    ({"mask": "none"}, "mask is a str"),
    ({"image": [[1, 2]]}, "image is a list"),
    ({"image": np.array(["a"])}, "image is <U1"),
    ({"image": np.zeros((0, 4))}, "image is float64"),
    ({"image": np.zeros((1, 1, 3, 4)), "mask": None}, r"\(1, 1, 3, 4\).*\(H, W\) or \(C, H, W\)"),
    ({"class": 0.5}, "class 0.5"),
    ({"class": np.array([1, 1, 0])}, "one-hot"),
    ({"class": {"a": 1}}, "one-hot"),
])  # fmt: skip
def test_bad_entries_are_named(tmp_path, changes, message):
    path = save(tmp_path, [entry(), entry(**changes)])
    with pytest.raises(ValueError, match=message) as caught:
        PickleSet(path, "train", (3, 4))[1]
    assert "data.pkl: train[1]" in str(caught.value)


def test_a_record_with_nan_is_told_with_file_and_position(tmp_path):
    path = save(tmp_path, [entry(0), entry(7, image=np.full((1, 3, 4), np.nan))])
    with pytest.raises(ValueError, match=r"data\.pkl: train\[1\] \(scan7\): 12 of 12") as caught:
        open_cached(PickleSet(path, "train", (3, 4)), tmp_path / "cache")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("contents, message", [
    ([1, 2], "holds a list"),
    ({"a": 1}, "a dict with the keys 'a'"),
    ({"train": {"image": 1}}, "train is a dict, a list of dicts"),
    ({"train": [1]}, r"train\[0\]: int"),
    ({"train": [{"mask": 1}]}, r"train\[0\]: keys \['mask'\]"),
    ({"valid": [entry()]}, "split 'train' has no entries; the file has: valid 1"),
    ({"train": [entry(**{"class": 1}), entry(**{"class": "a"})]}, "partly numbers"),
    ({"train": [entry(mask=np.arange(100).reshape(1, 10, 10))]}, "more than 64 distinct"),
])  # fmt: skip
def test_bad_files_are_named(tmp_path, contents, message):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(contents))
    with pytest.raises(ValueError, match=message) as caught:
        PickleSet(path, "train", (3, 4))
    assert "data.pkl" in str(caught.value)


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
    before = train.fingerprint()
    save(tmp_path, [entry(3), entry(4)])
    changed = PickleSet(path, "train", (3, 4))
    assert len(reads) == 2 and len(changed) == 2
    assert changed.fingerprint()["files"] != before["files"]
