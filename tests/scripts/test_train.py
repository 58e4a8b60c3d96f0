"""scripts/train.py as a user runs it: mistakes, signals, several devices."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.io.run_folder import read_metrics

ROOT = Path(__file__).parents[2]
DEBUG = "--config=configs/phantom.py:cond=none,size=debug"
TINY = [
    DEBUG,
    "--config.data.size=(16,16)",
    "--config.data.phantom_patients=4",
    "--config.model.channels=(8,8)",
    "--config.model.head_dim=8",
    "--config.model.norm_groups=4",
    "--config.train.batch_size=4",
    "--config.train.log_every=1",
    "--config.train.sample_every=1000",
]


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "scripts/train.py", *arguments],
        cwd=ROOT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


MISTAKES = {
    "nothing to resume": (["--resume"], "--workdir=.*there is no run to resume"),
    "misspelt field": ([DEBUG, "--config.train.lrr=1"], "lrr.*Did you mean"),
    "wrong type": ([DEBUG, "--config.train.batch_size=many"], "batch_size=many"),
    "no such size": ([DEBUG, "--config.data.size=(31,32)"], "multiple of 2; nearest: \\("),
    "no config file": (["--config=configs/none.py"], "there is no file configs/none.py"),
    "bad argument": (["--config=configs/camus.py:cond=masks"], "use one of none, class, mask"),
    "no data folder": (
        ["--config=configs/camus.py:size=debug", "--config.data.root=/no/camus"],
        "/no/camus",
    ),
    "no data named": (["--config=configs/brain.py:size=debug"], "config.data.root is empty"),
    "unknown flag": ([DEBUG, "--resum"], "resum"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing(tmp_path, name):
    arguments, said = MISTAKES[name]
    workdir = tmp_path / "run"
    code, _, err = finish(start(*arguments, f"--workdir={workdir}"))
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert re.search(said, line), line
    assert not workdir.exists()


@pytest.mark.slow
def test_sigterm_saves_and_resume_goes_on(tmp_path):
    workdir = tmp_path / "run"
    command = [*TINY, f"--workdir={workdir}", "--config.train.steps=100000", "--resume"]
    process = start(*command)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(read_metrics(workdir)) < 3:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 143 and "SIGTERM: saved; --resume goes on" in out + err
    stopped = restore_weights(workdir).step
    assert stopped >= 3 and read_metrics(workdir)[-1]["step"] == stopped
    command[-2] = f"--config.train.steps={stopped + 2}"
    code, out, _ = finish(start(*command))
    assert code == 0 and f"resumed after update {stopped}" in out
    steps = [row["step"] for row in read_metrics(workdir) if "loss" in row]
    assert steps == list(range(1, stopped + 3))


@pytest.mark.slow
def test_a_run_in_use_is_refused(tmp_path):
    workdir = tmp_path / "run"
    first = start(*TINY, f"--workdir={workdir}", "--config.train.steps=100000")
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and len(read_metrics(workdir)) < 1:
            time.sleep(0.2)
        code, _, err = finish(start(*TINY, f"--workdir={workdir}", "--overwrite"))
        assert code == 2 and f"in use by process {first.pid}" in err
    finally:
        first.kill()
        first.communicate()


@pytest.mark.slow
def test_four_devices_train_as_one(tmp_path):
    losses = {}
    for devices in (1, 4):
        workdir = tmp_path / str(devices)
        code, _, err = finish(
            start(
                *TINY,
                f"--workdir={workdir}",
                "--config.train.steps=3",
                "--config.train.optimizer=sgd",
                "--config.train.lr=0.1",
                XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
            )
        )
        assert code == 0, err
        rows = read_metrics(workdir)
        losses[devices] = [row["loss"] for row in rows if "loss" in row]
        losses[devices] += [row["valid_loss"] for row in rows if "valid_loss" in row]
        assert (
            json.loads((workdir / "environment.json").read_text())[0]["devices"]
            == ["cpu"] * devices
        )
    assert losses[4] == pytest.approx(losses[1], rel=1e-5)
