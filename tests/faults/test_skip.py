"""data.on_fault=skip: what cannot be read is left out and listed, the rest is what it would be."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from test_data import FLAT, SOLID, camus, content, decathlon, packed

from motfm_jax import datasets, settings, trainer
from motfm_jax.commands import prepare
from motfm_jax.data import nifti
from motfm_jax.data.cache import open_cached
from motfm_jax.data.camus import Camus
from motfm_jax.data.decathlon import Decathlon
from motfm_jax.data.decode import Decoding
from motfm_jax.data.geometry import Grid
from motfm_jax.data.pickles import PickleSet

SKIP = Decoding(on_fault="skip")


def write_pickle(root):
    entries = [
        {"image": content(FLAT, index).astype(np.float32), "metadata": {"name": f"e{index}"}}
        for index in range(5)
    ]
    with open(root / "data.pkl", "wb") as file:
        pickle.dump({"train": entries, "valid": entries[:1]}, file)


SOURCES = {
    "camus": (
        camus,
        lambda root: Camus(root, "train", FLAT[::-1], "stretch"),
    ),
    "decathlon": (
        decathlon,
        lambda root: Decathlon(root, "train", Grid(SOLID, "stretch")),
    ),
    "pickle": (
        write_pickle,
        lambda root: PickleSet(root / "data.pkl", "train", FLAT),
    ),
}


def edit_pickle(change):
    def spoil(root):
        contents = pickle.loads((root / "data.pkl").read_bytes())
        change(contents["train"])
        (root / "data.pkl").write_bytes(pickle.dumps(contents))

    return spoil


def first_file(change):
    """A fault of the file of the first record."""

    def spoil(root):
        source = (
            Camus(root, "train", FLAT)
            if (root / "database_nifti").exists()
            else (Decathlon(root, "train", Grid(SOLID)))
        )
        change(Path(source.where(0)))

    return spoil


def without_label(root):
    description = json.loads((root / "dataset.json").read_text())
    first = Decathlon(root, "train", Grid(SOLID)).entries[0].patient
    for item in description["training"]:
        if first in item["image"]:
            del item["label"]
    (root / "dataset.json").write_text(json.dumps(description))


def absent_patient(root):
    with open(root / "database_split/subgroup_training.txt", "a") as file:
        file.write(" patient0077")


cut = packed(lambda data: data[:99])
FAULTS = {
    ("camus", "cut file"): (first_file(cut), "patient0001_2CH_ED.nii.gz: cannot be read", 1),
    ("camus", "no folder"): (absent_patient, "patient0077_2CH_ED.nii.gz: no such file", 0),
    ("decathlon", "cut file"): (first_file(cut), "cannot be read", 1),
    ("decathlon", "missing"): (first_file(Path.unlink), "no such file", 1),
    ("decathlon", "no label"): (without_label, "has no label", 1),
    ("pickle", "no image"): (
        edit_pickle(lambda entries: entries[0].pop("image")),
        "train[0]: keys",
        1,
    ),
    ("pickle", "NaN"): (
        edit_pickle(lambda entries: entries[0]["image"].fill(np.nan)),
        "train[0]: 96 of 96 values are NaN",
        1,
    ),
}


@pytest.mark.parametrize("loader, fault", FAULTS)
def test_a_fault_stops_unless_it_shall_be_skipped(tmp_path, loader, fault):
    (write, opened), (spoil, said, lost) = SOURCES[loader], FAULTS[loader, fault]
    write(tmp_path)
    whole = open_cached(opened(tmp_path), tmp_path / "cache")
    assert whole.skipped == ()
    spoil(tmp_path)
    with pytest.raises(ValueError):
        open_cached(opened(tmp_path), tmp_path / "cache")
    for _ in range(2):  # decoded, and from the cache
        left = open_cached(opened(tmp_path), tmp_path / "cache", how=SKIP)
        assert len(left.skipped) == 1 and said in left.skipped[0], left.skipped
        assert "\n" not in left.skipped[0]
        assert left.meta == whole.meta[lost:]
        np.testing.assert_array_equal(left.images, whole.images[lost:])
        if whole.masks is not None:
            np.testing.assert_array_equal(left.masks, whole.masks[lost:])


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "Stale file handle"),
        (MemoryError("Unable to allocate 3 GiB"), "no memory left"),
    ],
)
@pytest.mark.parametrize("on_fault", ["stop", "skip"])
def test_an_example_is_not_left_out_for_an_error_that_passes(
    tmp_path, monkeypatch, on_fault, error, said
):
    decathlon(tmp_path)
    source, how = Decathlon(tmp_path, "train", Grid(SOLID, "stretch")), Decoding(on_fault=on_fault)

    def fail(path):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(nifti, "read_nifti", fail)
        with pytest.raises(OSError, match=rf"{said}.*: '{tmp_path}/.*\.nii\.gz'"):
            open_cached(source, tmp_path / "cache", how=how)
    assert open_cached(source, tmp_path / "cache", how=how).skipped == ()


@pytest.mark.parametrize("num_bad", [3, 5])
def test_most_or_all_at_fault_is_refused_and_leaves_nothing(tmp_path, num_bad):
    def spoil(entries):
        for entry in entries[:num_bad]:
            entry["image"].fill(np.inf)

    write_pickle(tmp_path)
    edit_pickle(spoil)(tmp_path)
    source = PickleSet(tmp_path / "data.pkl", "train", FLAT)
    with pytest.raises(ValueError, match=rf"{num_bad} of 5 examples cannot.*half.*train\[0\]"):
        open_cached(source, tmp_path / "cache", how=SKIP)
    assert not any((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("scope, kept", [("dataset", 5), ("sample", 4)])
def test_a_constant_image_is_a_fault_where_it_would_be_scaled_by_itself(
    tmp_path, monkeypatch, scope, kept
):
    monkeypatch.setenv("MOTFM_CACHE", str(tmp_path / "cache"))
    write_pickle(tmp_path)
    edit_pickle(lambda entries: entries[1]["image"].fill(7))(tmp_path)
    made = settings.default()
    made.data.update(
        dict(source="pickle", root=str(tmp_path / "data.pkl"), size=FLAT, on_fault="skip")
    )
    made.data.intensity.scope = scope
    data = datasets.data(made)
    assert len(data.train) == kept and len(data.train.skipped) == 5 - kept
    assert all("constant (7)" in fault for fault in data.train.skipped)


def test_a_run_says_and_keeps_what_was_left_out(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("MOTFM_CACHE", str(tmp_path / "cache"))
    write_pickle(tmp_path)
    edit_pickle(lambda entries: entries[2].pop("image"))(tmp_path)
    made = settings.default()
    made.data.update(
        dict(source="pickle", root=str(tmp_path / "data.pkl"), size=(8, 8), on_fault="skip")
    )
    made.model.update(
        dict(channels=(8, 8), attention=(False, False), head_dim=8, norm_groups=4, res_blocks=1)
    )
    made.train.update(dict(steps=1, batch_size=2, eval_every=9, sample_every=9))
    monkeypatch.setattr(trainer.updates, "fitting", lambda *_: None)
    monkeypatch.setattr(trainer.loop, "train", lambda *_: None)
    trainer.train(made, tmp_path / "run")
    said = caplog.text
    assert "train: 1 left out, listed in skipped.json" in said and "train[2]: keys" in said
    kept = json.loads((tmp_path / "run/skipped.json").read_text())
    assert len(kept["train"]) == 1 and "train[2]" in kept["train"][0] and kept["valid"] == []


def test_converting_leaves_out_and_says(tmp_path, caplog, capsys):
    decathlon(tmp_path)
    cut(Path(Decathlon(tmp_path, "train", Grid(SOLID)).where(0)))
    command = ["convert", "--layout=decathlon", f"--root={tmp_path}", "--size", "8", "8", "4"]
    command.append(f"--out={tmp_path / 'out.pkl'}")
    with pytest.raises(ValueError, match="cannot be read"):
        prepare.main(command)
    assert not (tmp_path / "out.pkl").exists()
    assert prepare.main([*command, "--on-fault=skip"]) == 0
    assert "left out" in caplog.text and "train 3," in capsys.readouterr().out
