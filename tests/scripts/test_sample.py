"""scripts/sample.py as a user calls it."""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from motfm_jax import build, cli
from motfm_jax import config as configs
from motfm_jax.io.checkpoints import Checkpoints

SCRIPT = Path(__file__).parents[2] / "scripts" / "sample.py"


def load_script():
    spec = importlib.util.spec_from_file_location("sample_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


class State(NamedTuple):
    """Of a training state, what sampling looks at."""

    params: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A mask + class run on 16 x 16 phantoms, as if trained: every weight matters."""
    config = configs.default()
    config.cond = "mask+class"
    config.data.update(size=(16, 16), phantom_patients=4)
    config.model.update(dict(
        channels=(8, 8), attention=(False, True), res_blocks=1, transformer_layers=1, head_dim=8,
        norm_groups=4, mask_embedding=4))  # fmt: skip
    facts = build.data(config).facts
    shapes = jax.eval_shape(build.model(config, facts).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {
        name: (0.2 * rng.normal(size=leaf.shape) + name.endswith("scale")).astype(np.float32)
        for name, leaf in shapes.items()
    }
    path = tmp_path_factory.mktemp("runs") / "echo"
    checkpoints = Checkpoints(path / "checkpoints", config.to_dict(), facts.to_json())
    checkpoints.save(7, State(params), valid_loss=1.0)
    checkpoints.wait()
    checkpoints.close()
    return path


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


def test_the_same_command_finds_its_images_and_another_is_refused(
    run, tmp_path, monkeypatch, capfd
):
    flags = ["--num=2", "--steps=1"]
    first = sample(run, tmp_path, *flags)
    assert sample(run, tmp_path, *flags) == first
    code, line = exit_code(
        monkeypatch, capfd, f"--run={run}", f"--out={tmp_path}", "--num=2", "--steps=2")
    assert code == 2 and "solver was" in line and "--overwrite" in line
    sidecar = sample(run, tmp_path, "--num=2", "--steps=2", "--overwrite")
    assert sidecar["calls"] == 2


@pytest.mark.parametrize("flags, message", [
    (["--solver=eular"], "solver 'eular': use one of euler"),
    (["--solver=adaptive", "--steps=5"], "--steps=5 with --solver=adaptive"),
    (["--num=0"], "--num=0"),
    (["--num=many"], "invalid int value: 'many'"),
    (["--step=3"], "unrecognized arguments: --step=3"),
    (["--checkpoint=77"], "no checkpoint 77"),
    (["--classes=5CH"], "'5CH' is no class of this run"),
    (["--masks=none.png", "--classes=2CH_ED"], "none.png: no such mask file"),
    (["--split=tset"], "tset"),
    (["--batch=-3"], "--batch=-3"),
    (["--seed=-1"], "--seed=-1"),
])  # fmt: skip
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
