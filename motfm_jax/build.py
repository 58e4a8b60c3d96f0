"""Config to networks, loss and optimiser. No arithmetic here."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from motfm_jax.core import Array, Batch, Condition, Network, Params, drop_condition, encode_mask
from motfm_jax.data.augment import count_numbers
from motfm_jax.data.facts import Facts
from motfm_jax.data.joint import join
from motfm_jax.features import weights as published
from motfm_jax.methods import METHODS, flow
from motfm_jax.methods.method import TEACHER
from motfm_jax.nn.control import velocity_network
from motfm_jax.nn.dispatch import Capabilities, resolve
from motfm_jax.nn.front import Front, with_front
from motfm_jax.nn.spade import SpadeSettings, spade_networks
from motfm_jax.nn.spectral import refresh
from motfm_jax.nn.unet import UNetSettings
from motfm_jax.training.optim import (
    Schedule,
    make_optimizer,
    make_schedule,
)
from motfm_jax.training.step import LossFn

DROPPED = 2**31  # folded into an example's key


class Blueprint(NamedTuple):
    """What a network is built from: the argument of a method's own network builder.

    Attributes:
      unet: sizes, types and devices, see `UNetSettings`.
      mask_channels: of masks as the network takes them; 0 without.
      config: resolved; facts: of the data.
    """

    unet: UNetSettings
    mask_channels: int
    config: ConfigDict
    facts: Facts


class Parts(NamedTuple):
    """What a network builder returns.

    Attributes:
      trained: what the method's loss takes.
      sampled: what its `sample` takes.
      init: key -> float32 parameters by name.
      refresh: parameters after an update -> what they become, such as of norm one; None for no
        change.
      sites: for each level that attends, which implementation it uses and why.
    """

    trained: Any
    sampled: Network
    init: Callable[[Array], Params]
    refresh: Callable[[Params], Params] | None = None
    sites: tuple[str, ...] = ()


class Architecture(NamedTuple):
    """Networks with everything a config decides about them.

    Attributes:
      parts: the networks.
      condition: (mask [B, *S] uint8 or None, label [B] int32 or None) -> Condition; what the
        network is not conditioned on is ignored. A mask of floats [B, *S, C] is not encoded.
      dtype: what they compute in.
      label_channels: of the label maps that they make with the images, see `Facts`.
    """

    parts: Parts
    condition: Callable[[Array | None, Array | None], Condition]
    dtype: Any
    label_channels: int = 0

    @property
    def network(self) -> Network:
        return self.parts.sampled

    @property
    def init(self) -> Callable[[Array], Params]:
        return self.parts.init

    @property
    def sites(self) -> tuple[str, ...]:
        return self.parts.sites


def capabilities() -> Capabilities:
    """Of the device this process computes on."""
    device = jax.devices()[0]
    return Capabilities(device.platform, float(getattr(device, "compute_capability", 0) or 0))


def architecture(
    config: ConfigDict,
    facts: Facts,
    device: Capabilities | None = None,
    attention: str = "",
) -> Architecture:
    """The networks of a config.

    Args:
      config: resolved and checked.
      facts: of the data.
      device: what to build for; None for the device at hand.
      attention: overrides config.model.attention_implementation.

    Raises:
      ValueError: the data lacks what `cond` needs, or cuDNN attention was asked for and cannot run.
    """
    settings = _settings(config, facts, device or capabilities(), attention)
    onehot = config.data.mask_encoding == "onehot"
    if "class" in config.cond and not facts.classes:
        raise ValueError(f"config.cond={config.cond!r}: the data names no classes")
    if "mask" in config.cond and onehot and not facts.mask_labels:
        raise ValueError(f"config.cond={config.cond!r}: the data names no mask labels")
    if config.data.generate == "image+mask" and not facts.label_channels:
        raise ValueError("config.data.generate='image+mask': the data names no mask labels")
    mask_channels = 0
    if "mask" in config.cond:
        mask_channels = len(facts.mask_labels) if onehot else 1
    builder = METHODS[config.method].network
    builder = NETWORKS[builder] if isinstance(builder, str) else builder
    parts = builder(Blueprint(settings, mask_channels, config, facts))

    def condition(mask: Array | None, label: Array | None) -> Condition:
        for needed, array in (("mask", mask), ("class", label)):
            if needed in config.cond and array is None:
                raise ValueError(f"the network is conditioned on {config.cond}: give a {needed}")
        if "mask" in config.cond and not jnp.issubdtype(mask.dtype, jnp.floating):
            encoding, values = config.data.mask_encoding, facts.label_values
            mask = encode_mask(mask, len(facts.mask_labels), encoding, values)
        return Condition(
            mask=mask if "mask" in config.cond else None,
            label=jax.nn.one_hot(label, len(facts.classes)) if "class" in config.cond else None,
        )

    return Architecture(parts, condition, settings.dtype, facts.label_channels)


def _velocity(blueprint: Blueprint) -> Parts:
    settings, facts, model = blueprint.unet, blueprint.facts, blueprint.config.model
    front = Front(model.front, model.front_levels)
    bands = front.bands(settings.dims)
    settings = dataclasses.replace(settings, image_channels=bands * settings.image_channels)
    network, init = velocity_network(
        settings, bands * blueprint.mask_channels, model.mask_embedding
    )
    network = with_front(network, front)
    if blueprint.config.flow.prediction == "image":
        network = flow.velocity_of_image(network)
    return Parts(network, network, init, sites=_sites(settings, facts, front.halvings))


def _adversaries(blueprint: Blueprint) -> Parts:
    settings, spade = blueprint.unet, blueprint.config.spade
    networks, init = spade_networks(
        SpadeSettings(
            settings.dims,
            settings.image_channels,
            blueprint.mask_channels,
            settings.num_classes,
            settings.channels,
            settings.blocks,
            spade.hidden,
            spade.width,
            spade.discriminators,
            settings.dtype,
            settings.platform,
        )
    )
    return Parts(networks, networks.generator, init, refresh)


NETWORKS: dict[str, Callable[[Blueprint], Parts]] = {
    "velocity": _velocity,
    "adversaries": _adversaries,
}


def _settings(
    config: ConfigDict, facts: Facts, device: Capabilities, attention: str
) -> UNetSettings:
    model = config.model
    automatic = jnp.bfloat16 if device.platform == "gpu" else jnp.float32
    dtype = automatic if config.train.dtype == "auto" else jnp.dtype(config.train.dtype).type
    request = attention or model.attention_implementation
    return UNetSettings(
        dims=len(facts.size),
        image_channels=facts.network_channels,
        channels=tuple(model.channels),
        res_blocks=model.res_blocks,
        attention=tuple(model.attention),
        head_dim=model.head_dim,
        num_classes=len(facts.classes) if "class" in config.cond else 0,
        transformer_layers=model.transformer_layers,
        norm_groups=model.norm_groups,
        floor_time=model.time == "floor",
        dropout=model.dropout,
        dtype=dtype,
        remat="none" if model.remat == "auto" else model.remat,
        choose_attention=lambda head_dim: resolve(request, device, head_dim, dtype),
        platform=device.platform,
        told=count_numbers(len(facts.size)) if config.data.augment.told else 0,
    )


def _sites(settings: UNetSettings, facts: Facts, halvings: int) -> tuple[str, ...]:
    last = len(settings.channels) - 1
    lines = []
    for level, features in enumerate(settings.channels):
        if not settings.attention[level] and level != last:
            continue
        heads = settings.heads(level)
        choice = settings.choose_attention(features // heads)
        tokens = int(np.prod([extent // 2 ** (level + halvings) for extent in facts.size])) or "?"
        where = " and the middle" if level == last else ""
        where = f"level {level}{where}" if settings.attention[level] else "the middle"
        lines.append(
            f"attention at {where}: {tokens} tokens, {heads} heads of {features // heads}: "
            f"{choice.implementation} ({choice.reason})"
        )
    return tuple(lines)


def frozen(config: ConfigDict) -> str:
    """The prefix of the names of frozen parameters; "" if none are frozen."""
    if METHODS[config.method].distils:
        return TEACHER
    return "unet/" if config.train.base else ""


def _perceiver(config: ConfigDict) -> Callable[[Array], list[Array]] | None:
    """What the perceptual loss of method spade sees in images in [-1, 1]; None without one."""
    if config.method != "spade" or not config.spade.perceptual_weight:
        return None
    try:
        params, _ = published.read(published.default_folder(), "vgg")
    except ValueError as error:
        raise ValueError(
            f"config.spade.perceptual_weight={config.spade.perceptual_weight}: {error}; or leave "
            "it 0"
        ) from error
    look = published.network("vgg")
    return lambda images: list(look(params, (images + 1) / 2).values())


def loss(config: ConfigDict, built: Architecture) -> LossFn:
    """Loss of each example of a batch, as training and validation use it.

    Raises:
      ValueError: a perceptual loss without its published weights.
    """
    method, trained, fixed = METHODS[config.method], built.parts.trained, frozen(config)
    settings, perceive = config[method.section], _perceiver(config)
    dropped = config.train.drop_condition
    if perceive is not None:
        trained = trained._replace(perceive=perceive)

    def per_example(params: Params, batch: Batch, keys: Array, dropout_key: Array | None) -> Array:
        if fixed:
            params = {
                name: jax.lax.stop_gradient(leaf) if name.startswith(fixed) else leaf
                for name, leaf in params.items()
            }
        condition = built.condition(batch.mask, batch.label)
        condition = (
            condition if batch.augment is None else condition._replace(augment=batch.augment)
        )
        if dropped and dropout_key is not None:  # in training alone
            condition = drop_condition(condition, draw_dropped(keys, dropped))
        if built.label_channels:
            batch = batch._replace(image=join(batch.image, batch.mask, built.label_channels))
        return method.loss(settings, trained, params, batch, condition, keys, dropout_key)

    return per_example


def draw_dropped(keys: Array, probability: float) -> Array:
    """Which examples are seen without their condition: keys [B] -> bool [B].

    The draw is from a key of its own, far from those that a loss makes of the example's.
    """
    own = jax.vmap(lambda key: jax.random.fold_in(key, DROPPED))(keys)
    return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(own)


def update(config: ConfigDict, num_steps: int) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimiser of a config that makes `num_steps` updates in all, and its learning rate."""
    train, method = config.train, METHODS[config.method]
    learning_rate = make_schedule(train.lr, train.warmup, train.schedule, num_steps)
    if method.optimizer:
        return method.optimizer(config[method.section], learning_rate, train.clip), learning_rate
    optimizer = make_optimizer(
        train.optimizer, learning_rate, train.clip, train.weight_decay, frozen(config)
    )
    return optimizer, learning_rate
