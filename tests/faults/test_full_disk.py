"""A disk that fills up under a training and a sampling: said in a line, nothing lost."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kill import TRAIN, readable

ROOT = Path(__file__).parents[2]


def call(script, *arguments):
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *arguments],
        cwd=ROOT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
    )


def fill(disk, leave):
    """A file that takes all room but `leave` bytes."""
    room = os.statvfs(disk)
    path = disk / "filler"
    path.write_bytes(bytes(room.f_bavail * room.f_bsize - leave))
    return path


def assert_said(done):
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "make room" in errors[0]
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.nightly
def test_a_training_and_a_sampling_go_on_once_there_is_room(small_disk):
    run, out = small_disk / "run", small_disk / "samples"
    train = [
        *TRAIN,
        "--config.train.save_every=2",
        "--config.train.eval_every=100",
        f"--workdir={run}",
        "--resume",
    ]
    assert call("train", *train, "--config.train.steps=4").returncode == 0
    assert readable(run) == [2, 4]
    filler = fill(small_disk, leave=150_000)
    assert_said(call("train", *train, "--config.train.steps=8"))
    assert readable(run) == [2, 4]
    filler.unlink()
    assert call("train", *train, "--config.train.steps=8").returncode == 0
    assert readable(run)[-2:] == [6, 8]

    sample = (f"--run={run}", "--num=48", "--steps=1", f"--out={out}")
    filler = fill(small_disk, leave=20_000)
    assert_said(call("sample", *sample))
    assert not (out / "samples.npz").exists()
    filler.unlink()
    done = call("sample", *sample)
    assert done.returncode == 0, done.stderr
    with np.load(out / "samples.npz") as made:
        assert made["images"].shape == (48, 16, 16, 1)
