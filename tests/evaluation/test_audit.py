"""Memorisation: copies are found and named, unseen images are not accused."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation import audit, sets
from motfm_jax.evaluation.audit import Auditor
from motfm_jax.evaluation.sets import in_memory, stored
from motfm_jax.evaluation.spaces import Features
from motfm_jax.metrics import nearest

NUM_TRAIN, NUM_HELD_OUT = 40, 60


def make_arrays(seed, num, split):
    images = np.random.default_rng(seed).integers(0, 256, (num, 16, 16, 1)).astype(np.uint8)
    return Arrays(images, None, None, [{"name": f"{split}{index}"} for index in range(num)])


TRAIN, HELD_OUT = make_arrays(0, NUM_TRAIN, "train"), make_arrays(1, NUM_HELD_OUT, "valid")
INTENSITY = Intensity.fit(TRAIN.images, "minmax", "dataset", (-1.0, 1.0), (0.5, 99.5))


def audit_of(images, out=None, held_out=HELD_OUT, **settings):
    return Auditor(TRAIN, held_out, INTENSITY, **settings)(in_memory(images), out)


def unseen(num):
    return make_arrays(2, num, "").images.astype(np.float32)


def test_moved_copies_are_all_found_and_named(tmp_path):
    copies = np.roll(TRAIN.images[[7, 3]].astype(np.float32), (1, -2), (1, 2))
    report = audit_of(np.concatenate([copies, unseen(6)]), tmp_path)
    assert report["share_closer"] >= 2 / 8
    for entry, name in zip(report["nearest"], ("train7", "train3")):
        assert entry["train"] == name and entry["shift"] == [1, -2]
        assert entry["distance"] < 1e-3
    assert min(entry["distance"] for entry in report["nearest"][2:]) > 50
    assert json.loads((tmp_path / "audit.json").read_text()) == report
    assert Image.open(tmp_path / "audit.png").width > 100


def test_copies_of_each_kind_of_mask_are_counted_apart():
    masks = np.zeros((NUM_TRAIN, 16, 16), np.uint8)
    masks[np.arange(NUM_TRAIN), np.arange(NUM_TRAIN) % 16, np.arange(NUM_TRAIN) // 16] = 1
    train = dataclasses.replace(TRAIN, masks=masks)
    images = np.concatenate([TRAIN.images[:4].astype(np.float32), unseen(8)])
    made = in_memory(images, np.concatenate([masks[:4], np.roll(masks[:8], 8, axis=2)]))
    report = Auditor(train, HELD_OUT, INTENSITY, max_shift=1)(made)
    assert report["by_masks"]["training"] == {"num": 4, "share_closer": 1.0}
    assert report["by_masks"]["other"]["num"] == 8
    assert report["by_masks"]["other"]["share_closer"] < 0.5
    assert "of 4 from training masks 100.0%" in audit.summary(report)


def test_blemished_training_images_are_found_so_that_the_audit_can_be_believed():
    see = Features("a net", lambda images: images.reshape(len(images), -1)[:, ::7])
    report = audit_of(unseen(100), max_shift=1, features=see)
    assert report["control"] == {"num": 32, "found": 1, "share_closer": 1, "ratio_share": 1}
    assert report["ratio_share"] == report["floor"]["ratio_share"] == 0
    assert 0.35 < report["auc"] < 0.65
    low, high = report["auc_interval"]
    assert low < 0.5 < high
    assert report["features"]["control"]["share_closer"] < 0.5, "pixels alone are not moved back"


def test_unseen_images_of_the_same_kind_are_near_the_expected_share():
    report = audit_of(unseen(200), max_shift=1)
    assert report["share_closer"] < 0.15
    assert abs(report["generated"]["median"] - report["held_out"]["median"]) < 2


@pytest.mark.parametrize(
    "generated, held_out, message",
    [
        (unseen(2), HELD_OUT.take(slice(0, 19)), "19 held-out images: .*needs 20 or more"),
        (unseen(2)[:, :8], HELD_OUT, r"images \(8, 16, 1\) and training images \(16, 16, 1\)"),
        (unseen(2) * np.nan, HELD_OUT, "not finite|NaN"),
    ],
)
def test_what_cannot_be_audited_leaves_nothing(tmp_path, generated, held_out, message):
    with pytest.raises(ValueError, match=message):
        audit_of(generated, tmp_path, held_out)
    assert not list(tmp_path.iterdir())


def test_copies_are_found_by_features_too(tmp_path):
    copies = TRAIN.images[[9, 2]].astype(np.float32)
    see = Features("a net", lambda images: images.reshape(len(images), -1)[:, ::7])
    report = audit_of(np.concatenate([copies, unseen(6)]), tmp_path, features=see)
    seen = report["features"]
    assert "a net" in seen["measure"] and seen["share_closer"] >= 2 / 8
    assert [entry["train"] for entry in seen["nearest"][:2]] == ["train9", "train2"]
    assert seen["nearest"][0]["distance"] < 1e-3 < seen["nearest"][2]["distance"]
    assert (tmp_path / "audit_features.png").exists()
    assert json.loads((tmp_path / "audit.json").read_text()) == report


def test_more_images_take_no_more_memory_and_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "BATCH", 4)
    monkeypatch.setattr(nearest, "BLOCK_PIXELS", 4 * 64 * 64)
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 1)).astype(np.uint8)
    train = Arrays(images, None, None, [{"name": f"train{index}"} for index in range(20)])

    def peak(num):
        path = tmp_path / f"{num}.npz"
        np.savez(path, images=np.roll(images, 1, axis=2)[np.arange(num) % 20].astype(np.float32))
        find = Auditor(train, train, INTENSITY, max_shift=1)
        tracemalloc.start()
        report = find(stored(path), tmp_path)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [entry["train"] for entry in report["nearest"]] == [
            f"train{index % 20}" for index in range(num)
        ]
        return highest

    monkeypatch.setattr(audit.pictures, "write_samples", lambda *_, **__: None)
    peak(8)  # compiles
    assert peak(64) < 1.3 * peak(8)
