"""The default config, the rules between its fields, and the arguments config files take."""

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from motfm_jax.data import find_source

METHODS = ("flow", "ddpm", "spade")
CONDITIONS = ("none", "class", "mask", "mask+class")
SIZES = ("debug", "small", "paper")


def default() -> ConfigDict:
    """Every field there is, with the value used where a config file says nothing."""
    return ConfigDict(
        dict(
            seed=0,
            # flow | the baselines: ddpm (the network estimates the noise), spade (a generator from
            # masks, trained against discriminators; its levels are model.channels)
            method="flow",
            # none | class | mask | mask+class
            cond="none",
            data=dict(
                # phantom_echo | phantom_brain | camus | decathlon | pickle, or a name that was
                # added to motfm_jax.data.SOURCES
                source="phantom_echo",
                root="",  # folder (camus, decathlon) or file (pickle)
                cache="",  # folder of decoded arrays; "" = $MOTFM_CACHE, else ~/.cache/motfm_jax
                size=(64, 64),  # spatial size the networks see, (H, W) or (D, H, W)
                fit="pad",  # what happens to the aspect ratio: pad | stretch
                split="official",  # camus: official | paper; the others: seeded by split_seed
                split_seed=0,
                classes="view_phase",  # camus, phantom_echo: view_phase | view | phase
                channel="",  # decathlon: name in dataset.json's "modality"; "" = the only one
                crop_foreground=False,  # decathlon
                spacing_mm=(),  # decathlon: resample to this before fitting to size; () = as it is
                label_map=(),  # decathlon: pairs (from, to); () = as they are
                # an example that cannot be read: stop | skip (leave out and list, at most half)
                on_fault="stop",
                limit=0,  # use only the first so many training examples; 0 = all
                phantom_patients=100,
                intensity=dict(
                    mode="minmax",  # none | minmax | percentile | zscore
                    scope="dataset",  # dataset | sample
                    range=(-1.0, 1.0),  # minmax and percentile map to this
                    percentiles=(0.5, 99.5),
                ),
                mask_encoding="onehot",  # onehot | scalar (the original's)
                augment=dict(
                    flip=False,  # left-right
                    affine=0.0,  # largest rotation [rad]; scale and shift follow it
                    gamma=0.0,  # largest |log gamma|
                ),
                workers=0,  # Grain worker processes
            ),
            model=dict(
                channels=(32, 64, 128, 224, 256),
                res_blocks=2,
                attention=(False, False, False, True, True),
                head_dim=32,  # channels a head; 0 = the original's single head per level
                transformer_layers=4,  # with class conditioning
                mask_embedding=16,  # width of the first convolution the mask passes
                time="continuous",  # continuous | floor (the original's floor(999 t))
                norm_groups=32,
                dropout=0.0,
                attention_implementation="auto",  # auto | cudnn | xla
                remat=False,  # UNet blocks anew in the backward pass: less memory, more time
            ),
            flow=dict(
                time_distribution="uniform",  # uniform | logit_normal
                # noise | speckle (denoising: the image with speckle) | channel (decathlon: image to
                # image, from source_channel to data.channel)
                source="noise",
                speckle_power=(0.02, 0.2),  # least and greatest mean square over the image's
                source_channel="",  # name in dataset.json's "modality"
            ),
            diffusion=dict(  # with method ddpm
                schedule="linear",  # of the 1,000 levels: linear (Ho et al.) | cosine
                spacing="leading",  # levels DDIM visits: leading | trailing; see methods/diffusion
                eta=0.0,  # fresh noise in sampling, 0 (DDIM) to 1 (ancestral)
            ),
            spade=dict(
                hidden=128,  # channels of the convolution by which a normalisation reads the mask
                width=64,  # channels of a discriminator's first layer
                discriminators=2,  # each sees the image at half the size of the one before
                feature_weight=10.0,  # of feature matching in the generator's loss
                # of the perceptual (VGG19) loss in the generator's, 10 in the publication; above 0
                # it needs the published weights: scripts/convert.py features --network=vgg
                perceptual_weight=0.0,
                discriminator_rate=4.0,  # times train.lr: the discriminators' learning rate
            ),
            train=dict(
                # ControlNet: a run without masks whose UNet stays as it is, while the mask UNet,
                # begun as a copy of its encoder, is trained; "" = both are trained together
                base="",
                steps=0,  # optimiser updates; 0 = epochs decide
                epochs=200,
                batch_size=8,  # images an optimiser update, over all devices and accumulation
                accumulation=1,
                optimizer="adam",  # adam | adamw | sgd
                lr=1e-4,
                weight_decay=0.0,  # adamw
                warmup=0,  # updates of linear warm-up
                schedule="constant",  # constant | cosine
                clip=1.0,  # largest global gradient norm; 0 = no clipping
                ema=0.999,  # 0 = none
                dtype="auto",  # auto (bfloat16 on GPU, float32 elsewhere) | bfloat16 | float32
                log_every=50,
                eval_every=1000,
                sample_every=5000,
                save_every=1000,
                keep_every=0,  # also keep each checkpoint at a multiple of this; 0 = last and best
            ),
        )
    ).lock()


