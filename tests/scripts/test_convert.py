"""scripts/convert.py as a user calls it, and what the other scripts make of its runs."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from motfm_jax import build, cli
from motfm_jax.data.convert import to_pickle
from motfm_jax.data.phantom import PhantomEcho
from motfm_jax.data.records import Facts
from motfm_jax.interop import original
from motfm_jax.interop.torch_weights import to_torch, write_torch_weights

SCRIPTS = Path(__file__).parents[2] / "scripts"
YAML = {
    "model_args": {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1,
        "num_res_blocks": 1,
        "num_channels": [8],
        "attention_levels": [True],
        "norm_num_groups": 4,
        "resblock_updown": True,
        "num_head_channels": [8],
        "with_conditioning": True,
        "mask_conditioning": True,
        "cross_attention_dim": 4,
        "conditioning_embedding_num_channels": [4],
    },
    "solver_args": {"method": "euler", "step_size": 0.5, "time_points": 2},
}


def main(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """weights.safetensors, original.yaml, dataset.pkl and arrays to sample from."""
    folder, rng = tmp_path_factory.mktemp("original"), np.random.default_rng(0)
    facts = Facts((16, 16), 1, tuple("0123"), (), None)
    shapes = jax.eval_shape(
        build.architecture(original.translate(YAML, "test").config, facts).init, jax.random.key(0)
    )
    write_torch_weights(
        folder / "weights.safetensors",
        to_torch(
            {
                name: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)
                for name, leaf in shapes.items()
            }
        ),
    )
    (folder / "original.yaml").write_text(yaml.safe_dump(YAML))
    to_pickle(
        lambda split: PhantomEcho(split, (16, 16), 10, "view_phase", 0),
        folder / "dataset.pkl",
    )
    np.save(folder / "x0.npy", rng.standard_normal((2, 16, 16, 1)).astype(np.float32))
    np.save(folder / "masks.npy", rng.integers(0, 4, (2, 16, 16, 1)) / np.float32(3))
    np.save(folder / "classes.npy", np.array([0, 3]))
    return folder


def convert(folder, out, *flags):
    main("convert")(
        [
            "from-torch",
            f"--ckpt={folder / 'weights.safetensors'}",
            f"--config={folder / 'original.yaml'}",
            f"--out={out}",
            *map(str, flags),
        ]
    )
    return out


@pytest.mark.slow
def test_the_printed_commands_run(folder, tmp_path, capsys, monkeypatch):
    run = convert(folder, tmp_path / "run")
    said = capsys.readouterr().out
    assert re.search(r"parameters, condition mask\+class, of a safetensors file", said)
    assert "does not know size, classes" in said and "--raw and --noise" in said
    sample = shlex.split(re.search(r"scripts/sample.py (.*)", said)[1])
    assert {"--steps=2", "--noise=x0.npy", "--masks=masks.npy", "--raw"} <= set(sample)
    monkeypatch.chdir(folder)
    sample = [f"--out={tmp_path / 'out'}" if "--out" in flag else flag for flag in sample]
    main("sample")(sample)
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["calls"] == 2
    train = shlex.split(re.search(r"scripts/train.py (.*)", said)[1])
    assert train == [
        "--resume",
        f"--workdir={run}",
        "--config.data.root=DATA.pkl",
        "--config.data.size=(H,W)",
    ]


@pytest.mark.slow
def test_with_data_the_scripts_take_the_run_like_any_other(folder, tmp_path, capsys):
    run = convert(folder, tmp_path / "run", f"--data={folder / 'dataset.pkl'}")
    said = capsys.readouterr().out
    assert "does not know" not in said
    assert said.rstrip().endswith(f"scripts/train.py --resume --workdir={run}")
    main("sample")([f"--run={run}", f"--out={tmp_path / 'out'}", "--num=2", "--steps=1"])
    with np.load(tmp_path / "out" / "samples.npz") as made:
        assert made["images"].shape == (2, 16, 16, 1) and made["masks"].shape == (2, 16, 16)


@pytest.mark.slow
def test_there_and_back_by_the_script(folder, tmp_path, capsys):
    run = convert(folder, tmp_path / "run", "--size", 16, 16)
    back = tmp_path / "back.safetensors"
    main("convert")(["to-torch", f"--run={run}", f"--out={back}"])
    assert back.read_bytes() == (folder / "weights.safetensors").read_bytes()
    assert f"{back}: step 0" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_not_known_cannot_be_exported(folder, tmp_path):
    run = convert(folder, tmp_path / "run", "--size", 16, 16)
    with pytest.raises(ValueError, match=r"converted without its data.*--data"):
        main("export")([f"--run={run}", f"--out={tmp_path / 'exported'}"])
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["from-torch", "--ckpt=none.ckpt", "--out=run"], "none.ckpt: no such file"),
        (["from-torch", "--ckpt=weights.safetensors", "--out=run"], "holds no config"),
        (
            ["from-torch", "--ckpt=weights.safetensors", "--config=none.yaml", "--out=run"],
            "none.yaml: no such file",
        ),
        (["to-torch", "--run=none", "--out=back.safetensors"], "none: no checkpoints"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder, monkeypatch, capfd, flags, said):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["convert.py", *flags])
    with pytest.raises(SystemExit) as stop:
        cli.run(main("convert"))
    (line,) = capfd.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("error: ") and said in line
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
def test_training_goes_on_by_the_printed_command(folder, tmp_path):
    """In a process of its own: config flags are defined once a process."""
    run = convert(folder, tmp_path / "run")
    arguments = [
        "--resume",
        f"--workdir={run}",
        f"--config.data.root={folder / 'dataset.pkl'}",
        "--config.data.size=(16,16)",
        "--config.train.steps=1",
    ]
    made = subprocess.run(
        [sys.executable, SCRIPTS / "train.py", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS.parent)},
    )
    assert made.returncode == 0, made.stderr
    misspelt = subprocess.run(
        [sys.executable, SCRIPTS / "train.py", *arguments, "--config.train.stepps=1"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS.parent)},
    )
    (line,) = misspelt.stderr.splitlines()
    assert misspelt.returncode == 2 and "stepps" in line and "Did you mean" in line
    assert "converted weights, with a fresh optimiser" in made.stdout
