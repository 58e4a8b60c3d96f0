"""A trained run read back: its weights with the network they belong to."""

import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from motfm_jax import build, datasets, settings
from motfm_jax.data.facts import Facts
from motfm_jax.io.checkpoints import Weights, check_parameters, restore_weights
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.model import Bundle
from motfm_jax.settings import field


def load_run(
    run: Path, which: str | int = "best", attention: str = "", data_root: str | None = None
) -> Bundle:
    """A run's checkpoint with the network it belongs to.

    Args:
      run: run directory.
      which: "best" (lowest validation loss), "last" or a step, also in digits.
      attention: overrides the run's attention implementation.
      data_root: where the data is now, if not where the run found it.

    Raises:
      ValueError: no such run or checkpoint, or one that does not fit its config.
    """
    which = int(which) if isinstance(which, str) and which.isdecimal() else which
    weights = restore_weights(run, which)
    facts = read_facts(weights)
    config = _read_config(weights)
    if data_root:
        config.data.root = str(data_root)
    built = build.architecture(config, facts, attention=attention)
    expected = jax.eval_shape(built.init, jax.random.key(0))
    check_parameters(weights.params, expected, str(weights.path))
    return bundle(built, weights.params, facts, config, run, weights.step)


def bundle(
    built: build.Architecture,
    params: dict[str, np.ndarray],
    facts: Facts,
    config: ConfigDict,
    run: Path,
    step: int = 0,
) -> Bundle:
    """Networks and weights as the value that sampling takes."""
    return Bundle(
        built.network, params, built.condition, facts, config, str(run), hash_arrays(params), step
    )


def _read_config(weights: Weights) -> ConfigDict:
    try:
        config = datasets.distrust_cache(settings.from_json(weights.config))
        settings.check_network(config)
    except ValueError as error:
        raise ValueError(
            f"{weights.path}: its config cannot be used ({error}); give a run of motfm train"
        ) from error
    return config


def read_facts(weights: Weights) -> Facts:
    """The facts of a checkpoint's data.

    Raises:
      ValueError: they are not what a training writes.
    """
    try:
        return Facts.from_json(weights.facts)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{weights.path}: its facts cannot be used ({error!r}); give a run of motfm train"
        ) from error


def base_weights(config: ConfigDict, facts: Facts) -> dict[str, np.ndarray]:
    """The UNet of the run config.train.base, by name.

    Raises:
      ValueError: no such run, or one of another kind of model, network, condition or data.
    """
    base = load_run(Path(config.train.base))
    cond = {"mask": "none", "mask+class": "class"}[config.cond]
    pairs = {
        path: (field(base.config, path), cond if path == "cond" else field(config, path))
        for path, each in settings.leaves(settings.fields())
        if each.fixed and path != "data.mask_encoding"
    }
    pairs |= {
        "image channels": (base.facts.channels, facts.channels),
        "classes": (base.facts.classes, facts.classes if cond == "class" else base.facts.classes),
        "intensity": (base.facts.intensity, json.loads(json.dumps(facts.intensity))),
    }
    for name, (there, expected) in pairs.items():
        if there != expected:
            raise ValueError(
                f"config.train.base={config.train.base}: its {name} is {there}, {expected} "
                "needed; train the base with the same settings and data, without masks"
            )
    return base.params
