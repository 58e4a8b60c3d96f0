"""The YAML config of the PyTorch original, to a config of ours and back.

`FIELDS` pairs the fields that have one counterpart here. `translate` and `to_yaml` handle the few
that depend on each other: levels, heads, conditions, batch size.

Source: github.com/milad1378yz/MOTFM, `configs/*.yaml`, and the defaults of its `build_model` and
trainer.
"""

import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ml_collections import ConfigDict

from motfm_jax import presets
from motfm_jax.data.facts import Facts
from motfm_jax.fields import by_level
from motfm_jax.settings import check, default, field


class Kind(NamedTuple):
    """The values that a field takes, as a test and in words."""

    fits: Callable[[Any], bool]
    needed: str


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(fits, value))


def _is_number(value: Any, least: float = 0) -> bool:
    return type(value) in (int, float) and least <= value < 1e300


WHOLE = Kind(lambda value: type(value) is int and value >= 1, "a whole number from 1")
SEED = Kind(lambda value: type(value) is int and value >= 0, "a whole number from 0")
NUMBER = Kind(_is_number, "a number from 0 (YAML reads 1e-4 as text: write 1.0e-4)")
STEP_SIZE = Kind(partial(_is_number, least=1e-4), "a number from 0.0001")
SWITCH = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(lambda value: isinstance(value, str), "text")
WIDTHS = Kind(partial(_is_list, fits=WHOLE.fits), "the channels of each level")
COUNTS = Kind(partial(_is_list, fits=SEED.fits), "whole numbers from 0")
FLAGS = Kind(partial(_is_list, fits=SWITCH.fits), "true or false for each level")
WIDTH = Kind(
    lambda value: _is_list(value, WHOLE.fits) and len(value) == 1,
    "a list of one width (longer ones would shrink the mask)",
)
RANGE = Kind(
    lambda value: _is_list(value, partial(_is_number, least=-1e300)) and len(value) == 2,
    "two numbers",
)
MODES = {"minmax": "minmax", "auto": "minmax", "none": "none"}
SCOPES = {"dataset": "dataset", "split": "dataset", "global": "dataset", "sample": "sample"}
DTYPES = {None: "auto", "bf16-mixed": "auto", "16-mixed": "auto"}
DTYPES |= dict.fromkeys(("32-true", "32", 32), "float32")
SOLVERS = {name: name for name in ("midpoint", "euler", "rk4", "dopri5")} | {"heun2": "heun"}

# Our own section of a written YAML. The original ignores sections that it does not know.
OWN = "motfm_jax"
OURS = object()  # a missing field keeps the value that presets.apply_original sets
# Theirs: (ours, the values it takes, its value if the file lacks it). A dict pairs their values
# with ours. "" marks fields without a counterpart, which only work with these values.
FIELDS = {
    "model_args.num_channels": ("model.channels", WIDTHS, None),
    "model_args.attention_levels": ("model.attention", FLAGS, None),
    "model_args.norm_num_groups": ("model.norm_groups", WHOLE, 32),
    "model_args.transformer_num_layers": ("model.transformer_layers", WHOLE, 1),
    "model_args.resblock_updown": ("", {True: True}, None),
    "model_args.norm_eps": ("", {1e-6: 1e-6}, 1e-6),
    "model_args.max_timestep": ("", {1000: 1000}, 1000),
    "model_args.num_class_embeds": ("", {None: None}, None),
    f"{OWN}.time": ("model.time", {"floor": "floor", "continuous": "continuous"}, "floor"),
    "data_args.pickle_path": ("data.root", TEXT, ""),
    "data_args.split_train": ("", {"train": "train"}, "train"),
    "data_args.split_val": ("", {"valid": "valid"}, "valid"),
    "data_args.image_norm.mode": ("data.intensity.mode", MODES, "minmax"),
    "data_args.image_norm.scope": ("data.intensity.scope", SCOPES, OURS),
    "data_args.image_norm.range": ("data.intensity.range", RANGE, OURS),
    "data_args.mask_norm.mode": ("", {"minmax": "minmax", "auto": "minmax"}, "minmax"),
    "data_args.mask_norm.range": ("", {(0, 1): (0, 1)}, (0, 1)),
    "train_args.num_epochs": ("train.epochs", WHOLE, OURS),
    "train_args.gradient_accumulation_steps": ("train.accumulation", WHOLE, 8),
    "train_args.lr": ("train.lr", NUMBER, OURS),
    "train_args.grad_clip_norm": ("train.clip", NUMBER, 0),
    "train_args.seed": ("seed", SEED, 0),
    "train_args.precision": ("train.dtype", DTYPES, None),
}
# Fields that change how the original runs, not what it computes, and sections of such.
WITHOUT_EFFECT = """
infer_args data_args.loader data_args.mask_norm.scope solver_args.time_points
model_args.use_flash_attention model_args.upcast_attention model_args.dropout_cattn
train_args.print_every train_args.val_freq train_args.device train_args.num_val_samples
train_args.checkpoint_dir train_args.accelerator train_args.devices train_args.strategy
train_args.num_workers train_args.pin_memory train_args.persistent_workers train_args.drop_last
train_args.deterministic train_args.num_sanity_val_steps train_args.log_every_n_steps
train_args.matmul_precision train_args.cudnn_benchmark train_args.use_compile train_args.use_ema
train_args.ddp_find_unused_parameters train_args.run_name
"""
# Values of theirs that behave otherwise here; None: the file lacks the field.
NOTES = {
    ("data_args.image_norm.mode", "auto"): "images are always scaled here, even if in range",
    ("train_args.gradient_accumulation_steps", None): "8 batches are accumulated, as there",
    ("train_args.precision", "16-mixed"): "bfloat16 is used here",
}


