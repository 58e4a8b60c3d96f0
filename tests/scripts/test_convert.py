"""motfm convert as a user calls it, and the commands that it prints."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from motfm_jax import build
from motfm_jax.commands import convert as command
from motfm_jax.commands import sample
from motfm_jax.data.convert import to_pickle
from motfm_jax.data.facts import Facts
from motfm_jax.data.phantom import PhantomEcho
from motfm_jax.interop import original
from motfm_jax.interop.torch_weights import to_torch, write_torch_weights

ROOT = Path(__file__).parents[2]
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
    """The lines that `motfm convert from-torch` prints."""
    arguments = [
        "from-torch",
        f"--ckpt={folder / 'weights.safetensors'}",
        f"--config={folder / 'original.yaml'}",
        f"--out={out}",
        *map(str, flags),
    ]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        command.main(arguments)
    return printed.getvalue()


@pytest.fixture(scope="module")
def printed(folder):
    """Of the conversion to folder/run."""
    return convert(folder, folder / "run", "--size", 16, 16)


@pytest.mark.slow
def test_the_printed_commands_compare_and_train_further(folder, printed, tmp_path, monkeypatch):
    assert "parameters, condition mask+class, of a safetensors file" in printed
    assert "names are numbered" in printed
    flags = shlex.split(re.search(r"motfm sample (.*)", printed)[1])
    assert {"--steps=2", "--noise=x0.npy", "--masks=masks.npy", "--raw"} <= set(flags)
    monkeypatch.chdir(folder)
    sample.main([f"--out={tmp_path / 'out'}" if "--out" in flag else flag for flag in flags])
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["calls"] == 2
    flags = shlex.split(re.search(r"motfm train (.*)", printed)[1])
    assert flags == ["--resume", f"--workdir={folder / 'run'}", "--config.data.root=DATA.pkl"]


@pytest.mark.nightly
def test_with_data_the_commands_take_the_run_like_any_other(folder, tmp_path):
    printed = convert(folder, tmp_path / "run", f"--data={folder / 'dataset.pkl'}")
    assert printed.rstrip().endswith(f"motfm train --resume --workdir={tmp_path / 'run'}")
    sample.main([f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", "--num=2", "--steps=1"])
    with np.load(tmp_path / "out" / "samples.npz") as arrays:
        assert arrays["images"].shape == (2, 16, 16, 1) and arrays["masks"].shape == (2, 16, 16)


def test_there_and_back(folder, printed, tmp_path, capsys):
    back = tmp_path / "back.safetensors"
    command.main(["to-torch", f"--run={folder / 'run'}", f"--out={back}"])
    assert back.read_bytes() == (folder / "weights.safetensors").read_bytes()
    assert f"{back}: step 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["from-torch", "--ckpt=none.ckpt", "--out=new"], "none.ckpt: no such file"),
        (["to-torch", "--run=none", "--out=back.safetensors"], "none: "),
        (["features", "--network=clip", "--weights=none.bin"], "none.bin: no such file"),
    ],
)
def test_a_mistake_leaves_nothing(folder, monkeypatch, flags, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=message):
        command.main(flags)
    assert sorted(folder.iterdir()) == before


@pytest.mark.nightly
def test_training_continues_by_the_printed_command(folder, printed, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts/train.py",
            "--resume",
            f"--workdir={run}",
            f"--config.data.root={folder / 'dataset.pkl'}",
            "--config.train.steps=1",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "converted weights, with a fresh optimiser" in done.stdout
