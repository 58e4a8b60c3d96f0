"""scripts/sample.py as a user calls it."""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from motfm_jax import build, cli, datasets, settings
from motfm_jax.data.intensity import Intensity
from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.sampling.generate import start_noise

SCRIPT = Path(__file__).parents[2] / "scripts" / "sample.py"


def load_script():
    spec = importlib.util.spec_from_file_location("sample_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


class State(NamedTuple):
    """Of a training state, what sampling looks at."""

    params: dict[str, np.ndarray]


def tiny(**data):
    """The config of a mask + class run on 16 x 16 phantoms."""
    config = settings.default()
    config.cond = "mask+class"
    config.data.update(size=(16, 16), phantom_patients=4, **data)
    config.model.update(
        dict(
            channels=(8, 8),
            attention=(False, True),
            res_blocks=1,
            transformer_layers=1,
            head_dim=8,
            norm_groups=4,
            mask_embedding=4,
        )
    )
    return config


def save_run(path, config, facts):
    """A run as if trained: every weight matters."""
    shapes = jax.eval_shape(build.architecture(config, facts).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {
        name: (0.2 * rng.normal(size=leaf.shape) + name.endswith("scale")).astype(np.float32)
        for name, leaf in shapes.items()
    }
    checkpoints = Checkpoints(path / "checkpoints", config.to_dict(), facts.to_json())
    checkpoints.save(7, State(params), valid_loss=1.0)
    checkpoints.wait()
    checkpoints.close()
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny()
    return save_run(tmp_path_factory.mktemp("runs") / "echo", config, datasets.data(config).facts)


def sample(run, out, *flags):
    load_script().main([f"--run={run}", f"--out={out}", *flags])
    return json.loads((out / "samples.json").read_text())


def load(out):
    with np.load(out / "samples.npz") as arrays:
        return dict(arrays)


def exit_code(monkeypatch, capfd, *flags):
    """The code the script exits with, and the one line it says."""
    monkeypatch.setattr("sys.argv", ["sample.py", *map(str, flags)])
    with pytest.raises(SystemExit) as exit_:
        cli.run(load_script().main)
    said = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1
    return exit_.value.code, said[0]


@pytest.mark.slow
def test_the_names_others_script_against(run, tmp_path, capfd):
    out = tmp_path / "out"
    sidecar = sample(run, out, "--num=5", "--steps=2", "--solver=heun", "--seed=3")
    arrays = load(out)
    assert arrays["images"].shape == (5, 16, 16, 1) and arrays["images"].dtype == np.float32
    assert arrays["masks"].shape == (5, 16, 16) and set(np.unique(arrays["masks"])) <= {0, 1, 2, 3}
    assert arrays["classes"].tolist() == [0, 1, 2, 3, 0], "the valid split, in order and repeated"
    assert sidecar["calls"] == 4 and sidecar["synthetic"] is True and sidecar["seed"] == 3
    assert sidecar["training_step"] == 7 and len(sidecar["checkpoint"]) == 32
    assert "network calls an image: 4" in capfd.readouterr().out
    assert np.asarray(Image.open(out / "grid.png")).std() > 10

    other = tmp_path / "batches"
    sample(run, other, "--num=5", "--steps=2", "--solver=heun", "--seed=3", "--batch=1")
    span = np.ptp(arrays["images"])
    np.testing.assert_allclose(load(other)["images"], arrays["images"], atol=1e-4 * span)


def test_one_step_is_one_call_and_not_the_noise(run, tmp_path):
    sidecar = sample(run, tmp_path, "--num=2", "--steps=1", "--trajectory")
    assert sidecar["calls"] == 1
    with np.load(tmp_path / "trajectory.npz") as way:
        start, end = way["states"]
    np.testing.assert_allclose(end, load(tmp_path)["images"], rtol=1e-4, atol=1e-3)
    assert np.abs(end - start).mean() > 1e-3 * np.ptp(start)


@pytest.mark.slow
def test_conditions_come_from_files_and_names(run, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 2
    Image.fromarray(mask).save(folder / "a.png")
    sample(run, tmp_path / "out", f"--masks={folder}", "--classes=4CH_ES=2,2CH_ED=1", "--steps=1")
    arrays = load(tmp_path / "out")
    assert arrays["classes"].tolist() == [3, 3, 0]
    np.testing.assert_array_equal(arrays["masks"], np.stack([mask] * 3))


@pytest.mark.slow
def test_the_same_command_finds_its_images_and_another_is_refused(
    run, tmp_path, monkeypatch, capfd
):
    flags = ["--num=2", "--steps=1"]
    first = sample(run, tmp_path, *flags)
    assert sample(run, tmp_path, *flags) == first
    code, line = exit_code(
        monkeypatch, capfd, f"--run={run}", f"--out={tmp_path}", "--num=2", "--steps=2"
    )
    assert code == 2 and "solver was" in line and "--overwrite" in line
    sidecar = sample(run, tmp_path, "--num=2", "--steps=2", "--overwrite")
    assert sidecar["calls"] == 2


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--solver=eular"], "solver 'eular': use one of euler"),
        (["--solver=adaptive", "--steps=5"], "--steps=5 with --solver=adaptive"),
        (["--solver=ddim"], "--solver=ddim: the run learned a flow"),
        (["--eta=0.5"], "--eta, --spacing: the run learned a flow"),
        (["--num=0"], "--num=0"),
        (["--num=many"], "invalid int value: 'many'"),
        (["--step=3"], "unrecognized arguments: --step=3"),
        (["--checkpoint=77"], "no checkpoint 77"),
        (["--classes=5CH"], "'5CH' is no class of this run"),
        (["--masks=none.png", "--classes=2CH_ED"], "none.png: no such mask file"),
        (["--split=tset"], "tset"),
        (["--batch=-3"], "--batch=-3"),
        (["--seed=-1"], "--seed=-1"),
        (["--noise=none.npy"], "none.npy: no such file"),
        (["--noise=none.npy", "--seed=0"], "--seed=0 with --noise: nothing is drawn"),
        (["--classes=none.npy"], "none.npy: no such file"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2_and_leave_nothing(
    run, tmp_path, monkeypatch, capfd, flags, message
):
    out = tmp_path / "out"
    code, line = exit_code(monkeypatch, capfd, f"--run={run}", f"--out={out}", *flags)
    assert code == 2 and message in line
    assert not out.exists()


def test_a_run_that_is_none_is_said_by_its_path(tmp_path, monkeypatch, capfd):
    code, line = exit_code(monkeypatch, capfd, f"--run={tmp_path / 'x'}", f"--out={tmp_path / 'o'}")
    assert code == 2 and str(tmp_path / "x") in line


def save(path, values):
    np.save(path, values)
    return path


@pytest.mark.slow
def test_the_noise_of_a_seed_given_as_a_file_makes_the_same_images_bit_for_bit(run, tmp_path):
    flags = ["--steps=2", "--classes=2CH_ED"]
    noise = save(tmp_path / "x0.npy", start_noise(5, np.arange(5), (16, 16, 1)).astype(np.float64))
    seeded = sample(run, tmp_path / "seeded", "--num=5", "--seed=5", *flags)
    given = sample(run, tmp_path / "given", f"--noise={noise}", *flags)
    images = load(tmp_path / "given")["images"]
    assert images.tobytes() == load(tmp_path / "seeded")["images"].tobytes()
    assert seeded["seed"] == 5 and given["seed"] is None and given["num"] == 5
    assert given["settings"]["noise"] in given["start_noise"]
    sample(run, tmp_path / "first", f"--noise={noise}", "--num=2", "--batch=3", *flags)
    first = load(tmp_path / "first")["images"]
    np.testing.assert_allclose(first, images[:2], atol=1e-4 * np.ptp(images))


@pytest.mark.slow
def test_raw_images_are_those_before_the_inverse_of_the_scaling(run, tmp_path):
    flags = ["--num=3", "--steps=2"]
    undone = sample(run, tmp_path / "undone", *flags)
    raw = sample(run, tmp_path / "raw", "--raw", *flags)
    intensity = Intensity.from_json(raw["images"]["intensity"])
    images, expected = load(tmp_path / "raw")["images"], load(tmp_path / "undone")["images"]
    span = np.ptp(expected)
    np.testing.assert_allclose(intensity.invert(images), expected, atol=1e-5 * span)
    assert np.abs(images - expected).max() > 0.1 * span
    assert raw["images"]["units"].startswith("as the network gives them: ")
    assert undone["images"]["units"].startswith("those of the training data")


@pytest.mark.slow
def test_labels_and_what_the_network_makes_of_them_give_the_same_images(run, tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (3, 16, 16))
    classes = save(tmp_path / "c.npy", np.array([3, 0, 1]))
    made = {}
    onehot = np.eye(4)[labels]
    for name, masks in (("labels", labels), ("raw", onehot), ("half", 0.5 * onehot)):
        path = save(tmp_path / f"{name}.npy", masks)
        sample(run, tmp_path / name, f"--masks={path}", f"--classes={classes}", "--steps=1")
        made[name] = load(tmp_path / name)
    np.testing.assert_array_equal(made["labels"]["masks"], labels)
    np.testing.assert_array_equal(made["raw"]["masks"], onehot)
    assert made["raw"]["classes"].tolist() == [3, 0, 1]
    span = np.ptp(made["labels"]["images"])
    np.testing.assert_allclose(made["raw"]["images"], made["labels"]["images"], atol=1e-5 * span)
    assert np.abs(made["half"]["images"] - made["labels"]["images"]).max() > 1e-3 * span


@pytest.mark.slow
def test_an_interrupted_call_with_other_noise_is_refused(run, tmp_path, monkeypatch, capfd):
    x0 = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
    first, second = save(tmp_path / "a.npy", x0), save(tmp_path / "b.npy", x0[::-1])
    out, flags = tmp_path / "out", ["--steps=1", "--batch=2"]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("motfm_jax.sampling.outputs.write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sample(run, out, f"--noise={first}", *flags)
    code, line = exit_code(
        monkeypatch, capfd, f"--run={run}", f"--out={out}", f"--noise={second}", *flags
    )
    assert code == 2 and "noise was" in line and "--overwrite" in line
    assert sample(run, out, f"--noise={first}", *flags)["num"] == 4


def test_noise_of_another_size_than_the_runs_is_refused(run, tmp_path, monkeypatch, capfd):
    path = save(tmp_path / "x0.npy", np.zeros((2, 8, 24, 1)))
    code, line = exit_code(
        monkeypatch, capfd, f"--run={run}", f"--out={tmp_path / 'out'}", f"--noise={path}"
    )
    assert code == 2 and "(2, 8, 24, 1), but this run starts from [N, 16, 16, 1]" in line


@pytest.mark.slow
def test_a_denoiser_starts_from_the_splits_images_or_the_users(tmp_path):
    config = tiny()
    config.cond, config.flow.source = "none", "speckle"
    facts = datasets.data(config).facts
    run = save_run(tmp_path / "run", config, facts)
    sample(run, tmp_path / "split", "--num=3", "--steps=1")
    noisy = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 1)).astype(np.float32)
    np.save(tmp_path / "noisy.npy", noisy)
    flags = [f"--source={tmp_path / 'noisy.npy'}", "--steps=1"]
    sidecar = sample(run, tmp_path / "own", *flags)
    assert sidecar["num"] == 2 and sidecar["seed"] is None
    scaled = Intensity.from_json(facts.intensity).apply(noisy)
    np.save(tmp_path / "scaled.npy", scaled)
    from_noise = tiny()
    from_noise.cond = "none"
    same = save_run(tmp_path / "same", from_noise, facts)
    sample(same, tmp_path / "noise", f"--noise={tmp_path / 'scaled.npy'}", "--steps=1")
    np.testing.assert_array_equal(
        load(tmp_path / "own")["images"], load(tmp_path / "noise")["images"]
    )
    with pytest.raises(ValueError, match=r"--noise: the flow of .* starts from images"):
        sample(run, tmp_path / "x", f"--noise={tmp_path / 'scaled.npy'}")
    with pytest.raises(ValueError, match=r"--source: the flow of .* starts from noise"):
        sample(same, tmp_path / "x", *flags)
    for num in (0, 10**30):
        with pytest.raises(ValueError, match=f"--num={num}: at "):
            sample(run, tmp_path / "x", f"--num={num}")
    config.cond = "mask"
    masked = save_run(tmp_path / "masked", config, facts)
    with pytest.raises(ValueError, match="--source without its conditions"):
        sample(masked, tmp_path / "x", *flags)
    with pytest.raises(ValueError, match="without --source"):
        sample(masked, tmp_path / "x", f"--masks={tmp_path / 'noisy.npy'}")
