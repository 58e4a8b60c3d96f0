"""Config to data: the examples of each split, their scaling, and what a flow starts from."""

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from motfm_jax.data import find_source
from motfm_jax.data.augment import Augment, left_right_axis
from motfm_jax.data.cache import Arrays, holds_entries, open_cached
from motfm_jax.data.entry import Progress
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.records import Facts, Source
from motfm_jax.data.speckle import Speckle


class Data(NamedTuple):
    """Training and validation examples, their scaling, and what a checkpoint remembers of them.

    Attributes:
      sources: what a flow starts from instead of noise, as `data.pipeline` takes it.
    """

    train: Arrays
    valid: Arrays
    intensity: Intensity
    facts: Facts
    sources: dict[str, Any]


def cache_dir(config: ConfigDict) -> Path:
    """Where decoded arrays are kept."""
    default = Path.home() / ".cache" / "motfm_jax"
    return Path(config.data.cache or os.environ.get("MOTFM_CACHE") or default)


def distrust_cache(config: ConfigDict) -> ConfigDict:
    """A run's config, without the folder it names for decoded data unless there is some in it: a
    run from elsewhere must not choose where this machine writes."""
    if config.data.cache and not holds_entries(Path(config.data.cache)):
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

    Raises:
      ValueError: files that cannot be used, or a condition the data does not have.
    """
    intensity = config.data.intensity
    opened = open_cached(
        source(config, split),
        cache_dir(config),
        progress,
        config.data.on_fault,
        varied=intensity.scope == "sample" and intensity.mode != "none",
    )
    where = config.data.root or config.data.source
    if "mask" in config.cond and opened.masks is None:
        raise ValueError(f"{where}: config.cond={config.cond!r} needs masks, the data has none")
    if "class" in config.cond and opened.labels is None:
        raise ValueError(f"{where}: config.cond={config.cond!r} needs classes, the data has none")
    if split == "train" and config.data.limit:
        opened = opened.take(slice(0, config.data.limit))
    return opened


def data(config: ConfigDict, progress: Progress | None = None) -> Data:
    """Training and validation examples; statistics from the training examples alone."""
    train, valid = (arrays(config, split, progress) for split in ("train", "valid"))
    wanted = config.data.intensity
    fit = functools.partial(
        Intensity.fit,
        mode=wanted.mode,
        scope=wanted.scope,
        range=wanted.range,
        percentiles=wanted.percentiles,
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
    return Data(train, valid, intensity, facts, sources(config, facts))


def sources(config: ConfigDict, facts: Facts, power: float | None = None) -> dict[str, Any]:
    """What a flow starts from instead of noise: arguments of the functions of `data.pipeline`.

    Args:
      power: of speckle; None draws it from the config's range.
    """
    if config.flow.source == "speckle":
        powers = tuple(config.flow.speckle_power) if power is None else (power, power)
        return dict(speckle=Speckle(powers, tuple(config.data.intensity.range)))
    if config.flow.source == "channel":
        return dict(source_intensity=Intensity.from_json(facts.source_intensity))
    return {}


def augmentation(config: ConfigDict, facts: Facts) -> Augment | None:
    """The random changes the config asks for; None where it asks for none."""
    wanted = config.data.augment
    if not (wanted.flip or wanted.affine or wanted.gamma):
        return None
    axis = left_right_axis(len(facts.size), facts.affine) if wanted.flip else None
    return Augment(axis, wanted.affine, wanted.gamma, facts.spacing_mm)
