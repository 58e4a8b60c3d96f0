"""The config: its fields with their rules, and the rules between them."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from motfm_jax.data import labels
from motfm_jax.data.intensity import fill_fault, window_fault
from motfm_jax.data.nifti import GEOMETRIES
from motfm_jax.data.slices import AXES, PLANES
from motfm_jax.fields import (
    Field,
    are_names,
    choice,
    each_level,
    number,
    numbers,
    one_of,
    positive,
)
from motfm_jax.io.trackers import TRACKERS
from motfm_jax.methods import METHODS
from motfm_jax.nn.sizes import check_sizes
from motfm_jax.rules import check_data, check_method, check_training

CONDITIONS = ("none", "class", "mask", "mask+class")
SIZES = ("debug", "small", "paper")
MOST_HALVINGS = 2
MOST_BLOCKS = 100  # a program grows with each block

Fields = Mapping[str, "Field | Fields"]


def fields() -> Fields:
    """Every field there is. A method brings a section of its settings."""
    return {
        "seed": number(0),
        # what is learned, see motfm_jax.methods; a generator's levels are model.channels
        "method": Field("flow", lambda name: one_of(name, METHODS)).fix(),
        "cond": choice(*CONDITIONS).fix(),
        "data": DATA,
        "model": MODEL,
        **{method.section: method.settings for method in METHODS.values()},
        "train": TRAIN,
    }


DATA: Fields = {
    # a name in motfm_jax.data.SOURCES; a run can be sampled without its source
    "source": Field("phantom_echo"),
    "root": Field(""),  # folder, or file (pickle)
    "cache": Field(""),  # folder of decoded arrays; "" = $MOTFM_CACHE, else ~/.cache/motfm_jax
    # what is made: images, or each with its label map, as further channels of the network
    "generate": choice("image", "image+mask").fix(),
    "size": numbers((64, 64), kind=int, above=0),  # that the networks see, (H, W) or (D, H, W)
    "fit": choice("pad", "stretch"),  # what happens to the aspect ratio
    "split": Field("official"),  # camus: official | paper; the others: seeded by split_seed
    "split_seed": number(0),
    "classes": Field("view_phase"),  # camus, phantom_echo: view_phase | view | phase
    # decathlon, folder: names of channels, "T1w" or "T1w,FLAIR"; "" = the only one, or all
    "channel": Field("", are_names, kind=object),
    # folder: pictures out of volumes, in a plane or across an axis; every so many slices, without
    # so many at either end, and without those that have a smaller share of foreground
    "slices": choice("", *PLANES, *AXES),
    "slice_step": positive(1),
    "slice_margin": number(0),
    "slice_foreground": number(0.0, high=1),
    "crop_foreground": Field(False),  # decathlon, folder
    # decathlon, folder: resample to this before fitting to size; () = never
    "spacing_mm": Field(()),
    # the field of NIfTI headers that places voxels: sform | qform | pixdim; "" = the first of them
    "geometry": choice("", *GEOMETRIES),
    "resample_masks": Field(False),  # masks on another grid: take the nearest voxels, or refuse
    # the mask labels, background first: "background,lesion" for the values 0 and 1, or
    # "0:background,255:lesion"; "" = as the data says
    "labels": Field("", labels.fault),
    "label_map": Field(()),  # decathlon: pairs (from, to); () = unchanged
    # an example that cannot be read: stop | skip (leave out and list, at most half)
    "on_fault": choice("stop", "skip"),
    # hash the files' contents and compare the cache's checksums at every start
    "verify": Field(False),
    "limit": number(0),  # use only the first so many training examples; 0 = all
    "phantom_patients": positive(100),
    "intensity": {
        "mode": choice("minmax", "none", "percentile", "zscore"),
        "scope": choice("dataset", "sample"),
        "range": numbers((-1.0, 1.0), count=2),  # minmax and percentile map to this
        "percentiles": numbers((0.5, 99.5), count=2),
        # fixed bounds in place of mode and scope, such as (-160, 240)
        "window": Field((), window_fault),
        # what NaN and infinite values become, such as 0; "" = refused
        "nan": Field("", fill_fault, kind=object),
    },
    "mask_encoding": choice("onehot", "scalar").fix(),  # scalar: the original's
    "augment": {
        "flip": Field(False),  # left-right
        "affine": number(0.0),  # largest rotation [rad]; scale and shift follow it
        "gamma": number(0.0),  # largest |log gamma|
        "told": Field(False).fix(),  # the network is given what was done; nothing at sampling
    },
    "workers": number(0),  # Grain worker processes
}
MODEL: Fields = {
    "channels": numbers((32, 64, 128, 224, 256), kind=int, above=0).fix(),
    # an orthonormal transform around the network that halves each side, so often: see nn.front
    "front": choice("none", "haar", "pixel_shuffle").fix(),
    "front_levels": positive(1, MOST_HALVINGS).fix(),
    "res_blocks": each_level(2, 1, MOST_BLOCKS).fix(),  # (2, 1) for each level its own
    "attention": Field((False, False, False, True, True)).fix(),
    # channels a head, or one number for each level; 0 = the original's single head per level
    "head_dim": each_level(32, 0).fix(),
    "transformer_layers": positive(4, MOST_BLOCKS).fix(),  # with class conditioning
    "mask_embedding": positive(16),  # width of the first convolution that the mask passes
    "time": choice("continuous", "floor").fix(),  # floor: the original's floor(999 t)
    "norm_groups": positive(32).fix(),
    "dropout": Field(0.0, lambda rate: "" if 0 <= rate < 1 else "a rate in [0, 1)"),
    "attention_implementation": choice("auto", "cudnn", "xla"),
    # what the backward pass computes again, for less memory: nothing; normalisations and
    # activations; whole blocks, the most work; auto: the least that fits the device
    "remat": choice("none", "norms", "blocks", "auto"),
}
TRAIN: Fields = {
    # ControlNet: a run without masks whose UNet stays unchanged, while the mask UNet, which starts
    # as a copy of its encoder, is trained; "" = both are trained together
    "base": Field(""),
    # a run whose averaged weights this one begins with, whatever its classes, labels, channels and
    # image size: fine-tuning; "" = begin anew
    "init_from": Field(""),
    # method flow_map: the run of the flow whose averaged weights it begins with and learns from
    "teacher": Field(""),
    # flows: probability with which an example is seen without its class and mask: see --guidance
    "drop_condition": number(0.0, 0, 1),
    "steps": number(0),  # optimiser updates; 0 = epochs decide
    "epochs": number(200),
    "batch_size": positive(8),  # images an optimiser update, over all devices and accumulation
    "accumulation": positive(1),
    "optimizer": choice("adam", "adamw", "sgd"),
    "lr": positive(1e-4),
    "weight_decay": number(0.0),  # adamw
    "warmup": number(0),  # updates of linear warm-up
    "schedule": choice("constant", "cosine"),
    "clip": number(1.0),  # largest global gradient norm; 0 = no clipping
    # decay of the moving average of the weights
    "ema": Field(0.999, lambda decay: "" if 0 <= decay < 1 else "a decay in [0, 1), 0 for none"),
    # relative width of a power-function average in its place, such as 0.05 to 0.15: a share of the
    # updates so far; 0 = the decay above
    "ema_length": number(0.0, 0, 0.28),
    "dtype": choice("auto", "bfloat16", "float32"),  # auto: bfloat16 on GPU, float32 elsewhere
    # where curves and pictures are shown: TensorBoard's files, or a service
    "tracker": choice(*TRACKERS),
    "log_every": positive(50),
    "eval_every": positive(1000),
    "sample_every": positive(5000),
    "save_every": positive(1000),
    "keep_every": number(0),  # also keep each checkpoint at a multiple of this; 0 = last and best
}


def default() -> ConfigDict:
    """Every field with the value used where a config file says nothing."""
    return ConfigDict(_defaults(fields())).lock()


def _defaults(tree: Fields) -> dict[str, Any]:
    return {
        name: _default(each) if isinstance(each, Field) else _defaults(each)
        for name, each in tree.items()
    }


def _default(each: Field) -> Any:
    return FieldReference(each.default, field_type=each.kind) if each.kind else each.default


def leaves(tree: Fields, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """("train.lr", its field), ... ."""
    for name, each in tree.items():
        if isinstance(each, Field):
            yield prefix + name, each
        else:
            yield from leaves(each, f"{prefix}{name}.")


def field(config: ConfigDict, path: str) -> Any:
    """The value at "train.lr"."""
    for name in path.split("."):
        config = config[name]
    return config


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, where a value or a pair of values cannot work."""
    check_network(config)
    check_data(config)
    check_method(config)
    check_training(config)


