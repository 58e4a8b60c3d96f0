"""Two processes train, one dies: the other is aborted, and both resume from the last checkpoint."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill import TRAIN

from motfm_jax import parallel
from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.io.run_folder import read_metrics

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
def test_a_run_survives_the_death_of_a_process(tmp_path):
    run = tmp_path / "run"
    processes = start(run, "--config.train.steps=100000", "--config.train.save_every=2")
    try:
        deadline = time.monotonic() + 300
        while len(read_metrics(run)) < 5 and time.monotonic() < deadline:
            assert processes[0].poll() is None, Path(f"{run}0.log").read_text()
            time.sleep(0.1)
        processes[1].kill()
        assert processes[0].wait(timeout=3 * parallel.TIMEOUT_S) == -signal.SIGABRT
    finally:
        for process in processes:
            process.kill()
            process.wait()
    saved = restore_weights(run).step
    assert saved >= 2

    last = saved + 3
    for process in start(run, f"--config.train.steps={last}"):
        assert process.wait(timeout=300) == 0, Path(f"{run}0.log").read_text()
    steps = [row["step"] for row in read_metrics(run) if "loss" in row]
    assert steps == list(range(1, last + 1))
    weights = restore_weights(run, "last")
    assert weights.step == last
