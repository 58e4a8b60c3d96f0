"""motfm evaluate on samples written here, with a stand-in for the run."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import command, make_config, save_run

from motfm_jax import datasets, runs
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.sampling.outputs import FORMAT

main = command("evaluate")


def write(folder: Path, images, condition=(), **arrays) -> str:
    np.savez(folder / "samples.npz", images=images, **arrays)
    sidecar = {
        "format": FORMAT,
        "settings": {"raw": False},
        "training_step": 9,
        "checkpoint": "abc",
        "condition": dict(condition),
    }
    (folder / "samples.json").write_text(json.dumps(sidecar))
    return f"--samples={folder}"


def test_contrast_names_labels_and_counts_images(tmp_path, capsys):
    masks = np.zeros((4, 2, 2), np.uint8)
    masks[:, 0, 0], masks[:, 1, 1] = 1, 2
    images = masks.astype(np.float32)
    images[3, 0, 0] = 9  # one cavity is brighter
    names = {"mask_labels": ["background", "cavity", "wall"]}
    samples = write(tmp_path, images[..., None], names, masks=masks)
    main(["contrast", samples, "--darker=cavity", "--brighter=wall"])
    assert capsys.readouterr().out == "cavity darker than wall in 75.0% of 4 images\n"
    with pytest.raises(ValueError, match="no label 'lumen'; there are"):
        main(["contrast", samples, "--darker=lumen", "--brighter=wall"])


def with_a_run(folder, monkeypatch, checkpoint="abc", mode="minmax"):
    """Samples that are three copies, and a run that needs no training."""
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1)).astype(np.uint8)
    splits = {"train": slice(0, 40), "valid": slice(40, 80)}
    arrays = Arrays(images, None, None, [{"name": f"echo{index}"} for index in range(80)])
    intensity = Intensity.fit(images, mode, "dataset", (-1.0, 1.0), (0.5, 99.5))
    facts = SimpleNamespace(bounds=None)  # as of a run of 0.1.0
    model = SimpleNamespace(checkpoint_hash=checkpoint, intensity=intensity, facts=facts)
    monkeypatch.setattr(runs, "load_run", lambda path, which, data_root: model)
    monkeypatch.setattr(datasets, "of_run", lambda model, split: arrays.take(splits[split]))
    return [write(folder, images[[5, 6, 7]].astype(np.float32)), "--run=run"]


def test_an_audit_tells_the_share_and_writes_the_pairs(tmp_path, capsys, monkeypatch):
    main(["audit", *with_a_run(tmp_path, monkeypatch)])
    assert capsys.readouterr().out.startswith("100.0% of 3 images lie closer to a training image")
    report = json.loads((tmp_path / "audit.json").read_text())
    assert [entry["train"] for entry in report["nearest"]] == ["echo5", "echo6", "echo7"]
    assert (tmp_path / "audit.png").exists()


def test_an_audit_against_other_weights_or_the_training_images_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="other weights than step 9 of run"):
        main(["audit", *with_a_run(tmp_path, monkeypatch, checkpoint="other")])
    with pytest.raises(ValueError, match="--split=train: held-out images needed"):
        main(["audit", *with_a_run(tmp_path, monkeypatch), "--split=train"])


def test_a_score_stands_beside_its_floor(tmp_path, capsys, monkeypatch):
    flags = with_a_run(tmp_path, monkeypatch)
    main(["score", *flags, "--split=valid", f"--networks={tmp_path}"])
    assert "without inception and clip" in capsys.readouterr().out
    report = json.loads((tmp_path / "score.json").read_text())
    assert report["num"] == [3, 40]
    assert [row["images"] for row in report["rows"]] == ["generated", "real, 3 of train"]
    assert all(row["density_w1"] > 0 for row in report["rows"])


@pytest.mark.parametrize("mode", ["none", "zscore"])
def test_a_score_takes_the_range_of_the_training_images_for_black_and_white(
    mode, tmp_path, monkeypatch
):
    scores = []
    for each in ("minmax", mode):
        flags = with_a_run(tmp_path, monkeypatch, mode=each)
        main(["score", *flags, "--split=valid", f"--networks={tmp_path}"])
        scores.append(json.loads((tmp_path / "score.json").read_text()))
    assert scores[1]["bounds"] == pytest.approx([0, 255], abs=1e-3)
    for ours, expected in zip(scores[1]["rows"], scores[0]["rows"]):
        assert ours["density_w1"] == pytest.approx(expected["density_w1"], rel=1e-3)


def test_samples_that_are_damaged_or_absent_are_named(tmp_path, monkeypatch):
    flags, path = with_a_run(tmp_path, monkeypatch), tmp_path / "samples.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"samples\.npz: its images cannot be read"):
        main(["audit", *flags])
    (tmp_path / "samples.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no samples\.json and samples\.npz of"):
        main(["audit", *flags])


def test_restore_is_for_flows_from_images(tmp_path):
    run = save_run(tmp_path / "run", make_config(cond="none"))
    with pytest.raises(ValueError, match="starts from noise; train one with"):
        main(["restore", f"--run={run}", f"--out={tmp_path / 'out'}"])