CHOICES = {
    "method": METHODS,
    "cond": CONDITIONS,
    "data.fit": ("pad", "stretch"),
    "data.on_fault": ("stop", "skip"),
    "data.intensity.mode": ("none", "minmax", "percentile", "zscore"),
    "data.intensity.scope": ("dataset", "sample"),
    "data.mask_encoding": ("onehot", "scalar"),
    "model.time": ("continuous", "floor"),
    "model.attention_implementation": ("auto", "cudnn", "xla"),
    "flow.time_distribution": ("uniform", "logit_normal"),
    "flow.source": ("noise", "speckle", "channel"),
    "diffusion.schedule": ("linear", "cosine"),
    "diffusion.spacing": ("leading", "trailing"),
    "train.optimizer": ("adam", "adamw", "sgd"),
    "train.schedule": ("constant", "cosine"),
    "train.dtype": ("auto", "bfloat16", "float32"),
}
POSITIVE = (
    "model.res_blocks",
    "model.transformer_layers",
    "model.norm_groups",
    "model.mask_embedding",
    "train.batch_size",
    "train.accumulation",
    "train.lr",
    "train.log_every",
    "train.eval_every",
    "train.sample_every",
    "train.save_every",
    "data.phantom_patients",
    "spade.hidden",
    "spade.width",
    "spade.discriminators",
    "spade.discriminator_rate",
)
NOT_NEGATIVE = (
    "seed",
    "data.split_seed",
    "data.limit",
    "data.workers",
    "data.augment.affine",
    "data.augment.gamma",
    "model.head_dim",
    "train.steps",
    "train.epochs",
    "train.warmup",
    "train.clip",
    "train.weight_decay",
    "train.keep_every",
    "spade.feature_weight",
    "spade.perceptual_weight",
)
LARGEST = 2**32  # whole numbers are below it, as seeds and counts have 32 bits
MOST = {"model.res_blocks": 100, "model.transformer_layers": 100}  # programs grow with each block