class Translation(NamedTuple):
    """A config of the original in our terms.

    Attributes:
      config: ours. The YAML does not hold data.size; this is the smallest that the network takes.
      channels: of the image.
      num_classes: 0 without class conditioning.
      mask_channels: 0 without mask conditioning, 1 for scaled labels, else one per label.
      solver: name and steps of the original's sampler.
      notes: one line for each setting that behaves differently here.
    """

    config: ConfigDict
    channels: int
    num_classes: int
    mask_channels: int
    solver: tuple[str, int]
    notes: list[str]


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a config file.

    Raises:
      ValueError: no such file, or not YAML with a `model_args`.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give the original's YAML config")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except Exception as error:  # a tag such as !!bool on another value raises any exception
        raise ValueError(f"{path}: is not YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_args"), dict):
        raise ValueError(
            f"{path}: has no model_args; give the config that the checkpoint was trained with"
        )
    return values


class _Theirs:
    """The fields of a YAML by dotted name. `take` removes one, so that unknown ones are left."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where, self.left = where, {}
        for section, fields in values.items():
            if not isinstance(fields, Mapping):
                raise self.error(section, fields, "fields")
            for name, value in fields.items():
                if name in ("image_norm", "mask_norm") and isinstance(value, Mapping):
                    norm = {f"{section}.{name}.{key}": entry for key, entry in value.items()}
                    self.left.update(norm)
                else:
                    self.left[f"{section}.{name}"] = value

    def take(self, name: str, kind: Kind | Mapping[Any, Any], missing: Any = None) -> Any:
        value = self.left.pop(name, None)
        value = missing if value is None else tuple(value) if isinstance(value, list) else value
        if isinstance(kind, Kind):
            if kind.fits(value):
                return value
            raise self.error(name, value, kind.needed)
        for theirs, ours in kind.items():
            if value == theirs:
                return ours
        raise self.error(name, value, " or ".join(map(str, kind)))

    def per_level(self, name: str, levels: int, missing: int) -> tuple[int, ...]:
        """Whole numbers, one for each level or one for all."""
        value = self.left.get(name, missing)
        if not isinstance(value, list | tuple):
            self.left[name] = [value] * levels
        values = self.take(name, COUNTS)
        if len(values) != levels:
            raise self.error(name, value, f"one number for each of the {levels} levels")
        return values

    def error(self, name: str, value: Any, needed: str) -> ValueError:
        return ValueError(f"{self.where}: {name}={reprlib.repr(value)}: needs {needed}")


def translate(values: Mapping[str, Any], where: str) -> Translation:
    """Our config for the original's.

    Args:
      values: the YAML's sections.
      where: the file, for messages.

    Raises:
      ValueError: names a field that is unknown, or whose value has no counterpart here.
    """
    theirs, config = _Theirs(values, where), default()
    notes = [
        f"{name}={value}: {note}"
        for (name, value), note in NOTES.items()
        if theirs.left.get(name) == value
    ]
    dims = theirs.take("model_args.spatial_dims", {2: 2, 3: 3}, 2)
    presets.apply_original(config, dims)
    for name, (ours, kind, missing) in FIELDS.items():
        value = theirs.take(name, kind, field(config, ours) if missing is OURS else missing)
        if ours:
            config.update_from_flattened_dict({ours: value})
    model, train = config.model, config.train
    train.batch_size = train.accumulation * theirs.take("train_args.batch_size", WHOLE, 1)
    _blocks_and_heads(theirs, model)
    channels = theirs.take("model_args.in_channels", WHOLE)
    theirs.take("model_args.out_channels", {channels: channels}, channels)
    name = "model_args.conditioning_embedding_num_channels"
    (model.mask_embedding,) = theirs.take(name, WIDTH, (16,))
    with_mask = _switched_on(theirs, "mask_conditioning", "mask_conditioning")
    with_class = _switched_on(theirs, "with_conditioning", "class_conditioning")
    config.cond = "+".join(["mask"] * with_mask + ["class"] * with_class) or "none"
    mask_channels = theirs.take(f"{OWN}.mask_channels", WHOLE, 1)
    config.data.mask_encoding = "onehot" if mask_channels > 1 else "scalar"
    any_number = Kind(lambda _: True, "")  # it means nothing without classes
    num_classes = theirs.take("model_args.cross_attention_dim", WHOLE if with_class else any_number)
    solver = theirs.take("solver_args.method", SOLVERS, "midpoint")
    steps = max(1, round(1 / theirs.take("solver_args.step_size", STEP_SIZE, 0.1)))
    _refuse_unknown(theirs)
    config.data.size = (2 ** (len(model.channels) - 1),) * dims
    _check(config, where)
    mask_channels = mask_channels if with_mask else 0
    num_classes = num_classes if with_class else 0
    return Translation(config, channels, num_classes, mask_channels, (solver, steps), notes)


def _blocks_and_heads(theirs: _Theirs, model: ConfigDict) -> None:
    levels = len(model.channels)
    blocks = theirs.per_level("model_args.num_res_blocks", levels, 2)
    model.res_blocks = blocks if len(set(blocks)) > 1 else blocks[0]
    name = "model_args.num_head_channels"
    dims = theirs.per_level(name, levels, 8)
    attends = (*model.attention[:-1], True)  # the middle always does
    used = [(dim, width) for dim, width, on in zip(dims, model.channels, attends) if on]
    if not all(dim for dim, _ in used):
        raise theirs.error(name, dims, "1 or more on the levels that attend and the last")
    if all(dim == width for dim, width in used):
        model.head_dim = 0  # a single head on each level
    elif len({dim for dim, _ in used}) == 1:
        model.head_dim = used[0][0]
    else:
        model.head_dim = dims


def _switched_on(theirs: _Theirs, name: str, older_name: str) -> bool:
    """A switch of model_args, which older configs have in general_args."""
    older = theirs.left.pop(f"general_args.{older_name}", None)
    value = theirs.take(f"model_args.{name}", SWITCH, bool(older))
    if older not in (None, value):
        raise theirs.error(f"general_args.{older_name}", older, f"{value}, as model_args.{name}")
    return value


def _refuse_unknown(theirs: _Theirs) -> None:
    ignored = set(WITHOUT_EFFECT.split())
    unknown = [name for name in theirs.left if not {name, name.partition(".")[0]} & ignored]
    if unknown:
        raise ValueError(
            f"{theirs.where}: {', '.join(unknown)}: unknown; remove what changes neither the "
            "network nor its data or training"
        )


def _check(config: ConfigDict, where: str) -> None:
    """Our own rules."""
    probe = config.copy_and_resolve_references()
    probe.data.root = config.data.root or "data"
    try:
        check(probe)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def to_yaml(config: ConfigDict, facts: Facts) -> tuple[dict[str, Any], list[str]]:
    """The original's config for one of ours, and a line for each setting that it does not know."""
    model, data, train = config.model, config.data, config.train
    levels = len(model.channels)
    with_class, with_mask = "class" in config.cond, "mask" in config.cond
    mask_channels = len(facts.mask_labels) if data.mask_encoding == "onehot" else 1
    fields = {name: field(config, ours) for name, (ours, *_) in FIELDS.items() if ours}
    del fields["train_args.precision"]  # a choice of the machine
    fields |= {
        "model_args.spatial_dims": len(facts.size),
        "model_args.in_channels": facts.channels,
        "model_args.out_channels": facts.channels,
        "model_args.num_res_blocks": by_level(model.res_blocks, levels),
        "model_args.num_head_channels": [
            head_dim or width
            for head_dim, width in zip(by_level(model.head_dim, levels), model.channels)
        ],
        "model_args.resblock_updown": True,
        "model_args.use_flash_attention": False,
        "model_args.with_conditioning": with_class,
        "model_args.cross_attention_dim": len(facts.classes) if with_class else None,
        "model_args.mask_conditioning": with_mask,
        "model_args.conditioning_embedding_num_channels": [model.mask_embedding],
        "data_args.split_train": "train",
        "data_args.split_val": "valid",
        "data_args.image_norm.mode": "none" if data.intensity.mode == "none" else "minmax",
        "train_args.num_epochs": train.epochs or 1,
        "train_args.batch_size": train.batch_size // train.accumulation,
        "train_args.checkpoint_dir": "checkpoints",
        "solver_args.method": "euler",
        "solver_args.step_size": 0.1,
        "solver_args.time_points": 10,
    }
    if with_mask:
        fields[f"{OWN}.mask_channels"] = mask_channels
    values: dict[str, Any] = {}
    for name, value in fields.items():
        *sections, last = name.split(".")
        holder = values
        for section in sections:
            holder = holder.setdefault(section, {})
        holder[last] = list(value) if isinstance(value, tuple) else value
    notes = []
    if model.time == "continuous":
        notes.append(
            "the network was trained on continuous time; the original rounds t down to a multiple "
            "of 1/999, so its images differ slightly"
        )
    if with_mask and mask_channels > 1:
        notes.append(
            "masks are one-hot here: MONAI's ControlNet needs conditioning_embedding_in_channels="
            f"{mask_channels}, which the original's build_model does not pass"
        )
    scaling = "a window" if data.intensity.window else data.intensity.mode
    if scaling not in ("none", "minmax"):
        notes.append(f"images were scaled by {scaling}; the original's config has minmax instead")
    if facts.channels > 1 and isinstance(facts.intensity["low"], list | tuple):
        notes.append("each channel was scaled by itself; the original scales all alike")
    return values, notes
