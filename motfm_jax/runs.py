"""A trained run read back: its weights with the network they belong to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from motfm_jax import build, datasets, settings
from motfm_jax.core import Array
from motfm_jax.data.facts import Facts
from motfm_jax.io import hub
from motfm_jax.io.checkpoints import Weights, check_parameters, restore_weights
from motfm_jax.io.export import is_export, read_export
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.methods import METHODS
from motfm_jax.methods.method import TEACHER
from motfm_jax.model import Bundle
from motfm_jax.nn.inherit import inherit
from motfm_jax.settings import field

# What the axes of a network count: by the names of `nn.inherit` and of a record.
COUNTED = {
    "image": "image_channels",
    "label": "label_channels",
    "mask": "mask_labels",
    "class": "classes",
}


def load_run(
    run: Path, which: str | int = "best", attention: str = "", data_root: str | None = None
) -> Bundle:
    """A run's checkpoint with the network it belongs to.

    Args:
      run: run directory, a folder of `motfm export`, or hub:OWNER/NAME@REVISION of one.
      which: "best" (lowest validation loss), "last" or a step, also in digits.
      attention: overrides the run's attention implementation.
      data_root: where the data is now, if not where the run found it.

    Raises:
      ValueError: no such run or checkpoint, or one that does not fit its config.
    """
    which = int(which) if isinstance(which, str) and which.isdecimal() else which
    folder = hub.fetched(run)
    weights = read_export(folder, which) if is_export(folder) else restore_weights(folder, which)
    facts = read_facts(weights)
    config = _read_config(weights)
    if data_root:
        config.data.root = str(data_root)
    built = build.architecture(config, facts, attention=attention)
    params = {name: leaf for name, leaf in weights.params.items() if not name.startswith(TEACHER)}
    expected = jax.eval_shape(built.init, jax.random.key(0))
    check_parameters(params, expected, str(weights.path))
    return bundle(built, params, facts, config, run, weights.step)


def load_guide(text: str) -> Bundle:
    """The run of --guide=RUN or RUN@CHECKPOINT (best, last or a step)."""
    run, _, which = text.rpartition("@")
    if not run or Path(text).exists() or text.startswith(hub.PREFIX):
        return load_run(Path(text))
    return load_run(Path(run), which)


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
    _check_equal(base, config, facts, "base", {"cond": cond})
    return base.params


def teacher_weights(config: ConfigDict, facts: Facts) -> dict[str, np.ndarray]:
    """The weights of the flow config.train.teacher, by name.

    Raises:
      ValueError: no such run, or one of another kind of model, network, condition or data.
    """
    teacher = load_run(Path(config.train.teacher))
    _check_equal(teacher, config, facts, "teacher", {"method": "flow"})
    if config.train.drop_condition and not teacher.config.train.drop_condition:
        raise ValueError(
            f"config.train.drop_condition={config.train.drop_condition} with config.train.teacher="
            f"{config.train.teacher}: the teacher was never trained without its condition; set it "
            "to 0, or train the teacher so"
        )
    return teacher.params


def _check_equal(
    other: Bundle, config: ConfigDict, facts: Facts, role: str, needed: dict[str, str]
) -> None:
    """Refuses a run whose network or data are not those of a config, where `needed` says no other.

    Args:
      role: the field of config.train that names the run.
    """
    needed = {"method": config.method, "cond": config.cond} | needed
    pairs = {
        path: (field(other.config, path), needed.get(path, field(config, path)))
        for path, each in settings.leaves(settings.fields())
        if each.fixed
    }
    # What a network does not take may differ.
    if "mask" not in needed["cond"]:
        del pairs["data.mask_encoding"]
    if "mask" in needed["cond"] or facts.label_channels:
        pairs["mask labels"] = (other.facts.mask_labels, facts.mask_labels)
    if "class" in needed["cond"]:
        pairs["classes"] = (other.facts.classes, facts.classes)
    pairs |= {
        "image channels": (other.facts.channels, facts.channels),
        "intensity": (other.facts.intensity, json.loads(json.dumps(facts.intensity))),
    }
    for name, (there, expected) in pairs.items():
        if there != expected:
            raise ValueError(
                f"config.train.{role}={config.train[role]}: its {name} is {there}, {expected} "
                f"needed; train the {role} with the same data and the same settings of the network"
            )


def converted_weights(run: Path, model: build.Architecture, facts: Facts) -> dict[str, np.ndarray]:
    """The weights of a converted run, for training on this data; touches nothing.

    Raises:
      ValueError: the data has other channels, classes or mask labels than the network.
    """
    weights = restore_weights(run)
    known = read_facts(weights)
    for name, there, here in (
        ("image channels", known.channels, facts.channels),
        ("classes", len(known.classes), len(facts.classes)),
    ):
        if there and there != here:
            raise ValueError(
                f"{run}: the network has {there} {name}, the data {here}; give the data that it "
                "was trained on, --config.data.root=PATH"
            )
    check_parameters(
        weights.params, jax.eval_shape(model.init, jax.random.key(0)), str(weights.path)
    )
    return weights.params


def inherited_weights(
    config: ConfigDict, model: build.Architecture, facts: Facts, key: Array
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What the run config.train.init_from gives a network of other data, the rest begun anew.

    Args:
      config, model, facts: of the new run.
      key: of its `init`.

    Returns:
      All its parameters, and the record of where they come from: `run` (its name), `checkpoint`,
      `step`, the channels' names and the intensities there and here, and what of the data's names
      and of the parameters was taken, anew and left.

    Raises:
      ValueError: no such run, or one of another method, network or number of axes.
    """
    path = Path(config.train.init_from)
    parent = load_run(path)
    _check_same_network(parent, config, facts)
    named = bool(parent.facts.channel_names and facts.channel_names)
    theirs, ours = _names(parent.config, parent.facts, named), _names(config, facts, named)
    result = inherit(parent.params, jax.device_get(model.init(key)), theirs, ours)
    record = {
        "run": path.resolve().name,
        "checkpoint": parent.checkpoint_hash,
        "step": parent.step,
        "channel_names": [parent.facts.channel_names, facts.channel_names],
        **{COUNTED[kind]: _shared(theirs[kind], ours[kind]) for kind in COUNTED},
        "parameters": {name: sorted(names) for name, names in result.names.items()},
        "intensity": [parent.facts.intensity, facts.intensity],
    }
    return result.params, json.loads(json.dumps(record))