def check_network(config: ConfigDict) -> None:
    """The part of `check` that needs no data: each field by itself, and the network's sizes."""
    check_fields(config)
    check_sizes(config.model, config.data.size)


def check_fields(config: ConfigDict) -> None:
    """Raises ValueError for a field whose value cannot work, whatever the others are."""
    for path, each in leaves(fields()):
        value = field(config, path)
        needed = each.rule(value)
        if needed:
            raise ValueError(f"config.{path}={value!r:.80}: {needed}")


def parse_arguments(text: str, **defaults: str) -> dict[str, str]:
    """Arguments after a config file's colon: "cond=mask,size=debug" over the defaults.

    Raises:
      ValueError: an argument that the file does not take, or a method, cond, size or dims that
        does not exist.
    """
    values = dict(defaults)
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or name not in values:
            raise ValueError(
                f"config argument {part!r}: this file takes "
                f"{', '.join(f'{key}=...' for key in values)}"
            )
        values[name] = value
    for name, choices in (
        ("method", tuple(METHODS)),
        ("cond", CONDITIONS),
        ("size", SIZES),
        ("dims", ("2", "3")),
    ):
        if name in values and values[name] not in choices:
            raise ValueError(
                f"config argument {name}={values[name]}: use one of {', '.join(choices)}"
            )
    return values