def field(config: ConfigDict, path: str):
    """The value at "train.lr"."""
    for name in path.split("."):
        config = config[name]
    return config


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, where a value or a pair of values cannot work."""
    check_network(config)
    _check_data(config)
    if config.flow.source != "noise":
        _check_source(config)
    if config.method == "ddpm":
        _check_diffusion(config)
    if config.method == "spade":
        _check_spade(config)
    train = config.train
    if train.base and "mask" not in config.cond:
        raise ValueError(
            f"config.train.base={train.base!r} with config.cond={config.cond!r}: it keeps a UNet "
            "and trains the mask UNet beside it; use cond mask or mask+class"
        )
    if train.steps == 0 and train.epochs == 0:
        raise ValueError("config.train.steps=0 and config.train.epochs=0: set one of them")
    if train.batch_size % train.accumulation:
        raise ValueError(
            f"config.train.batch_size={train.batch_size} (images an update) does not divide into "
            f"config.train.accumulation={train.accumulation} equal parts"
        )
    if not 0 <= train.ema < 1:
        raise ValueError(f"config.train.ema={train.ema}: a decay in [0, 1), 0 for none")


def check_network(config: ConfigDict) -> None:
    """The part of `check` that needs no data: each field by itself, and the network's sizes."""
    for path, choices in CHOICES.items():
        value = field(config, path)
        if value not in choices:
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"config.{path}={value!r}: use one of {', '.join(choices)}{hint}")
    for path in POSITIVE + NOT_NEGATIVE:
        value, positive = field(config, path), path in POSITIVE
        most = MOST.get(path, LARGEST if isinstance(value, int) else math.inf)
        if isinstance(value, bool) or not 0 <= value < most or (positive and not value):
            bound = "above 0" if positive else "0 or more"
            raise ValueError(f"config.{path}={value!s:.40}: needs a number {bound}, below {most}")
    _check_model(config)


def _check_numbers(
    path: str,
    values: Sequence,
    count: int = 0,
    kind: type | tuple = (int, float),
    above: float = -math.inf,
) -> None:
    """A tuple's entries: numbers of a kind above a bound, `count` of them (0: one or more)."""
    largest = sys.float_info.max  # a whole number may be beyond it
    fit = all(
        isinstance(value, kind)
        and not isinstance(value, bool)
        and max(above, -largest) < value < largest
        for value in values
    )
    if not fit or not values or (count and len(values) != count):
        numbers = "whole numbers" if kind is int else "numbers"
        bound = f", each above {above}" if math.isfinite(above) else ""
        raise ValueError(
            f"config.{path}={tuple(values)}: give {count or 'one or more'} {numbers}{bound}"
        )


