"""motfm downstream, and motfm evaluate score with the network it trains."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import command

from motfm_jax import datasets, runs
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation.synthetic import read_generated
from motfm_jax.sampling.outputs import FORMAT

SIZE = (16, 16)


@pytest.fixture
def real(monkeypatch):
    """A run that was never trained, on images whose class is their brightness."""
    labels = np.arange(96, dtype=np.int32) % 2
    noise = np.random.default_rng(0).integers(0, 60, (96, *SIZE, 1))
    images = (noise + 120 * labels[:, None, None, None]).astype(np.uint8)
    meta = [{"name": f"echo{index}", "patient": f"{index}"} for index in range(96)]
    arrays = Arrays(images, None, labels, meta, ("dark", "bright"))
    splits = {"train": slice(0, 48), "valid": slice(48, 72), "test": slice(72, 96)}
    run = SimpleNamespace(intensity=Intensity.fit(images), checkpoint_hash="abc")
    monkeypatch.setattr(runs, "load_run", lambda path, which="best", data_root=None: run)
    monkeypatch.setattr(datasets, "of_run", lambda model, split: arrays.take(splits[split]))
    return arrays


def write_samples(folder, images, labels=None, names=("dark", "bright")):
    folder.mkdir(exist_ok=True)
    made_of = None if labels is None else [names[label] for label in labels]
    given = {} if labels is None else {"classes": labels}
    np.savez(folder / "samples.npz", images=images.astype(np.float32), **given)
    (folder / "samples.json").write_text(
        json.dumps(
            {
                "format": FORMAT,
                "checkpoint": "abc",
                "training_step": 1,
                "settings": {"raw": False},
                "condition": {"classes": made_of},
            }
        )
    )
    return folder


FLAGS = ["--run=run", "--task=classify", "--width=8", "--lr=0.01"]


@pytest.mark.slow
def test_a_network_is_trained_once(real, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [*FLAGS, f"--out={out}", "--epochs=1", "--seeds=1"]
    downstream = command("downstream")
    downstream(flags)
    (row,) = json.loads((out / "downstream.json").read_text())["rows"]
    assert row["trained_on"] == "real"
    printed = capsys.readouterr().out
    assert printed == (out / "downstream.md").read_text() and "Tested on 24 real images" in printed
    network = (out / "network.npz").stat().st_mtime_ns
    downstream(flags)
    assert (out / "network.npz").stat().st_mtime_ns == network


@pytest.mark.slow
def test_generated_images_serve_alone(real, tmp_path):
    good = write_samples(tmp_path / "good", real.images[:32], real.labels[:32])
    flags = [*FLAGS, f"--out={tmp_path}", "--epochs=1", "--seeds=1", "--alone"]
    command("downstream")([*flags, "--synthetic", f"good={good}"])
    rows = json.loads((tmp_path / "downstream.json").read_text())["rows"]
    assert [row["trained_on"] for row in rows] == ["real", "good"]


@pytest.mark.nightly
def test_networks_of_every_kind_are_trained_tested_and_not_trained_again(real, tmp_path, capsys):
    good = write_samples(tmp_path / "good", real.images[:32], real.labels[:32])
    wrong = write_samples(tmp_path / "wrong", real.images[:32], 1 - real.labels[:32])
    out = tmp_path / "out"
    flags = [*FLAGS, f"--out={out}", "--epochs=3"]
    flags += ["--synthetic", f"good={good}", f"wrong={wrong}"]
    downstream = command("downstream")
    downstream([*flags, "--seeds=1"])
    rows = {
        row["trained_on"]: row for row in json.loads((out / "downstream.json").read_text())["rows"]
    }
    assert list(rows) == ["real", "good", "real + good", "wrong", "real + wrong"]
    assert rows["real"]["accuracy"] > 0.9 and rows["good"]["accuracy"] > 0.9
    assert rows["wrong"]["accuracy"] < 0.1
    kept = (out / "network.npz").read_bytes()
    downstream([*flags, "--seeds=1"])
    downstream([*flags, "--seeds=2"])
    assert len(json.loads((out / "downstream.json").read_text())["rows"]) == 10
    assert (out / "network.npz").read_bytes() == kept
    (out / "network.npz").unlink()
    downstream([*flags, "--seeds=2"])
    assert len(json.loads((out / "downstream.json").read_text())["rows"]) == 10
    assert (out / "network.npz").exists()
    with pytest.raises(ValueError, match=r"other settings .*epochs was"):
        downstream([*flags, "--epochs=4"])

    evaluate = command("evaluate")
    evaluate(["score", f"--samples={good}", "--run=run", f"--features={out / 'network.npz'}"])
    report = json.loads((good / "score.json").read_text())
    assert report["num"] == [32, 24] and report["features"] == "resnet18 classify"
    assert [row["images"] for row in report["rows"]] == ["generated", "real, 32 of train"]
    assert report["rows"][0].keys() >= {"density_w1", "frechet", "kernel"}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--synthetic", "good"], "NAME=FOLDER of motfm sample needed"),
        (["--seeds=0"], "--seeds=0: at least 1"),
    ],
)
def test_flags_that_cannot_be(real, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        command("downstream")([*FLAGS, f"--out={tmp_path / 'out'}", *flags])


def test_a_generated_set_has_a_name_of_its_own(real, tmp_path):
    good = write_samples(tmp_path / "good", real.images[:32], labels=real.labels[:32])
    flags = [*FLAGS, f"--out={tmp_path / 'out'}", "--synthetic"]
    with pytest.raises(ValueError, match="a generated set named 'real': another set has that name"):
        command("downstream")([*flags, f"real={good}"])
    with pytest.raises(ValueError, match="a generated set named 'a': another set has that name"):
        command("downstream")([*flags, f"real + a={good}", f"a={good}"])
    with pytest.raises(ValueError, match="NAME is taken"):
        command("downstream")([*flags, f"a={good}", f"a={good}"])


def test_images_without_classes_teach_no_classifier(real, tmp_path):
    bare = write_samples(tmp_path / "bare", real.images[:32])
    with pytest.raises(ValueError, match="made without what --task=classify learns"):
        command("downstream")(
            [
                "--run=run",
                f"--out={tmp_path / 'out'}",
                "--task=classify",
                "--synthetic",
                f"bare={bare}",
            ]
        )


@pytest.mark.parametrize(
    "labels, names, message",
    [
        (
            (0, 1),
            ("light", "dark"),
            "made of the classes dark, light, the real ones are dark, bright",
        ),
        ((0, 1), ("bright", "dark"), "made of the classes bright, dark, the real ones"),
        ((0, 2), ("dark", "bright", "grey"), "made of the classes dark, grey"),
        ((0, -1), ("dark", "bright"), "made of the classes bright, dark"),
    ],
)
def test_images_of_other_classes_are_refused(real, tmp_path, labels, names, message):
    labels = np.resize(np.array(labels, np.int32), 32)
    other = write_samples(tmp_path / "other", real.images[:32], labels, names)
    with pytest.raises(ValueError, match=f"{other}: {message}"):
        read_generated(other, "classify", real)


@pytest.mark.parametrize(
    "names, highest",
    [
        (("background", "tumour"), 1),
        (("background", "heart", "edema"), 1),
        (("background", "heart"), 2),
        (None, 1),
    ],
)
def test_masks_of_other_labels_are_refused(real, tmp_path, names, highest):
    folder, masks = tmp_path / "other", np.zeros((32, *SIZE), np.uint8)
    real = dataclasses.replace(real, masks=masks, mask_labels=("background", "heart"))
    masks[0, 0, 0] = highest

    def write(names):
        write_samples(folder, real.images[:32])
        np.savez(folder / "samples.npz", images=real.images[:32], masks=masks)
        sidecar = json.loads((folder / "samples.json").read_text())
        sidecar["condition"] = {"mask_labels": names}
        (folder / "samples.json").write_text(json.dumps(sidecar))

    write(names)
    with pytest.raises(ValueError, match=r"made of the mask_labels .*, the real ones are backgr"):
        read_generated(folder, "segment", real)
    if highest == 1:
        write(("background", "heart"))
        made = read_generated(folder, "segment", real)
        np.testing.assert_array_equal(made.masks, masks)
        assert made.labels is None


def test_an_archive_without_images_is_refused(real, tmp_path):
    folder = write_samples(tmp_path / "bare", real.images[:4])
    np.savez(folder / "samples.npz", masks=np.zeros(3))
    with pytest.raises(ValueError, match="holds no images"):
        read_generated(folder, "classify", real)
