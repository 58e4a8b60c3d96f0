"""Where the curves and pictures of a training are shown: TensorBoard, Weights & Biases, MLflow.

A resumed run goes on as the same run: tracker.json in its folder holds the id under which the
tracker knows it. A tracker that fails on the way, because its server is down for example, is named
in the log, at the latest when the training ends, and does not end it; metrics.jsonl has every
number.
"""

import importlib
import logging
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from motfm_jax.io.folders import leaves, read_json, write_json
from motfm_jax.io.places import without_places

IDS = "tracker.json"
PROJECT = "motfm"
TENSORBOARD = "tensorboard"
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """An open tracker. `log` takes numbers by name after an update, `picture` [H, W, C] uint8."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, image: np.ndarray) -> None: ...

    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Event files in tensorboard/ of a run's folder; what was logged after `step` is hidden."""

    def __init__(self, path: Path, step: int, config: Mapping[str, Any]):
        from tensorboardX import SummaryWriter  # slow to import

        purge = step + 1 if step else None
        self._writer: Any = SummaryWriter(str(path / TENSORBOARD), purge_step=purge, flush_secs=10)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        self._writer.close()


class Wandb:
    """A run of the project "motfm", under the name of the run's folder. Steps that were logged
    before a kill stay as they are."""

    def __init__(self, path: Path, step: int, config: Mapping[str, Any]):
        self._wandb = _imported("wandb")
        try:
            self._run = self._wandb.init(
                project=PROJECT,
                name=path.name,
                dir=str(path),
                id=_known(path, "wandb") or _keep(path, "wandb", secrets.token_hex(8)),
                resume="allow",
                config=dict(config),
            )
        except self._wandb.errors.Error as error:
            raise ValueError(
                f"config.train.tracker='wandb': {error}; call wandb login, or set "
                "WANDB_MODE=offline"
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """A run of the experiment "motfm" at MLFLOW_TRACKING_URI, or in mlflow.db of this folder."""

    def __init__(self, path: Path, step: int, config: Mapping[str, Any]):
        mlflow = _imported("mlflow")
        self._entities, self._sent = importlib.import_module("mlflow.entities"), []
        self._id = _known(path, "mlflow")
        try:
            self._client = mlflow.MlflowClient()
            if self._id:
                self._client.update_run(self._id, status="RUNNING")
                return
            experiment = self._client.get_experiment_by_name(PROJECT)
            experiment_id = (
                experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
            )
            run = self._client.create_run(experiment_id, run_name=path.name)
            self._id = _keep(path, "mlflow", run.info.run_id)
            for name, value in leaves(config):
                self._client.log_param(self._id, name, value)
        except mlflow.MlflowException as error:
            again = f", or delete {path / IDS} to begin another run of it" * bool(self._id)
            raise ValueError(
                f"config.train.tracker='mlflow': {error}; start its server or correct "
                f"MLFLOW_TRACKING_URI{again}"
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        points = [
            self._entities.Metric(name, float(value), now, step) for name, value in values.items()
        ]
        # A server that is slow or down would hold up the training.
        self._sent.append(self._client.log_batch(self._id, metrics=points, synchronous=False))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._client.log_image(self._id, image, key=name, step=step, synchronous=False)

    def close(self, failed: bool) -> None:
        try:
            for sent in self._sent:  # which raises what went wrong
                sent.wait()
        finally:
            self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class Guarded:
    """A tracker whose failures are named in the log, each once, and do not end the training."""

    def __init__(self, tracker: Tracker):
        self._tracker, self._named = tracker, set()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._try("log", step, values)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._try("picture", step, name, np.asarray(image))

    def close(self, failed: bool) -> None:
        self._try("close", failed)

    def _try(self, call: str, *arguments: Any) -> None:
        try:
            getattr(self._tracker, call)(*arguments)
        except Exception as error:  # of somebody else's client and network
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            if text not in self._named:
                self._named.add(text)
                name = type(self._tracker).__name__
                _log.warning(f"{name}: {text}; the training goes on, metrics.jsonl has it all")
                _log.debug("where it failed", exc_info=error)


TRACKERS = {TENSORBOARD: TensorBoard, "wandb": Wandb, "mlflow": Mlflow}


def open_tracker(name: str, path: Path, step: int, config: Mapping[str, Any]) -> Guarded:
    """The tracker of a run's folder.

    Args:
      name: in TRACKERS.
      path: the folder.
      step: updates made so far.
      config: of the run; the tracker gets it without the places of this machine.

    Raises:
      ValueError: the tracker is not installed, or refuses.
    """
    return Guarded(TRACKERS[name](path, step, without_places(config)))


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"config.train.tracker={name!r}: it is not installed; pip install 'motfm_jax[{name}]'"
        ) from error


def _ids(path: Path) -> dict[str, str]:
    return read_json(path / IDS) if (path / IDS).is_file() else {}


def _known(path: Path, name: str) -> str:
    """The id under which a tracker knows the run; "" if it does not."""
    return _ids(path).get(name, "")


def _keep(path: Path, name: str, run_id: str) -> str:
    write_json(path / IDS, _ids(path) | {name: run_id})
    return run_id
