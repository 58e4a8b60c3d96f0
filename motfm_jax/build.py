"""Config to network, loss and optimiser. No arithmetic here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from motfm_jax import datasets
from motfm_jax.core import Adversaries, Array, Batch, Condition, Network, Params, encode_mask
from motfm_jax.data.records import Facts
from motfm_jax.features import weights as published
from motfm_jax.methods import adversarial, diffusion, flow
from motfm_jax.methods.solve import Solver
from motfm_jax.nn.control import velocity_network
from motfm_jax.nn.dispatch import Capabilities, on_cpu, resolve
from motfm_jax.nn.spade import SpadeSettings, spade_networks
from motfm_jax.nn.spectral import refresh
from motfm_jax.nn.unet import UNetSettings
from motfm_jax.sampling.generate import make_solver
from motfm_jax.training.optim import (
    Schedule,
    make_adversarial_optimizer,
    make_optimizer,
    make_schedule,
)
from motfm_jax.training.step import LossFn


class Model(NamedTuple):
    """A network with everything a config decides about it.

    Attributes:
      network: the velocity field, the estimate of the noise or the generator.
      init: key -> float32 parameters by name.
      condition: (mask [B, *S] uint8 or None, label [B] int32 or None) -> Condition; what the
        network is not conditioned on is ignored. A mask of floats [B, *S, C] is taken as it is.
      dtype: what it computes in.
      sites: for each level that attends, which implementation it uses and why.
      adversaries: the generator with its discriminators, of the method spade.
    """

    network: Network
    init: Callable[[Array], Params]
    condition: Callable[[Array | None, Array | None], Condition]
    dtype: Any
    sites: tuple[str, ...]
    adversaries: Adversaries | None = None


def capabilities() -> Capabilities:
    """Of the device this process computes on."""
    device = jax.devices()[0]
    return Capabilities(device.platform, float(getattr(device, "compute_capability", 0) or 0))


def model(
    config: ConfigDict,
    facts: Facts,
    device: Capabilities | None = None,
    attention: str = "",
) -> Model:
    """The network of a config.

    Args:
      config: resolved and checked.
      facts: of the data.
      device: what to build for; None for the device at hand.
      attention: overrides config.model.attention_implementation.

    Raises:
      ValueError: the data lacks what `cond` needs, or cuDNN attention was asked for and cannot run.
    """
    device = device or capabilities()
    settings = _settings(config, facts, device, attention)
    onehot = config.data.mask_encoding == "onehot"
    if "class" in config.cond and not facts.classes:
        raise ValueError(f"config.cond={config.cond!r}: the data names no classes")
    if "mask" in config.cond and onehot and not facts.mask_labels:
        raise ValueError(f"config.cond={config.cond!r}: the data names no mask labels")
    mask_channels = 0
    if "mask" in config.cond:
        mask_channels = len(facts.mask_labels) if onehot else 1
    sites, adversaries = _sites(settings, facts), None
    if config.method == "spade":
        sites, wanted = (), config.spade
        adversaries, init = spade_networks(
            SpadeSettings(
                settings.dims,
                settings.image_channels,
                mask_channels,
                settings.num_classes,
                settings.channels,
                settings.res_blocks,
                wanted.hidden,
                wanted.width,
                wanted.discriminators,
                settings.dtype,
                settings.on_cpu,
            )
        )
        network = adversaries.generator
    else:
        network, init = velocity_network(settings, mask_channels, config.model.mask_embedding)

    def condition(mask: Array | None, label: Array | None) -> Condition:
        for needed, given in (("mask", mask), ("class", label)):
            if needed in config.cond and given is None:
                raise ValueError(f"the network is conditioned on {config.cond}: give a {needed}")
        if "mask" in config.cond and not jnp.issubdtype(mask.dtype, jnp.floating):
            mask = encode_mask(mask, len(facts.mask_labels), config.data.mask_encoding)
        return Condition(
            mask=mask if "mask" in config.cond else None,
            label=jax.nn.one_hot(label, len(facts.classes)) if "class" in config.cond else None,
        )

    return Model(network, init, condition, settings.dtype, sites, adversaries)


def _settings(
    config: ConfigDict, facts: Facts, device: Capabilities, attention: str
) -> UNetSettings:
    wanted = config.model
    automatic = jnp.bfloat16 if device.platform == "gpu" else jnp.float32
    dtype = automatic if config.train.dtype == "auto" else jnp.dtype(config.train.dtype).type
    request = attention or wanted.attention_implementation
    return UNetSettings(
        dims=len(facts.size),
        image_channels=facts.channels,
        channels=tuple(wanted.channels),
        res_blocks=wanted.res_blocks,
        attention=tuple(wanted.attention),
        head_dim=wanted.head_dim,
        num_classes=len(facts.classes) if "class" in config.cond else 0,
        transformer_layers=wanted.transformer_layers,
        norm_groups=wanted.norm_groups,
        floor_time=wanted.time == "floor",
        dropout=wanted.dropout,
        dtype=dtype,
        remat=wanted.remat,
        choose_attention=lambda head_dim: resolve(request, device, head_dim, dtype),
        on_cpu=on_cpu(device),
    )


def _sites(settings: UNetSettings, facts: Facts) -> tuple[str, ...]:
    last = len(settings.channels) - 1
    lines = []
    for level, features in enumerate(settings.channels):
        if not settings.attention[level] and level != last:
            continue
        heads = settings.heads(features)
        choice = settings.choose_attention(features // heads)
        tokens = int(np.prod([extent // 2**level for extent in facts.size])) or "?"
        where = " and the middle" if level == last else ""
        where = f"level {level}{where}" if settings.attention[level] else "the middle"
        lines.append(
            f"attention at {where}: {tokens} tokens, {heads} heads of {features // heads}: "
            f"{choice.implementation} ({choice.reason})"
        )
    return tuple(lines)


def frozen(config: ConfigDict) -> str:
    """How the names of parameters begin that training leaves as they are; "" where none are."""
    return "unet/" if config.train.base else ""


def perceiver(config: ConfigDict) -> Callable[[Array], list[Array]] | None:
    """What a perceptual loss sees in images in [-1, 1]; None where the config has no such loss.

    Raises:
      ValueError: the published weights are not there.
    """
    if config.method != "spade" or not config.spade.perceptual_weight:
        return None
    try:
        params, _ = published.read(datasets.features_dir(), "vgg")
    except ValueError as error:
        raise ValueError(
            f"config.spade.perceptual_weight={config.spade.perceptual_weight}: {error}; or leave "
            "it 0"
        ) from error
    look = published.network("vgg")
    return lambda images: list(look(params, (images + 1) / 2).values())


def loss(config: ConfigDict, built: Model) -> LossFn:
    """Loss of each example of a batch, as training and validation use it.

    Raises:
      ValueError: see `perceiver`.
    """
    perceive = perceiver(config)

    def per_example(params: Params, batch: Batch, keys: Array, dropout_key: Array | None) -> Array:
        if frozen(config):
            params = {
                name: jax.lax.stop_gradient(leaf) if name.startswith(frozen(config)) else leaf
                for name, leaf in params.items()
            }
        condition = built.condition(batch.mask, batch.label)
        if config.method == "spade":
            return adversarial.loss(
                built.adversaries,
                params,
                batch,
                condition,
                keys,
                config.spade.feature_weight,
                perceive,
                config.spade.perceptual_weight,
            )
        if config.method == "ddpm":
            return diffusion.loss(
                built.network,
                params,
                batch,
                condition,
                keys,
                dropout_key,
                config.diffusion.schedule,
            )
        return flow.loss(
            built.network,
            params,
            batch,
            condition,
            keys,
            dropout_key,
            config.flow.time_distribution,
        )

    return per_example


class Update(NamedTuple):
    """How parameters change.

    Attributes:
      optimizer: of the config.
      learning_rate: by update, for the log.
      refresh: see `training.step.make_train_step`.
    """

    optimizer: optax.GradientTransformation
    learning_rate: Schedule
    refresh: Callable[[Params], Params] | None


def update(config: ConfigDict, num_steps: int) -> Update:
    """The optimiser of a config that makes `num_steps` updates in all."""
    train = config.train
    learning_rate = make_schedule(train.lr, train.warmup, train.schedule, num_steps)
    if config.method == "spade":
        optimizer = make_adversarial_optimizer(
            learning_rate, config.spade.discriminator_rate, train.clip
        )
        return Update(optimizer, learning_rate, refresh)
    optimizer = make_optimizer(
        train.optimizer, learning_rate, train.clip, train.weight_decay, frozen(config)
    )
    return Update(optimizer, learning_rate, None)


def solver(
    config: ConfigDict,
    name: str = "",
    steps: int | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    eta: float | None = None,
    spacing: str | None = None,
) -> Solver:
    """How to sample a run of this config; what is not said takes its default.

    Args:
      config: of the run.
      name: a flow's solver, or "ddim" for a diffusion; "" for Euler or DDIM.
      steps: 10 (flow) or 50 (DDIM) where None.
      rtol, atol: of the solver "adaptive".
      eta, spacing: of DDIM; the config's where None.

    Raises:
      ValueError: a setting that cannot be, or that the run's method does not take.
    """
    if config.method == "flow":
        if name == "ddim" or eta is not None or spacing is not None:
            said = "--solver=ddim" if name == "ddim" else "--eta, --spacing"
            raise ValueError(
                f"{said}: the run learned a flow (config.method='flow'), which euler, heun and the "
                "other solvers sample; leave it out"
            )
        return make_solver(name or "euler", steps, rtol, atol)
    if config.method == "spade":
        if name or any(said not in (None, 1) for said in (steps, rtol, atol, eta, spacing)):
            raise ValueError(
                "--solver, --steps, --rtol, --atol, --eta, --spacing: the run is a generator "
                "(config.method='spade'), which makes an image in one call; leave them out"
            )
        return adversarial.OneCall()
    if name not in ("", "ddim") or rtol is not None or atol is not None:
        raise ValueError(
            f"--solver={name or 'ddim'}{' with --rtol, --atol' * (name in ('', 'ddim'))}: the run "
            "is a diffusion (config.method='ddpm'), which ddim samples at any number of --steps; "
            "leave it out"
        )
    wanted = config.diffusion
    ddim = diffusion.DDIM(
        steps=diffusion.DDIM().steps if steps is None else steps,
        eta=wanted.eta if eta is None else eta,
        schedule=wanted.schedule,
        spacing=wanted.spacing if spacing is None else spacing,
    )
    diffusion.check_ddim(ddim)
    return ddim
