"""Config to data: the examples of each split, their scaling, and what a flow starts from."""

import dataclasses
import functools
import logging
import os
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from motfm_jax.core import Progress
from motfm_jax.data import find_source
from motfm_jax.data.augment import Augment
from motfm_jax.data.cache import Arrays, in_memory, open_cached
from motfm_jax.data.decode import Decoding
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pipeline import Examples, Start
from motfm_jax.data.source import Fitted, Source
from motfm_jax.data.speckle import Speckle

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


def arrays(config: ConfigDict, split: str, progress: Progress | None = None) -> Arrays:
    """The examples of one split, decoded (or read from the cache) and checked against `cond`.

    Args:
      split: "train", "valid" or "test".
      progress: called while examples are decoded.

    Raises:
      ValueError: files that cannot be used, or a condition the data does not have.
    """
    opened = _decoded(config, source(config, split), progress)
    return _limited(config, opened) if split == "train" else opened


def data(
    config: ConfigDict,
    progress: Progress | None = None,
    train: Source | None = None,
    valid: Source | None = None,
) -> Data:
    """Training and validation examples; statistics from the training examples alone.

    Args:
      config: its data.source is read unless sources are given.
      progress: see `arrays`.
      train, valid: anything with a length whose items are records, see `data.source.Source`.

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
    return _data(
        config,
        _limited(config, _decoded(config, train, progress)),
        _decoded(config, valid, progress),
    )


def _decoded(config: ConfigDict, examples: Source, progress: Progress | None) -> Arrays:
    intensity = config.data.intensity
    how = Decoding(
        on_fault=config.data.on_fault,
        varied=intensity.scope == "sample" and intensity.mode != "none",
        verify=config.data.verify,
    )
    fitted = Fitted(examples, config.data.size, config.data.fit)
    if hasattr(examples, "fingerprint"):
        opened = open_cached(fitted, cache_dir(config), progress, how)
    else:
        opened = in_memory(fitted, progress, how)
    name = config.data.root or type(examples).__name__
    if "mask" in config.cond and opened.masks is None:
        raise ValueError(f"{name}: config.cond={config.cond!r} needs masks, the data has none")
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


def _data(config: ConfigDict, train: Arrays, valid: Arrays) -> Data:
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
    scaling = config.data.intensity
    fit = functools.partial(
        Intensity.fit,
        mode=scaling.mode,
        scope=scaling.scope,
        range=scaling.range,
        percentiles=scaling.percentiles,
        names=[meta["name"] for meta in train.meta],
    )
    intensity = fit(train.images)
    source_intensity = fit(train.sources).to_json() if train.sources is not None else None
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
    )
    return Data(train, valid, intensity, facts, start(config, facts))


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
    return Augment(amount.flip, amount.affine, amount.gamma)
