"""Config to data: the examples of each split, their scaling, and what a flow starts from."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from motfm_jax.core import Progress
from motfm_jax.data import find_source, labels, remarks
from motfm_jax.data.augment import Augment
from motfm_jax.data.cache import Arrays, in_memory, open_cached
from motfm_jax.data.decode import Decoding
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Bound, Intensity
from motfm_jax.data.labels import Labels
from motfm_jax.data.orientation import is_ras
from motfm_jax.data.pipeline import Examples, Start
from motfm_jax.data.source import Fitted, Source
from motfm_jax.data.speckle import Speckle
from motfm_jax.io.folders import read_json
from motfm_jax.model import Bundle

_log = logging.getLogger(__name__)


class Data(NamedTuple):
    """Training and validation examples, their scaling, and what a checkpoint remembers of them.

    Attributes:
      start: what a flow starts from instead of noise, see `pipeline.Examples`; None for noise.
    """

    train: Arrays
    valid: Arrays
    intensity: Intensity
    facts: Facts
    start: Start | None

    def examples(self, split: str) -> Examples:
        """The scaled examples of "train" or "valid"."""
        return Examples(getattr(self, split), self.intensity, self.start)

    def remarks(self) -> list[str]:
        """What a person should know of the examples, a line each."""
        lines = remarks.of_split("train", self.train) + remarks.of_split("valid", self.valid)
        return lines + remarks.of_classes(self.train) + remarks.of_patients(self.train, self.valid)


def cache_dir(config: ConfigDict) -> Path:
    """Where decoded arrays are kept."""
    default = Path.home() / ".cache" / "motfm_jax"
    return Path(config.data.cache or os.environ.get("MOTFM_CACHE") or default)


def distrust_cache(config: ConfigDict) -> ConfigDict:
    """A saved run's config, without a cache folder that this machine does not have."""
    if config.data.cache and not Path(config.data.cache).is_dir():
        config.data.cache = ""
    return config


def source(config: ConfigDict, split: str) -> Source:
    """The examples of one split, undecoded."""
    kind = find_source(config.data.source)
    if config.flow.source == "channel":
        return kind.from_config(config.data, split, source_channel=config.flow.source_channel)
    return kind.from_config(config.data, split)


def facts_of(run: Path) -> Facts | None:
    """What a run directory remembers of its data; None before its first start."""
    path = run / "facts.json"
    return Facts.from_json(read_json(path)) if path.exists() else None


def arrays(
    config: ConfigDict,
    split: str,
    progress: Progress | None = None,
    facts: Facts | None = None,
) -> Arrays:
    """The examples of one split, decoded (or read from the cache) and checked against `cond`.

    Args:
      split: "train", "valid" or "test".
      progress: called while examples are decoded.
      facts: of the run they are for, whose mask labels they get; None for those of the training
        examples.

    Raises:
      ValueError: files that cannot be used, or a condition the data does not have.
    """
    examples = source(config, split)
    named, numbers = _labels(config, examples, facts), facts.classes if facts else ()
    has_numbers = bool(numbers) or getattr(examples, "classes", None) is not None
    if split != "train" and (named is None or not has_numbers):
        learned = arrays(config, "train", progress)
        named, numbers = named or labels.known(learned), numbers or learned.classes
    opened = _decoded(config, examples, progress, named, numbers, facts)
    return _limited(config, opened) if split == "train" else opened


def of_run(model: Bundle, split: str) -> Arrays:
    """`arrays` of a run's data, with its mask labels."""
    return arrays(model.config, split, facts=model.facts)


def _labels(config: ConfigDict, examples: Source, known: Facts | Arrays | None) -> Labels | None:
    """The mask labels of examples: the known ones where they have the names of those declared."""
    declared = labels.declared(examples, config.data.labels)
    return declared if known is None else labels.known(known).of(declared)


def data(
    config: ConfigDict,
    progress: Progress | None = None,
    train: Source | None = None,
    valid: Source | None = None,
    facts: Facts | None = None,
) -> Data:
    """Training and validation examples; statistics from the training examples alone.

    Args:
      config: its data.source is read unless sources are given.
      progress: see `arrays`.
      train, valid: anything with a length whose items are records, see `data.source.Source`.
      facts: of the run that goes on, see `arrays`.

    Raises:
      ValueError: see `arrays`; only one of train and valid; or valid has classes or mask labels
        that train does not have.
    """
    if (train is None) != (valid is None):
        raise ValueError(
            f"{'valid' if valid is None else 'train'} is missing: give both train and valid, of "
            "different patients; or neither, to read config.data.source"
        )
    if train is None or valid is None:
        train, valid = source(config, "train"), source(config, "valid")
    named, numbers = _labels(config, train, facts), facts.classes if facts else ()
    learned = _decoded(config, train, progress, named, numbers, facts)
    named = _labels(config, valid, learned)
    held_out = _decoded(config, valid, progress, named, learned.classes, facts)
    return _data(config, _limited(config, learned), held_out, facts)


