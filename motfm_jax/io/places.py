"""What a run's config says to others: nothing of where things lie on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motfm_jax.io.hub import PREFIX

FOLDERS = ("root", "cache")  # fields of config.data that name folders
RUNS = ("init_from", "base", "teacher")  # fields of config.train that name runs


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the folders of its data, and with runs by their last name alone."""
    data, train = dict(config.get("data", {})), dict(config.get("train", {}))
    data |= {name: "" for name in FOLDERS if name in data}
    train |= {name: _last(train[name]) for name in RUNS if name in train}
    return {**config, "data": data, "train": train}


def _last(run: str) -> str:
    return run if run.startswith(PREFIX) else Path(run).name