def from_json(values: Mapping[str, Any]) -> ConfigDict:
    """A resolved config as it was saved; fields added since then take their defaults.

    Raises:
      ValueError: no fields, a field that does not exist, or a value of another type than its
        default.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"config={values!r}: fields by name needed")
    config, model = default(), values.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("remat"), bool):  # until 0.2
        values = {**values, "model": {**model, "remat": "blocks" if model["remat"] else "none"}}
    _assign(config, values, "")
    return config


def assign(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets fields by path, such as {"train.lr": 3e-4}, in place.

    Raises:
      ValueError: a field that does not exist, or a value of another type than its default.
    """
    for path, value in values.items():
        for name in reversed(path.split(".")):
            value = {name: value}
        _assign(config, value, "")


def _assign(config: ConfigDict, values: Mapping[str, Any], prefix: str) -> None:
    for name, value in values.items():
        if name not in config:
            close = difflib.get_close_matches(name, list(config), n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise ValueError(f"config.{prefix}{name}: there is no such field{hint}")
        if isinstance(value, Mapping) and isinstance(config[name], ConfigDict):
            _assign(config[name], value, f"{prefix}{name}.")
            continue
        try:
            if value is None:  # which ml_collections would let pass
                raise TypeError
            config[name] = _to_tuple(value)
        except (TypeError, OverflowError) as error:
            raise ValueError(
                f"config.{prefix}{name}={value!r}: needs the type of its default, "
                f"{type(config[name]).__name__}"
            ) from error


def _to_tuple(value: Any) -> Any:
    """JSON has lists where configs have tuples."""
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value
