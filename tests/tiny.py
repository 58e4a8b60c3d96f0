"""A config, the facts of its data, and a run with drawn weights, small enough for a test."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from motfm_jax import build, presets, settings
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.io.checkpoints import Checkpoints

ROOT = Path(__file__).parents[1]
SIZES = {2: (16, 16), 3: (8, 8, 8)}
SOURCES = {2: "phantom_echo", 3: "phantom_brain"}
ONE_LEVEL = dict(model__channels=(8,), model__attention=(True,))  # compiles soonest
STEP = 7  # of the checkpoint of a run with drawn weights

INTENSITY = Intensity("minmax", "dataset", (-1.0, 1.0), (0.5, 99.5), 0.0, 255.0)
FACTS = Facts(
    size=(16, 16),
    channels=1,
    classes=("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES"),
    mask_labels=("background", "cavity", "myocardium"),
    intensity=INTENSITY.to_json(),
    spacing_mm=(0.5, 0.6),
)


def make_config(dims=2, **changes):
    """The debug preset with two levels, 8 and 16 channels; changes as model__channels=(8, 8)."""
    config = settings.default()
    presets.apply(config, dims, "debug")
    config.update_from_flattened_dict(
        {
            "cond": "mask+class",
            "data.source": SOURCES[dims],
            "data.size": SIZES[dims],
            "data.phantom_patients": 6,
            "model.channels": (8, 16),
            "model.norm_groups": 4,
            "model.head_dim": 8,
            "model.mask_embedding": 4,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
    )
    settings.check(config)
    return config


class State(NamedTuple):
    """The part of a training state that sampling and export read."""

    params: dict[str, np.ndarray]
    ema: dict[str, np.ndarray]


def save_run(folder: Path, config, facts: Facts = FACTS) -> Path:
    """A run directory with one checkpoint, at step 7, of weights that all matter."""
    shapes = jax.eval_shape(build.architecture(config, facts).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params, ema = (
        {
            name: (0.2 * rng.normal(size=leaf.shape) + name.endswith("scale")).astype(np.float32)
            for name, leaf in shapes.items()
        }
        for _ in range(2)
    )
    checkpoints = Checkpoints(folder / "checkpoints", config.to_dict(), facts.to_json())
    checkpoints.save(STEP, State(params, ema), valid_loss=1.0)
    checkpoints.close()
    return folder


def command(name: str) -> Callable:
    """main of motfm_jax/commands/NAME.py."""
    return importlib.import_module(f"motfm_jax.commands.{name}").main