def _decoded(
    config: ConfigDict,
    examples: Source,
    progress: Progress | None,
    named: Labels | None,
    numbers: Sequence[str],
    facts: Facts | None,
) -> Arrays:
    """Decoded examples that fit `cond`; `named` and `numbers` as in `Fitted`."""
    intensity = config.data.intensity
    how = Decoding(
        on_fault=config.data.on_fault,
        varied=intensity.scope == "sample" and intensity.mode != "none" and not intensity.window,
        verify=config.data.verify,
    )
    # Volumes of a run that was trained on other axes keep them.
    turns = facts is None or facts.affine is None or is_ras(facts.affine)
    size, fit = config.data.size, config.data.fit
    fitted = Fitted(examples, size, fit, named, intensity.nan, numbers, turns)
    if hasattr(examples, "fingerprint"):
        opened = open_cached(fitted, cache_dir(config), progress, how)
    else:
        opened = in_memory(fitted, progress, how)
    name = config.data.root or type(examples).__name__
    if "mask" in config.cond and opened.masks is None:
        raise ValueError(f"{name}: config.cond={config.cond!r} needs masks, the data has none")
    if config.data.generate == "image+mask" and opened.masks is None:
        raise ValueError(
            f"{name}: config.data.generate='image+mask' needs masks, the data has none"
        )
    if "class" in config.cond and opened.labels is None:
        raise ValueError(f"{name}: config.cond={config.cond!r} needs classes, the data has none")
    if config.flow.source == "channel" and opened.sources is None:
        raise ValueError(f"{name}: config.flow.source='channel' needs the `source` of each record")
    return opened


def _limited(config: ConfigDict, train: Arrays) -> Arrays:
    return train.take(slice(0, config.data.limit)) if config.data.limit else train


def _named_as(train: Arrays, valid: Arrays) -> Arrays:
    """Validation examples with the class and label names of the training examples."""
    for field in ("classes", "mask_labels"):
        known, names = getattr(train, field), getattr(valid, field)
        if names != known[: len(names)]:
            raise ValueError(
                f"{field} of the validation examples are {names}, of the training examples "
                f"{known}; give both sources the same `{field}`"
            )
    return dataclasses.replace(valid, classes=train.classes, mask_labels=train.mask_labels)


def _data(config: ConfigDict, train: Arrays, valid: Arrays, past: Facts | None) -> Data:
    valid = _named_as(train, valid)
    channels = [each.images.shape[-1] for each in (train, valid)]
    if channels[0] != channels[1]:
        raise ValueError(
            "training images have {} channels, validation images {}; give both the same "
            "channels".format(*channels)
        )
    if train.folder is None or valid.folder is None:
        _log.info(
            "sources without fingerprint(): %d training and %d validation examples are decoded "
            "into memory",
            len(train),
            len(valid),
        )
    intensity = _fit(config, train, train.images, past and past.intensity)
    source_intensity = None
    if train.sources is not None:
        before = past and past.source_intensity
        source_intensity = _fit(config, train, train.sources, before).to_json()
    # A run that goes on keeps its labels, even where the files have other values by now.
    knows_labels = past is not None and past.mask_labels == train.mask_labels
    first = train.meta[0]
    spacing = first.get("spacing_mm")
    facts = Facts(
        size=tuple(train.images.shape[1:-1]),
        channels=train.images.shape[-1],
        classes=train.classes,
        mask_labels=train.mask_labels,
        intensity=intensity.to_json(),
        spacing_mm=tuple(spacing) if spacing else None,
        affine=first.get("affine"),
        source_intensity=source_intensity,
        label_values=past.label_values if knows_labels else train.label_values,
        channel_names=train.channel_names,
        bounds=intensity.span(train.images),
        label_channels=len(train.mask_labels) if config.data.generate == "image+mask" else 0,
    )
    if train.label_values:
        pairs = [pair for pair in zip(train.label_values, train.mask_labels) if pair[0] >= 0]
        _log.info(
            "mask labels: %s become 0 to %d",
            ", ".join(name if name == str(value) else f"{value} ({name})" for value, name in pairs),
            len(facts.mask_labels) - 1,
        )
    return Data(train, valid, intensity, facts, start(config, facts))


def _fit(
    config: ConfigDict, train: Arrays, images: np.ndarray, before: dict[str, Any] | None
) -> Intensity:
    """The scaling of training images, of the kind that it was before in a run that goes on."""
    scaling = config.data.intensity
    if scaling.window:
        return Intensity.of_window(scaling.window, scaling.range)
    return Intensity.fit(
        images,
        scaling.mode,
        scaling.scope,
        scaling.range,
        scaling.percentiles,
        [meta["name"] for meta in train.meta],
        shared=before is not None and not isinstance(before["low"], list | tuple),
    )


def bounds(model: Bundle, train: Arrays | None) -> tuple[Bound, Bound]:
    """Black and white of a model's scores, see `Facts.bounds`.

    Args:
      train: the training examples, for a run of 0.1.0; without them its scaling is taken.
    """
    if model.facts.bounds:
        return model.facts.bounds
    return model.intensity.span(train.images if train else ())


def start(config: ConfigDict, facts: Facts, power: float | None = None) -> Start | None:
    """What a flow starts from instead of noise, as `pipeline.Examples` takes it; None for noise.

    Args:
      power: of speckle; None draws it from the config's range.
    """
    if config.flow.source == "speckle":
        powers = tuple(config.flow.speckle_power) if power is None else (power, power)
        return Speckle(powers, tuple(config.data.intensity.range))
    if config.flow.source == "channel":
        return Intensity.from_json(facts.source_intensity)
    return None


def augmentation(config: ConfigDict) -> Augment | None:
    """The random changes that the config names; None without any."""
    amount = config.data.augment
    if not (amount.flip or amount.affine or amount.gamma):
        return None
    return Augment(amount.flip, amount.affine, amount.gamma, amount.told)
