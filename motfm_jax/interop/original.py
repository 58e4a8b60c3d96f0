"""The YAML config of the PyTorch original, field by field: to a config of ours and back.

Source: github.com/milad1378yz/MOTFM, `configs/*.yaml`, and what its `build_model` and trainer do
where a field is missing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from motfm_jax import presets
from motfm_jax.data.records import Facts
from motfm_jax.interop.foreign_config import MOST, Fields, is_number
from motfm_jax.settings import check, default

# Fields that say how the original runs, not what it computes.
WITHOUT_EFFECT = {
    "model_args": ("use_flash_attention", "upcast_attention", "dropout_cattn"),
    "train_args": (
        "print_every",
        "val_freq",
        "device",
        "num_val_samples",
        "checkpoint_dir",
        "accelerator",
        "devices",
        "strategy",
        "num_workers",
        "pin_memory",
        "persistent_workers",
        "drop_last",
        "deterministic",
        "num_sanity_val_steps",
        "log_every_n_steps",
        "matmul_precision",
        "cudnn_benchmark",
        "use_compile",
        "use_ema",
        "ddp_find_unused_parameters",
        "run_name",
    ),
    "data_args": ("loader",),
    "solver_args": ("time_points",),
}
# Ours, beside theirs in what `to_yaml` writes: the original passes over a section it does not know.
OWN = "motfm_jax"
SECTIONS = (
    "model_args",
    "general_args",
    "data_args",
    "train_args",
    "solver_args",
    "infer_args",
    OWN,
)
SOLVERS = {
    "euler": "euler",
    "midpoint": "midpoint",
    "rk4": "rk4",
    "heun2": "heun",
    "dopri5": "dopri5",
}


class Translation(NamedTuple):
    """What a YAML config says.

    Attributes:
      config: ours; data.size is zeros, which the YAML does not say.
      channels: of the image.
      num_classes: 0 without class conditioning.
      mask_channels: 0 without mask conditioning, 1 for scaled labels, else one a label.
      solver: name and steps of its sampler, for `sample.py`.
      notes: lines on what has no counterpart here.
    """

    config: ConfigDict
    channels: int
    num_classes: int
    mask_channels: int
    solver: tuple[str, int]
    notes: list[str]


def translate(values: Mapping[str, Any], where: str) -> Translation:
    """Our config for the original's.

    Args:
      values: the YAML's sections.
      where: the file, for messages.

    Raises:
      ValueError: naming a field that is unknown, or whose value has no counterpart here.
    """
    fields, notes = Fields(values, SECTIONS, where), []
    dims = fields.only("model_args.spatial_dims", (2, 3), "2 or 3 needed")
    config = default()
    presets.apply_original(config, dims)
    channels, num_classes, mask_channels = _model(fields, config)
    _data(fields, config, notes)
    _training(fields, config, notes)
    method = fields.only(
        "solver_args.method", ("midpoint", *SOLVERS), f"one of {', '.join(SOLVERS)} needed"
    )
    step_size = fields.number("solver_args.step_size", 0.1, least=1e-4)
    for section, names in WITHOUT_EFFECT.items():
        fields.ignore(section, names)
    fields.ignore("infer_args", [name.partition(".")[2] for name in fields.left])
    fields.refuse_rest()
    probe = config.copy_and_resolve_references()  # the size, which the YAML lacks, is not its fault
    probe.data.size = (2 ** (len(config.model.channels) - 1),) * dims
    probe.data.root = config.data.root or "data"
    try:
        check(probe)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    config.data.size = (0,) * dims
    steps = max(1, round(1 / step_size))
    return Translation(
        config, channels, num_classes, mask_channels, (SOLVERS[method], steps), notes
    )


def _model(fields: Fields, config: ConfigDict) -> tuple[int, int, int]:
    """Fills in config.model and cond; returns image channels, classes and mask channels."""
    model = config.model
    name = "model_args.num_channels"
    model.channels = tuple(
        fields.take(
            name,
            None,
            lambda value: (
                isinstance(value, list | tuple)
                and len(value) > 0
                and all(type(width) is int and 0 < width <= MOST for width in value)
            ),
            "the channels of each level needed",
        )
    )
    levels = len(model.channels)
    blocks = fields.each_level("model_args.num_res_blocks", levels, 2, int)
    if len(set(blocks)) > 1:
        raise ValueError(
            f"{fields.where}: model_args.num_res_blocks={blocks}: the same number on every level "
            "needed"
        )
    model.res_blocks = blocks[0]
    model.attention = tuple(fields.each_level("model_args.attention_levels", levels, None, bool))
    model.norm_groups = fields.whole("model_args.norm_num_groups", 32)
    model.transformer_layers = fields.whole("model_args.transformer_num_layers", 1)
    model.head_dim = _head_dim(fields, model)
    channels = fields.whole("model_args.in_channels")
    fields.only("model_args.out_channels", (channels,), "as many as in_channels needed")
    for field, allowed, why in (
        ("resblock_updown", (None, True), "true needed: levels are joined by residual blocks"),
        ("norm_eps", (1e-6,), "1e-6 needed"),
        ("max_timestep", (1000,), "1000 needed"),
        ("num_class_embeds", (None,), "nothing needed: classes come by cross-attention"),
    ):
        value = fields.only(f"model_args.{field}", allowed, why)
        if field == "resblock_updown" and value is None:
            raise ValueError(f"{fields.where}: model_args.resblock_updown is missing: {why}")

    older = {"mask": "mask_conditioning", "class": "class_conditioning"}
    given = {kind: fields.left.pop(f"general_args.{name}", None) for kind, name in older.items()}
    with_class = fields.switch("model_args.with_conditioning", bool(given["class"]))
    with_mask = fields.switch("model_args.mask_conditioning", bool(given["mask"]))
    for kind, said in (("mask", with_mask), ("class", with_class)):
        if given[kind] not in (None, said):
            raise ValueError(
                f"{fields.where}: general_args.{older[kind]}={given[kind]!r} contradicts "
                f"model_args, where it is {said}"
            )
    config.cond = "+".join(["mask"] * with_mask + ["class"] * with_class) or "none"
    width = fields.take(
        "model_args.conditioning_embedding_num_channels",
        [16],
        lambda value: (
            value is None
            or (
                isinstance(value, list | tuple)
                and len(value) == 1
                and type(value[0]) is int
                and 0 < value[0] <= MOST
            )
        ),
        "a list of one width needed: longer ones would shrink the mask",
    )
    model.mask_embedding = (width or [16])[0]
    model.time = fields.only(f"{OWN}.time", ("floor", "continuous"), "floor or continuous needed")
    mask_channels = fields.whole(f"{OWN}.mask_channels", 1)
    config.data.mask_encoding = "onehot" if mask_channels > 1 else "scalar"
    if with_class:
        num_classes = fields.whole("model_args.cross_attention_dim")
    else:
        num_classes = 0
        fields.left.pop("model_args.cross_attention_dim", None)
    return channels, num_classes, mask_channels if with_mask else 0


def _head_dim(fields: Fields, model: ConfigDict) -> int:
    """0 where every attending level has a single head."""
    dims = fields.each_level("model_args.num_head_channels", len(model.channels), 8, int)
    attends = (*model.attention[:-1], True)  # the middle always does
    used = [(dim, width) for dim, width, on in zip(dims, model.channels, attends) if on]
    if all(dim == width for dim, width in used):
        return 0
    if len({dim for dim, _ in used}) == 1:
        return used[0][0]
    raise ValueError(
        f"{fields.where}: model_args.num_head_channels={dims}: on the levels that attend, and the "
        "last, either their num_channels (one head) or one number for all needed"
    )


def _data(fields: Fields, config: ConfigDict, notes: list[str]) -> None:
    data = config.data
    data.root = fields.take(
        "data_args.pickle_path", "", lambda value: isinstance(value, str), "a path needed"
    )
    for name, split in (("split_train", "train"), ("split_val", "valid")):
        fields.only(f"data_args.{name}", (split,), f"{split!r} needed: rename it in the .pkl")
    norms = {name: fields.left.pop(f"data_args.{name}", {}) for name in ("image_norm", "mask_norm")}
    for name, norm in norms.items():
        if not isinstance(norm, Mapping) or set(norm) - {"mode", "scope", "range"}:
            raise ValueError(
                f"{fields.where}: data_args.{name}={norm!r}: mode, scope and range needed"
            )
        fields.left.update({f"data_args.{name}.{key}": value for key, value in norm.items()})
    mode = fields.only(
        "data_args.image_norm.mode", ("minmax", "auto", "none"), "auto, minmax or none needed"
    )
    data.intensity.mode = "none" if mode == "none" else "minmax"
    if mode == "auto":
        notes.append(
            "data_args.image_norm.mode=auto: images are always scaled here, also those that lie "
            "in the range already"
        )
    scope = fields.only(
        "data_args.image_norm.scope",
        (data.intensity.scope, "sample", "dataset", "split", "global"),
        "sample, dataset, split or global needed",
    )
    data.intensity.scope = "sample" if scope == "sample" else "dataset"
    data.intensity.range = tuple(
        map(
            float,
            fields.take(
                "data_args.image_norm.range",
                data.intensity.range,
                lambda value: (
                    isinstance(value, list | tuple)
                    and len(value) == 2
                    and all(map(is_number, value))
                ),
                "two numbers needed",
            ),
        )
    )
    fields.only(
        "data_args.mask_norm.mode",
        ("minmax", "auto"),
        "minmax or auto needed: other masks have no counterpart here",
    )
    fields.left.pop("data_args.mask_norm.scope", None)
    fields.only("data_args.mask_norm.range", ([0, 1], (0, 1)), "[0, 1] needed")


def _training(fields: Fields, config: ConfigDict, notes: list[str]) -> None:
    train = config.train
    train.epochs = fields.whole("train_args.num_epochs", train.epochs)
    train.lr = float(fields.number("train_args.lr", train.lr))
    accumulation = fields.left.get("train_args.gradient_accumulation_steps")
    train.accumulation = fields.whole("train_args.gradient_accumulation_steps", 8)
    train.batch_size = fields.whole("train_args.batch_size", 1) * train.accumulation
    if accumulation is None:
        notes.append(
            "train_args.gradient_accumulation_steps is not set: the original then accumulates 8 "
            f"batches, and so does this config (train.batch_size={train.batch_size})"
        )
    train.clip = float(fields.number("train_args.grad_clip_norm"))
    config.seed = fields.whole("train_args.seed", 0, least=0)
    precision = fields.only(
        "train_args.precision",
        (None, "bf16-mixed", "16-mixed", "32-true", "32", 32),
        "bf16-mixed, 16-mixed or 32-true needed",
    )
    train.dtype = "float32" if str(precision).startswith("32") else "auto"
    if precision == "16-mixed":
        notes.append("train_args.precision=16-mixed: bfloat16 is used here")


def to_yaml(config: ConfigDict, facts: Facts) -> tuple[dict[str, Any], list[str]]:
    """The original's config for one of ours, and lines on where it would behave otherwise."""
    model, data, train, levels = config.model, config.data, config.train, len(config.model.channels)
    with_class, with_mask = "class" in config.cond, "mask" in config.cond
    mask_channels = len(facts.mask_labels) if data.mask_encoding == "onehot" else 1
    values = {
        "model_args": {
            "spatial_dims": len(facts.size),
            "in_channels": facts.channels,
            "out_channels": facts.channels,
            "num_res_blocks": [model.res_blocks] * levels,
            "num_channels": list(model.channels),
            "attention_levels": list(model.attention),
            "norm_num_groups": model.norm_groups,
            "resblock_updown": True,
            "num_head_channels": [model.head_dim or width for width in model.channels],
            "transformer_num_layers": model.transformer_layers,
            "use_flash_attention": False,
            "with_conditioning": with_class,
            "cross_attention_dim": len(facts.classes) if with_class else None,
            "mask_conditioning": with_mask,
            "conditioning_embedding_num_channels": [model.mask_embedding],
        },
        "data_args": {
            "pickle_path": data.root,
            "split_train": "train",
            "split_val": "valid",
            "image_norm": {
                "mode": "none" if data.intensity.mode == "none" else "minmax",
                "scope": data.intensity.scope,
                "range": list(data.intensity.range),
            },
        },
        "train_args": {
            "num_epochs": train.epochs or 1,
            "batch_size": train.batch_size // train.accumulation,
            "gradient_accumulation_steps": train.accumulation,
            "lr": train.lr,
            "grad_clip_norm": train.clip,
            "seed": config.seed,
            "checkpoint_dir": "checkpoints",
        },
        "solver_args": {"method": "euler", "step_size": 0.1, "time_points": 10},
        OWN: {"time": model.time, **({"mask_channels": mask_channels} if with_mask else {})},
    }
    notes = []
    if model.time == "continuous":
        notes.append(
            "the network was trained on continuous time; the original rounds t down to a multiple "
            "of 1/999, so that its images differ a little"
        )
    if with_mask and mask_channels > 1:
        notes.append(
            f"masks are one-hot here: MONAI's ControlNet needs "
            f"conditioning_embedding_in_channels={mask_channels}, which the original's own "
            "build_model does not pass"
        )
    if data.intensity.mode in ("percentile", "zscore"):
        notes.append(
            f"images were scaled by {data.intensity.mode}, which the original does not know; its "
            "config says minmax"
        )
    return values, notes
