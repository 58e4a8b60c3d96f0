"""Any number of devices and processes trains as one does."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import two_layers

from motfm_jax import parallel
from motfm_jax.io.checkpoints import Checkpoints

WORKER = Path(__file__).with_name("parallel_worker.py")
ROOT = Path(__file__).parents[2]


def run_workers(out, devices, processes=1, accumulation=1):
    """Trains in subprocesses of so many simulated CPU devices each; returns what they wrote."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    connection = [[]]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        connection = [[str(port), str(processes), str(number)] for number in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(out), str(accumulation), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for arguments in connection
    ]
    try:
        for process in running:
            output = process.communicate(timeout=240)[0]
            assert process.returncode == 0, output[-3000:]
            if processes > 1:  # gloo waits 30 s alone for a group of devices that meets later
                meeting, work = output.split("connected\n")
                assert "[Gloo]" in meeting and "[Gloo]" not in work, output[-3000:]
    finally:
        for process in running:
            process.kill()
    return dict(np.load(out))


@pytest.fixture(scope="module")
def folder_of_one(tmp_path_factory):
    return tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def one_device(folder_of_one):
    return run_workers(folder_of_one / "out.npz", devices=1)


def saved_leaves(folder):
    """The whole state of a checkpoint, read by this process and its one device."""
    checkpoints = Checkpoints(folder, {"a": 1}, {})
    state, _ = two_layers.make_training("adam", ema=0.9, clip=0.5)
    leaves = jax.tree.leaves(checkpoints.restore(state))
    checkpoints.close()
    return leaves


def test_a_process_can_join_others_once_everything_is_imported():
    """Nothing at the top of a module may touch a device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    joins = f"import jax, motfm_jax.trainer; jax.distributed.initialize('localhost:{port}', 1, 0)"
    subprocess.run([sys.executable, "-c", joins], cwd=WORKER.parents[2], check=True)


@pytest.mark.nightly
@pytest.mark.parametrize("devices, processes, accumulation", [(4, 1, 2), (2, 2, 1)])
def test_training_is_that_of_one_device(
    tmp_path, folder_of_one, one_device, devices, processes, accumulation
):
    shutil.copytree(folder_of_one / "checkpoints_1", tmp_path / "copied")
    result = run_workers(tmp_path / "out.npz", devices, processes, accumulation)
    # Weights, average, optimiser and step, written by some devices and read by others.
    there = saved_leaves(tmp_path / f"checkpoints_{processes}")
    back = saved_leaves(tmp_path / "copied")
    assert len(there) == len(back) > 10
    for number, (leaf, leaf_back) in enumerate(zip(there, back)):
        np.testing.assert_array_equal(leaf, result[f"saved/{number}"])
        np.testing.assert_array_equal(leaf_back, result[f"copied/{number}"])
    assert result["devices"] == devices * processes
    tolerance = 1e-5 * one_device["grad_norm"]
    assert tolerance > 1e-7  # the model has something to learn
    for name in one_device:
        if not name.startswith(("devices", "saved/")):
            difference = np.max(np.abs(result[name] - one_device[name]))
            assert difference <= tolerance, name


@pytest.mark.nightly
def test_weights_moved(one_device):
    """The comparison above would pass between two runs that learn nothing."""
    assert one_device["losses"][-1] < one_device["losses"][0]
    norm = np.sqrt(sum(np.sum(v**2) for k, v in one_device.items() if k.startswith("gradient/")))
    np.testing.assert_allclose(norm, one_device["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize(
    "batch_size, accumulation, nearest", [(10, 1, 8), (12, 2, 8), (3, 1, 4), (4, 2, 8)]
)
def test_a_batch_that_does_not_divide_is_refused(monkeypatch, batch_size, accumulation, nearest):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(ValueError, match=f"train.batch_size={batch_size} .* does: {nearest}$"):
        parallel.check_batch_size(batch_size, accumulation)
    parallel.check_batch_size(16, accumulation)


def test_a_process_without_its_coordinator_is_refused():
    for numbers in ((2, None), (None, 1), (2, 0)):
        with pytest.raises(ValueError, match="give --coordinator=HOST:PORT"):
            parallel.connect("", *numbers)
    parallel.connect("", 1, 0)


def test_rows_that_do_not_divide_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    with pytest.raises(ValueError, match="6 rows do not divide over the 4 devices"):
        parallel.shard({"image": np.zeros((6, 2))})
    assert parallel.shard({"image": np.zeros((8, 2))})["image"].shape == (4, 2, 2)


def test_a_process_needs_its_number():
    with pytest.raises(ValueError, match="give the number of processes"):
        parallel.connect("localhost:1", 2, 2)


def test_an_empty_validation_split_is_refused():
    evaluate = parallel.evaluator(lambda params, batch, key: (0.0, 0), lambda: [], None)
    with pytest.raises(ValueError, match="no validation examples"):
        evaluate({})