def _check_model(config: ConfigDict) -> None:
    model, size = config.model, config.data.size
    _check_numbers("model.channels", model.channels, kind=int, above=0)
    _check_numbers("data.size", size, kind=int, above=0)
    if len(size) not in (2, 3):
        raise ValueError(f"config.data.size={tuple(size)}: give (H, W) or (D, H, W)")
    if not all(isinstance(attends, bool) for attends in model.attention):
        raise ValueError(
            f"config.model.attention={tuple(model.attention)}: each entry is True or False"
        )
    if len(model.attention) != len(model.channels):
        raise ValueError(
            f"config.model.attention={tuple(model.attention)}: one flag for each of the "
            f"{len(model.channels)} levels of config.model.channels"
        )
    factor = 2 ** (len(model.channels) - 1)
    if any(extent % factor for extent in size):
        nearest = tuple(max(1, (extent + factor // 2) // factor) * factor for extent in size)
        raise ValueError(
            f"config.data.size={tuple(size)}: {len(model.channels)} levels halve it "
            f"{len(model.channels) - 1} times, so each side must be a multiple of {factor}; "
            f"nearest: {nearest}"
        )
    # The middle attends whatever the last flag says.
    for width, attends in zip(model.channels, (*model.attention[:-1], True)):
        if width % model.norm_groups:
            raise ValueError(
                f"config.model.channels={tuple(model.channels)}: {width} does not divide into "
                f"config.model.norm_groups={model.norm_groups} groups"
            )
        if attends and model.head_dim and width % model.head_dim:
            raise ValueError(
                f"config.model.head_dim={model.head_dim}: the {width} channels of a level (or "
                "the middle) that attends do not divide into such heads; 0 gives one head"
            )
    if not 0 <= model.dropout < 1:
        raise ValueError(f"config.model.dropout={model.dropout}: a rate in [0, 1)")


def _check_diffusion(config: ConfigDict) -> None:
    if not 0 <= config.diffusion.eta <= 1:
        raise ValueError(
            f"config.diffusion.eta={config.diffusion.eta}: 0 (no fresh noise) to 1 (ancestral)"
        )
    _check_signed_range(config, "its schedules suppose")


def _check_spade(config: ConfigDict) -> None:
    if "mask" not in config.cond:
        raise ValueError(
            f"config.method='spade' with config.cond={config.cond!r}: it makes images from masks; "
            "use cond mask or mask+class"
        )
    if config.train.base:
        raise ValueError(
            f"config.train.base={config.train.base!r} with config.method='spade': only a UNet can "
            "be kept; leave it empty"
        )
    if config.model.dropout:
        raise ValueError(
            f"config.model.dropout={config.model.dropout} with config.method='spade': only a UNet "
            "has it; leave it 0"
        )
    if config.train.optimizer != "adam":
        raise ValueError(
            f"config.train.optimizer={config.train.optimizer!r} with config.method='spade': it is "
            "trained with adam"
        )
    weight, size = config.spade.perceptual_weight, tuple(config.data.size)
    if weight and (len(size) != 2 or min(size) < 16):
        raise ValueError(
            f"config.spade.perceptual_weight={weight} with config.data.size={size}: VGG19 sees 2-D "
            "images of 16 pixels a side and more; leave it 0"
        )
    _check_signed_range(config, "its generator ends in a tanh and makes")


def _check_signed_range(config: ConfigDict, why: str) -> None:
    intensity = config.data.intensity
    if intensity.mode not in ("minmax", "percentile") or tuple(intensity.range) != (-1, 1):
        raise ValueError(
            f"config.data.intensity.mode={intensity.mode!r}, range={tuple(intensity.range)} with "
            f"config.method={config.method!r}: {why} images in [-1, 1]; use minmax or percentile "
            "and range (-1, 1)"
        )


def _check_source(config: ConfigDict) -> None:
    flow, data = config.flow, config.data
    if config.method != "flow":
        raise ValueError(
            f"config.flow.source={flow.source!r} with config.method={config.method!r}: only a flow "
            "starts from anything but noise; use method flow"
        )
    if flow.source == "speckle":
        _check_numbers("flow.speckle_power", flow.speckle_power, count=2, above=0)
        if flow.speckle_power[0] > flow.speckle_power[1]:
            raise ValueError(
                f"config.flow.speckle_power={tuple(flow.speckle_power)}: the least, then the "
                "greatest"
            )
        if data.intensity.mode not in ("minmax", "percentile"):
            raise ValueError(
                f"config.data.intensity.mode={data.intensity.mode!r} with config.flow.source="
                "'speckle': speckle grows with the distance from black, which only minmax and "
                "percentile send to a known value; use one of them"
            )
        return
    if not getattr(find_source(data.source), "has_channels", False):
        raise ValueError(
            f"config.flow.source='channel' with config.data.source={data.source!r}: it has one "
            "channel; use a source with several, such as decathlon"
        )
    if not flow.source_channel or flow.source_channel.lower() == data.channel.lower():
        raise ValueError(
            f"config.flow.source_channel={flow.source_channel!r}, config.data.channel="
            f"{data.channel!r}: give two different names of dataset.json's modality, the first of "
            "the images to start from, the second of those to make"
        )
    if data.augment.gamma:
        raise ValueError(
            f"config.data.augment.gamma={data.augment.gamma} with config.flow.source='channel': it "
            "would change the contrast that is to be learned; set it to 0"
        )


def _check_data(config: ConfigDict) -> None:
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
    if hasattr(kind, "check_config"):
        kind.check_config(data)
    for name in ("range", "percentiles"):
        _check_numbers(f"data.intensity.{name}", data.intensity[name], count=2)
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


def parse_arguments(text: str, **defaults: str) -> dict[str, str]:
    """Arguments after a config file's colon: "cond=mask,size=debug" over the defaults.

    Raises:
      ValueError: an argument that the file does not take, or a method, cond or size that does
        not exist.
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
    for name, choices in (("method", METHODS), ("cond", CONDITIONS), ("size", SIZES)):
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
    config = default()
    _assign(config, values, "")
    return config


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
