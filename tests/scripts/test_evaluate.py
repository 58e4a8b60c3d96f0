import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from motfm_jax import datasets, runs, settings
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.sampling.outputs import FORMAT

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def write(folder: Path) -> list[str]:
    masks = np.zeros((4, 2, 2), np.uint8)
    masks[:, 0, 0], masks[:, 1, 1] = 1, 2
    images = masks.astype(np.float32)
    images[3, 0, 0] = 9  # one cavity is brighter
    np.savez(folder / "samples.npz", images=images[..., None], masks=masks)
    names = ["background", "cavity", "wall"]
    (folder / "samples.json").write_text(
        json.dumps({"format": FORMAT, "settings": {}, "condition": {"mask_labels": names}})
    )
    return ["contrast", f"--samples={folder}", "--darker=cavity", "--brighter=wall"]


def test_contrast_names_labels_and_counts_images(main, tmp_path, capsys):
    main(write(tmp_path))
    assert capsys.readouterr().out == "cavity darker than wall in 75.0% of 4 images\n"


def test_a_label_or_folder_that_is_not_there(main, tmp_path):
    arguments = write(tmp_path)
    with pytest.raises(ValueError, match="no label 'lumen'; there are"):
        main([*arguments[:2], "--darker=lumen", arguments[3]])
    with pytest.raises(ValueError, match=r"no samples.json and samples.npz .*; sample there first"):
        main(["contrast", f"--samples={tmp_path / 'none'}", *arguments[2:]])


@pytest.mark.parametrize(
    "measure, needed", [("contrast", "condition"), ("audit", "training_step and no checkpoint")]
)
def test_a_sidecar_without_what_is_needed_is_named(main, tmp_path, measure, needed):
    arguments = write(tmp_path)
    (tmp_path / "samples.json").write_text(json.dumps({"format": FORMAT, "settings": {}}))
    rest = arguments[2:] if measure == "contrast" else ["--run=run"]
    with pytest.raises(ValueError, match=f"samples.json: no {needed} in it; sample again"):
        main([measure, arguments[1], *rest])


def audited(folder, monkeypatch, *flags, checkpoint="abc"):
    """The arguments of an audit of three copies, with a run that needs no training."""
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1)).astype(np.uint8)
    splits = {"train": slice(0, 40), "valid": slice(40, 80)}
    arrays = Arrays(images, None, None, [{"name": f"echo{index}"} for index in range(80)])
    intensity = Intensity.fit(images, "minmax", "dataset", (-1.0, 1.0), (0.5, 99.5))
    run = SimpleNamespace(checkpoint_hash=checkpoint, intensity=intensity, config=None)
    monkeypatch.setattr(runs, "load_run", lambda path, which: run)
    monkeypatch.setattr(datasets, "arrays", lambda config, split: arrays.take(splits[split]))
    np.savez(folder / "samples.npz", images=images[[5, 6, 7]].astype(np.float32))
    (folder / "samples.json").write_text(
        json.dumps(
            {"format": FORMAT, "checkpoint": "abc", "training_step": 9, "settings": {"raw": False}}
        )
    )
    return ["audit", f"--samples={folder}", "--run=run", *flags]


def test_an_audit_tells_the_share_and_writes_the_pairs(main, tmp_path, capsys, monkeypatch):
    main(audited(tmp_path, monkeypatch))
    assert capsys.readouterr().out.startswith("100.0% of 3 images lie closer to a training image")
    report = json.loads((tmp_path / "audit.json").read_text())
    assert [entry["train"] for entry in report["nearest"]] == ["echo5", "echo6", "echo7"]
    assert (tmp_path / "audit.png").exists()


def test_an_audit_against_other_weights_or_the_training_images_is_refused(
    main, tmp_path, monkeypatch
):
    with pytest.raises(ValueError, match="other weights than step 9 of run"):
        main(audited(tmp_path, monkeypatch, checkpoint="other"))
    with pytest.raises(ValueError, match="--split=train: held-out images needed"):
        main(audited(tmp_path, monkeypatch, "--split=train"))


def test_a_score_stands_beside_its_floor(main, tmp_path, capsys, monkeypatch):
    arguments = audited(tmp_path, monkeypatch)
    main(["score", *arguments[1:], "--split=valid", f"--networks={tmp_path}"])
    assert "without inception and clip" in capsys.readouterr().out
    report = json.loads((tmp_path / "score.json").read_text())
    assert report["num"] == [3, 40]
    assert [row["images"] for row in report["rows"]] == ["generated", "real, 3 of train"]
    assert all(row["density_w1"] > 0 for row in report["rows"])


def test_samples_that_are_damaged_are_named(main, tmp_path, monkeypatch):
    arguments, path = audited(tmp_path, monkeypatch), tmp_path / "samples.npz"
    path.write_bytes(path.read_bytes()[:100])
    for command in (["audit"], ["score", "--split=valid"]):
        with pytest.raises(ValueError, match=r"samples\.npz: cannot be read"):
            main([*command, *arguments[1:]])
    for text in ("", "{}", "[]"):
        (tmp_path / "samples.json").write_text(text)
        with pytest.raises(ValueError, match=r"no samples\.json and samples\.npz of"):
            main(arguments)


def test_restore_is_for_flows_from_images(main, tmp_path, monkeypatch):
    config = settings.default()
    run = SimpleNamespace(config=config, facts=None)
    monkeypatch.setattr(runs, "load_run", lambda path, which: run)
    flags = ["restore", "--run=run", f"--out={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match="starts from noise; train one with"):
        main(flags)
    config.flow.source, config.flow.source_channel = "channel", "T1w"
    with pytest.raises(ValueError, match="starts from T1w, without speckle"):
        main([*flags, "--powers", "0.1"])
    with pytest.raises(ValueError, match=r"--steps=\[0\]"):
        main([*flags, "--steps", "0"])
