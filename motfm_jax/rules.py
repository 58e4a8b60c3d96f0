"""The rules between fields of a config; `settings` has those of each field by itself."""

from ml_collections import ConfigDict

from motfm_jax.data import find_source
from motfm_jax.methods import METHODS


def check_method(config: ConfigDict) -> None:
    """Raises ValueError where method, data and condition do not go together."""
    for section, name, plain in (
        ("flow", "source", "noise"),
        ("flow", "prediction", "velocity"),
        ("train", "drop_condition", 0.0),
    ):
        value = config[section][name]
        if value != plain and not METHODS[config.method].starts_from_images:
            raise ValueError(
                f"config.{section}.{name}={value!r} with config.method={config.method!r}: only a "
                f"flow has that choice; use method flow, or {plain!r}"
            )
    if config.model.front != "none" and METHODS[config.method].network != "velocity":
        raise ValueError(
            f"config.model.front={config.model.front!r} with config.method={config.method!r}: its "
            "network has no front; use none, or another method"
        )
    METHODS[config.method].check(config)
    if config.data.generate == "image+mask" and "mask" in config.cond:
        raise ValueError(
            f"config.data.generate='image+mask' with config.cond={config.cond!r}: a mask is made "
            "or given; use cond none or class, or generate=image"
        )
    if config.data.generate == "image+mask" and config.flow.source != "noise":
        raise ValueError(
            f"config.data.generate='image+mask' with config.flow.source={config.flow.source!r}: "
            "images and masks are made from noise; use source noise, or generate=image"
        )


def check_training(config: ConfigDict) -> None:
    """Raises ValueError where fields of config.train cannot work."""
    train = config.train
    if train.base and "mask" not in config.cond:
        raise ValueError(
            f"config.train.base={train.base!r} with config.cond={config.cond!r}: it keeps a UNet "
            "and trains the mask UNet beside it; use cond mask or mask+class"
        )
    if train.base and train.init_from:
        raise ValueError(
            f"config.train.base={train.base!r} with config.train.init_from={train.init_from!r}: "
            "both say what to begin with; choose one"
        )
    if train.teacher and not METHODS[config.method].distils:
        raise ValueError(
            f"config.train.teacher={train.teacher!r} with config.method={config.method!r}: it "
            "learns from data alone; leave it empty, or use method flow_map"
        )
    if train.steps == 0 and train.epochs == 0:
        raise ValueError("config.train.steps=0 and config.train.epochs=0: set one of them")
    if train.batch_size % train.accumulation:
        raise ValueError(
            f"config.train.batch_size={train.batch_size} (images an update) does not divide into "
            f"config.train.accumulation={train.accumulation} equal parts"
        )


def check_data(config: ConfigDict) -> None:
    """The part of `check` that concerns the data."""
    data = config.data
    kind = find_source(data.source)
    if kind.dims and len(data.size) not in kind.dims:
        ranks = " or ".join(f"{rank}-D" for rank in kind.dims)
        raise ValueError(f"config.data.size={tuple(data.size)}: {data.source} is {ranks}")
    if kind.needs_root and not data.root:
        raise ValueError(
            f"config.data.root is empty: {data.source} needs the path of the data, "
            "--config.data.root=PATH"
        )
    if "class" in config.cond and getattr(kind, "classes", None) == ():
        raise ValueError(
            f"config.cond={config.cond!r}: {data.source} data have no classes; use none or mask"
        )
    if config.flow.source == "channel" and not getattr(kind, "has_channels", False):
        raise ValueError(
            f"config.flow.source='channel' with config.data.source={data.source!r}: it has one "
            "channel; use a source with several, such as decathlon"
        )
    if hasattr(kind, "check_config"):
        kind.check_config(data)
    low, high = data.intensity.range
    if not low < high:
        raise ValueError(
            f"config.data.intensity.range=({low}, {high}): the first must be the lower"
        )
    low, high = data.intensity.percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(
            f"config.data.intensity.percentiles=({low}, {high}): 0 <= first < second <= 100"
        )
