"""scripts/train.py as a user runs it: a mistake, signals, several devices."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny import ROOT

from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.io.run_folder import read_metrics

TINY = [
    "--config=configs/phantom.py:cond=none,size=debug",
    "--config.data.size=(16,16)",
    "--config.data.phantom_patients=4",
    "--config.model.channels=(8,)",
    "--config.model.attention=(False,)",
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


def wait_for_rows(workdir, num):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(read_metrics(workdir)) < num:
        time.sleep(0.2)


@pytest.mark.slow
def test_sigterm_saves_and_a_mistake_on_resuming_is_one_line(tmp_path):
    workdir = tmp_path / "run"
    command = [*TINY, f"--workdir={workdir}", "--config.train.steps=100000", "--resume"]
    process = start(*command)
    wait_for_rows(workdir, 3)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 143 and "SIGTERM: saved" in out + err
    stopped = restore_weights(workdir).step
    assert stopped >= 3 and read_metrics(workdir)[-1]["step"] == stopped
    code, _, err = finish(start(*command, "--config.train.lrr=1"))
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and line.startswith("error: ") and "lrr" in line


@pytest.mark.nightly
def test_a_stopped_run_is_resumed_and_a_run_in_use_is_refused(tmp_path):
    workdir = tmp_path / "run"
    process = start(*TINY, f"--workdir={workdir}", "--config.train.steps=100000")
    wait_for_rows(workdir, 3)
    code, _, err = finish(start(*TINY, f"--workdir={workdir}", "--overwrite"))
    assert code == 2 and f"in use by process {process.pid}" in err
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    stopped = restore_weights(workdir).step
    steps = f"--config.train.steps={stopped + 2}"
    code, out, err = finish(start(*TINY, f"--workdir={workdir}", steps, "--resume"))
    assert code == 0 and f"resumed after update {stopped}" in out + err
    steps = [row["step"] for row in read_metrics(workdir) if "loss" in row]
    assert steps == list(range(1, stopped + 3))


@pytest.mark.nightly
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
