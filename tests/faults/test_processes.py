"""A training by two processes of which one dies: the other stops, and the run goes on afterwards,
its checkpoints readable by one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kill import TRAIN

from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.io.runs import read_metrics

ROOT = Path(__file__).parents[2]
SIMPLE = ("--config=configs/phantom.py:cond=none,size=debug", *TRAIN[1:])


def start(run, *arguments):
    """The processes of one training, two devices each; their output goes to run0.log, run1.log."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = []
    for number in range(2):
        with open(f"{run}{number}.log", "w") as log:
            processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "scripts/train.py",
                        *SIMPLE,
                        f"--workdir={run}",
                        "--resume",
                        "--config.train.log_every=1",
                        *arguments,
                        f"--coordinator=localhost:{port}",
                        "--num_processes=2",
                        f"--process_id={number}",
                    ],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )
    return processes


@pytest.mark.nightly
def test_one_process_dies_and_the_run_goes_on(tmp_path):
    run = tmp_path / "run"
    processes = start(run, "--config.train.steps=100000", "--config.train.save_every=2")
    try:
        deadline = time.monotonic() + 300
        while len(read_metrics(run)) < 5 and time.monotonic() < deadline:
            assert processes[0].poll() is None, Path(f"{run}0.log").read_text()
            time.sleep(0.1)
        processes[1].kill()
        assert processes[0].wait(timeout=30) == os.EX_TEMPFAIL
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[1].returncode == -signal.SIGKILL
    said = Path(f"{run}0.log").read_text()
    assert "error: process 1 of this run ended before its time" in said.splitlines()[-1]
    assert "Traceback" not in said and "stack trace" not in said
    saved = restore_weights(run).step
    assert saved >= 2

    last = saved + 3
    for process in start(run, f"--config.train.steps={last}"):
        assert process.wait(timeout=300) == 0, Path(f"{run}0.log").read_text()
    steps = [row["step"] for row in read_metrics(run) if "loss" in row]
    assert steps == list(range(1, last + 1))
    weights = restore_weights(run, "last")
    assert weights.step == last

    out = tmp_path / "samples"
    sampled = subprocess.run(
        [
            sys.executable,
            "scripts/sample.py",
            f"--run={run}",
            f"--out={out}",
            "--num=3",
            "--steps=1",
            "--checkpoint=last",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert sampled.returncode == 0, sampled.stderr
    assert json.loads((out / "samples.json").read_text())["training_step"] == last
    with np.load(out / "samples.npz") as made:
        assert np.isfinite(made["images"]).all()