def _check_same_network(parent: Bundle, config: ConfigDict, facts: Facts) -> None:
    both_have_classes = "class" in parent.cond and "class" in config.cond
    pairs = {"number of axes": (len(parent.facts.size), len(facts.size))}
    for path, each in settings.leaves(settings.fields()):
        section = path.partition(".")[0]
        if (
            each.fixed
            and section in ("method", "model", METHODS[config.method].section)
            and (path != "flow.source" or parent.config.flow.source != "noise")
            and (path != "model.transformer_layers" or both_have_classes)
        ):
            pairs[path] = (field(parent.config, path), field(config, path))
    if config.model.front != "none":  # its channels are bands of channels, which have no names
        pairs |= {
            "image channels": (parent.facts.channel_names, facts.channel_names),
            "number of channels": (parent.facts.network_channels, facts.network_channels),
            "mask labels": (parent.facts.mask_labels, facts.mask_labels),
        }
    for name, (there, here) in pairs.items():
        if there != here:
            raise ValueError(
                f"config.train.init_from={config.train.init_from}: its {name} is {there!r}, here "
                f"{here!r}; give the same, or start from another run"
            )


def _names(config: ConfigDict, facts: Facts, named: bool) -> dict[str, tuple[str, ...]]:
    """What the axes of a network count, see `nn.inherit`; image channels by number or `named`."""
    numbers = tuple(map(str, range(1, facts.channels + 1)))
    labels = facts.mask_labels if config.data.mask_encoding == "onehot" else ("all, scaled",)
    return {
        "image": facts.channel_names if named else numbers,
        "label": facts.mask_labels if facts.label_channels else (),
        "mask": labels if "mask" in config.cond else (),
        "class": facts.classes if "class" in config.cond else (),
    }


def _shared(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, list[str]]:
    return {
        "taken": [name for name in ours if name in theirs],
        "anew": [name for name in ours if name not in theirs],
        "left": [name for name in theirs if name not in ours],
    }
