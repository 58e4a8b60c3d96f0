"""A trained run read back: its weights with the network they belong to."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from motfm_jax import build, datasets, settings
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.records import Facts
from motfm_jax.io.checkpoints import Weights, check_parameters, restore_weights
from motfm_jax.io.hashes import hash_arrays


class Trained(NamedTuple):
    """A checkpoint read back, ready to sample from.

    Attributes:
      config, facts, intensity, model: as the run was trained with; intensity is None where a
        converted checkpoint does not say it.
      params: EMA weights where the run keeps them, numpy float32 by name.
      step: of the checkpoint.
      checkpoint_hash: of the weights' names, shapes and values.
    """

    config: ConfigDict
    facts: Facts
    intensity: Intensity | None
    model: build.Model
    params: dict[str, np.ndarray]
    step: int
    checkpoint_hash: str


def load_run(run: Path, which: str | int = "best", attention: str = "") -> Trained:
    """A run's checkpoint with the network it belongs to.

    Args:
      run: run directory.
      which: "best" (lowest validation loss), "last" or a step.
      attention: overrides the run's attention implementation.

    Raises:
      ValueError: no such run or checkpoint, or one that does not fit its config.
    """
    weights = restore_weights(run, which)
    facts, intensity = read_facts(weights)
    config = _read_config(weights, facts)
    built = build.model(config, facts, attention=attention)
    wanted = jax.eval_shape(built.init, jax.random.key(0))
    check_parameters(weights.params, wanted, str(weights.path))
    return Trained(
        config, facts, intensity, built, weights.params, weights.step, hash_arrays(weights.params)
    )


def _read_config(weights: Weights, facts: Facts) -> ConfigDict:
    """The config of a checkpoint, which may be a stranger's."""
    try:
        config = datasets.distrust_cache(settings.from_json(weights.config))
        if tuple(config.data.size) != facts.size:
            raise ValueError(
                f"config.data.size={tuple(config.data.size)}, its data had {facts.size}"
            )
        checked = config.copy_and_resolve_references()
        if not any(facts.size):  # weights converted without their data
            checked.data.size = (2 ** len(config.model.channels),) * len(facts.size)
        settings.check_network(checked)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{weights.path}: its config cannot be used ({error}); give a run of scripts/train.py"
        ) from error
    return config


def read_facts(weights: Weights) -> tuple[Facts, Intensity | None]:
    """The facts of a checkpoint's data, which may be a stranger's, and the intensity they hold.

    Raises:
      ValueError: they are not what scripts/train.py writes.
    """
    try:
        facts = Facts.from_json(weights.facts)
        intensity, _ = (  # the second is checked alone
            Intensity.from_json(said) if said else None
            for said in (facts.intensity, facts.source_intensity)
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{weights.path}: its facts are another program's ({error!r}); give a run of "
            "scripts/train.py"
        ) from error
    return facts, intensity


def base_weights(config: ConfigDict, facts: Facts) -> dict[str, np.ndarray]:
    """The UNet of the run config.train.base, by name.

    Raises:
      ValueError: no such run, or one of another kind of model, network, condition or data.
    """
    base = load_run(Path(config.train.base))
    here, there = config.to_dict(), base.config.to_dict()
    cond = {"mask": "none", "mask+class": "class"}[config.cond]
    pairs = {
        "method": (there["method"], here["method"]),
        "cond": (there["cond"], cond),
        **{
            f"model.{name}": (there["model"][name], here["model"][name])
            for name in (
                "channels",
                "res_blocks",
                "attention",
                "head_dim",
                "transformer_layers",
                "time",
                "norm_groups",
            )
        },
        "flow.source": (there["flow"]["source"], here["flow"]["source"]),
        "diffusion.schedule": (there["diffusion"]["schedule"], here["diffusion"]["schedule"]),
        "image channels": (base.facts.channels, facts.channels),
        "classes": (base.facts.classes, facts.classes if cond == "class" else base.facts.classes),
        "intensity": (base.intensity, Intensity.from_json(facts.intensity)),
    }
    for name, (is_there, wanted) in pairs.items():
        if is_there != wanted:
            raise ValueError(
                f"config.train.base={config.train.base}: its {name} is {is_there}, {wanted} "
                "needed; train the base with the same settings and data, without masks"
            )
    return base.params
