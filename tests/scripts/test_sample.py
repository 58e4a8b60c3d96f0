"""motfm sample as a user calls it."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny import ONE_LEVEL, command, make_config, save_run

from motfm_jax import cli, datasets
from motfm_jax.data.intensity import Intensity
from motfm_jax.sampling.generate import start_noise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = make_config(**ONE_LEVEL)
    return save_run(tmp_path_factory.mktemp("runs") / "echo", config, datasets.data(config).facts)


def sample(run, out, *flags):
    command("sample")([f"--run={run}", f"--out={out}", *flags])
    return json.loads((out / "samples.json").read_text())


def load(out):
    with np.load(out / "samples.npz") as arrays:
        return dict(arrays)


def save(path, values):
    np.save(path, values)
    return path


@pytest.mark.slow
def test_the_names_others_script_against(run, tmp_path, capfd):
    out = tmp_path / "out"
    sidecar = sample(run, out, "--num=5", "--steps=2", "--solver=heun", "--seed=3", "--png")
    arrays = load(out)
    assert arrays["images"].shape == (5, 16, 16, 1) and arrays["images"].dtype == np.float32
    assert arrays["masks"].shape == (5, 16, 16) and set(np.unique(arrays["masks"])) <= {0, 1, 2, 3}
    assert arrays["classes"].tolist() == [0, 1, 2, 3, 0], "the valid split, in order and repeated"
    assert sidecar["calls"] == 4 and sidecar["synthetic"] is True and sidecar["seed"] == 3
    assert sidecar["training_step"] == 7 and len(sidecar["checkpoint"]) == 32
    assert "network calls an image: 4" in capfd.readouterr().out
    assert np.asarray(Image.open(out / "grid.png")).std() > 10
    assert np.asarray(Image.open(out / "sample_0004.png")).shape == (16, 16)


@pytest.mark.slow
def test_conditions_and_noise_come_from_files_and_names(run, tmp_path):
    (tmp_path / "masks").mkdir()
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 2
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    flags = [f"--masks={tmp_path / 'masks'}", "--classes=4CH_ES=2,2CH_ED=1", "--steps=1"]
    seeded = sample(run, tmp_path / "seeded", *flags, "--seed=5")
    arrays = load(tmp_path / "seeded")
    assert arrays["classes"].tolist() == [3, 3, 0]
    np.testing.assert_array_equal(arrays["masks"], np.stack([mask] * 3))
    noise = save(tmp_path / "x0.npy", start_noise(5, np.arange(3), (16, 16, 1)))
    classes = save(tmp_path / "classes.npy", np.array([3, 3, 0]))
    masks = save(tmp_path / "masks.npy", np.stack([mask] * 3))
    flags = [f"--masks={masks}", f"--classes={classes}", f"--noise={noise}", "--steps=1"]
    from_files = sample(run, tmp_path / "files", *flags)
    assert load(tmp_path / "files")["images"].tobytes() == arrays["images"].tobytes()
    assert seeded["seed"] == 5 and from_files["seed"] is None and from_files["num"] == 3
    like = tmp_path / "like"
    sample(run, like, f"--conditions={tmp_path / 'seeded'}", "--steps=1", "--seed=5")
    assert load(like)["images"].tobytes() == arrays["images"].tobytes()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--step=3"], "unrecognized arguments: --step=3"),
        (["--checkpoint=77"], "no checkpoint 77"),
        (["--noise=none.npy", "--seed=0"], "--seed=0 with --noise: nothing is drawn"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2_and_leave_nothing(
    run, tmp_path, monkeypatch, capfd, flags, message
):
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["motfm sample", f"--run={run}", f"--out={out}", *flags])
    with pytest.raises(SystemExit) as exit_:
        cli.run("sample")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert exit_.value.code == 2 and message in line
    assert not out.exists()


@pytest.mark.slow
def test_a_denoiser_starts_from_the_splits_images_or_the_users(tmp_path):
    config = make_config(**ONE_LEVEL, cond="none", flow__source="speckle")
    facts = datasets.data(config).facts
    run = save_run(tmp_path / "run", config, facts)
    sample(run, tmp_path / "split", "--num=2", "--steps=1")
    noisy = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 1)).astype(np.float32)
    flags = [f"--source={save(tmp_path / 'noisy.npy', noisy)}", "--steps=1"]
    sidecar = sample(run, tmp_path / "own", *flags)
    assert sidecar["num"] == 2 and sidecar["seed"] is None
    scaled = save(tmp_path / "scaled.npy", Intensity.from_json(facts.intensity).apply(noisy))
    same = save_run(tmp_path / "same", make_config(**ONE_LEVEL, cond="none"), facts)
    sample(same, tmp_path / "noise", f"--noise={scaled}", "--steps=1")
    np.testing.assert_array_equal(
        load(tmp_path / "own")["images"], load(tmp_path / "noise")["images"]
    )
    with pytest.raises(ValueError, match=r"--noise: the flow of .* starts from images"):
        sample(run, tmp_path / "x", f"--noise={scaled}")
    with pytest.raises(ValueError, match=r"--source: the flow of .* starts from noise"):
        sample(same, tmp_path / "x", *flags)
    with pytest.raises(ValueError, match="--num=0: at "):
        sample(run, tmp_path / "x", "--num=0")
    config.cond = "mask"
    masked = save_run(tmp_path / "masked", config, facts)
    with pytest.raises(ValueError, match="--source without its conditions"):
        sample(masked, tmp_path / "x", *flags)
    with pytest.raises(ValueError, match="without --source"):
        sample(masked, tmp_path / "x", f"--masks={tmp_path / 'noisy.npy'}")
