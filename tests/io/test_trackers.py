"""Trackers, in the modes that need no server."""

import json
import sys

import numpy as np
import pytest

from motfm_jax.io import trackers
from motfm_jax.io.run_folder import open_run, read_metrics

PICTURE = np.zeros((8, 8, 3), np.uint8)


CONFIG = {"train": {"tracker": "mlflow", "lr": 0.1}, "seed": 3, "data": {"root": "/home/scans"}}


def train(path, tracker, step=0, resume=False):
    """A training of two updates."""
    config = CONFIG | {"train": CONFIG["train"] | {"tracker": tracker}}
    with open_run(path, config, resume=resume) as run:
        run.start(step)
        for number in (step + 1, step + 2):
            run.log(number, {"loss": 1.0 / number})
        run.log(number, {"valid_loss": float("nan")})
        run.log_image(number, "samples", PICTURE)
        (path / "checkpoints" / str(number)).mkdir(parents=True)


def fail(path):
    with open_run(path, CONFIG, resume=True) as run:
        run.start(4)
        raise RuntimeError


@pytest.mark.slow
def test_mlflow_gets_numbers_pictures_and_config_and_goes_on(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    train(tmp_path / "camus", "mlflow")
    train(tmp_path / "camus", "mlflow", step=2, resume=True)
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("motfm").experiment_id])
    assert found.info.run_name == "camus" and found.info.status == "FINISHED"
    params = {"train.tracker": "mlflow", "train.lr": "0.1", "seed": "3", "data.root": ""}
    assert found.data.params == params
    losses = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((each.step, each.value) for each in losses) == [
        (number, 1.0 / number) for number in (1, 2, 3, 4)
    ]
    assert len(client.get_metric_history(found.info.run_id, "valid_loss")) == 2
    with pytest.raises(RuntimeError):
        fail(tmp_path / "camus")
    assert client.get_run(found.info.run_id).info.status == "FAILED"
    names = [each.path for each in client.list_artifacts(found.info.run_id, "images")]
    assert {int(name.split("step+")[1].split("+")[0]) for name in names} == {2, 4}


@pytest.mark.slow
def test_wandb_goes_on_under_one_number(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path / "camus", "wandb")
    train(tmp_path / "camus", "wandb", step=2, resume=True)
    number = json.loads((tmp_path / "camus" / trackers.IDS).read_text())["wandb"]
    files = sorted((tmp_path / "camus" / "wandb").glob(f"offline-run-*-{number}/*.wandb"))
    assert len(files) == 2
    for file, names in zip(files, ((b"loss", b"samples"), (b"valid_loss", b"samples"))):
        assert all(name in file.read_bytes() for name in names)
    assert [row["step"] for row in read_metrics(tmp_path / "camus")] == [1, 2, 2, 3, 4, 4]


def test_a_tracker_that_fails_is_named_once_and_ends_nothing(tmp_path, monkeypatch, caplog):
    class Down(trackers.TensorBoard):
        def log(self, step, values):
            raise ConnectionError("no route to the server")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", Down)
    train(tmp_path / "camus", "tensorboard")
    assert [row["step"] for row in read_metrics(tmp_path / "camus")] == [1, 2, 2]
    assert caplog.text.count("Down: no route to the server; the training goes on") == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_with_its_cure(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"pip install 'motfm_jax\[{name}\]'"):
        train(tmp_path / "camus", name)


def test_what_mlflow_no_longer_has_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "camus").mkdir()
    (tmp_path / "camus" / trackers.IDS).write_text('{"mlflow": "0123"}')
    with pytest.raises(ValueError, match=r"delete .*tracker\.json to begin another"):
        trackers.open_tracker("mlflow", tmp_path / "camus", 0, {})
