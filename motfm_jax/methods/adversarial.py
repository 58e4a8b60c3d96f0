"""Adversarial training of a generator that makes an image in one call.

Source: Park et al. 2019 (SPADE): hinge losses (Lim and Ye 2017), feature matching and, optionally,
a perceptual loss (Wang et al. 2018). Both networks learn from the same state, in one update.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from motfm_jax.core import (
    Adversaries,
    Array,
    Batch,
    Condition,
    Network,
    Params,
    normal_per_example,
)
from motfm_jax.fields import number, positive
from motfm_jax.methods.method import Method, Solution, check_signed_range

# Of the layers relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of VGG19.
PERCEPTUAL_LAYERS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


class OneCall(NamedTuple):
    """How a generator is sampled: there is nothing to choose."""

    steps: int = 1

    name = "generator"  # beside those of `ode.Solver`
    num_steps = num_calls = 1
    draws_noise = False

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "steps": 1}


class Weights(NamedTuple):
    """Of the parts of the generator's loss, beside the adversarial one.

    Attributes:
      feature: of feature matching, the mean absolute difference of what the discriminators' layers
        make of the generated and of the real image.
      perceptual: of the perceptual loss, the weighted sum of the same difference in the
        PERCEPTUAL_LAYERS of `Adversaries.perceive`.
    """

    feature: float = 10.0
    perceptual: float = 0.0


DEFAULT_WEIGHTS = Weights()


def loss(
    networks: Adversaries,
    params: Params,
    batch: Batch,
    condition: Condition,
    keys: Array,
    weights: Weights = DEFAULT_WEIGHTS,
) -> Array:
    """The generator's loss plus the discriminators', per example.

    One sum serves both networks, since neither term has a gradient in the other's parameters: the
    generator's term stops gradients at the discriminators, theirs at the images.
    The value says little about the images.

    Args:
      networks, params: see `Adversaries`.
      batch: images in [-1, 1].
      condition: with a mask.
      keys: [B], one per example; noise is drawn from it alone.
      weights: of the parts of the generator's loss.

    Returns:
      [B] float32.
    """
    stop = jax.lax.stop_gradient
    generator, discriminate, perceive = networks
    x0 = normal_per_example(keys, batch.image.shape[1:])
    mask = generator.encode(params, condition)
    fake = generator.apply(params, x0, jnp.zeros(x0.shape[:1]), mask, None)
    of_generated = discriminate(stop(params), fake, mask)
    of_fake = discriminate(params, stop(fake), mask)
    of_real = discriminate(params, batch.image, mask)

    total: Any = 0.0
    for judged, fake_layers, real_layers in zip(of_generated, of_fake, of_real, strict=True):
        adversarial = -_mean(judged[-1])
        matching = sum(
            _mean(jnp.abs(one.astype(jnp.float32) - stop(other).astype(jnp.float32)))
            for one, other in zip(judged[:-1], real_layers[:-1], strict=True)
        )
        hinge = _mean(_relu(1 - real_layers[-1])) + _mean(_relu(1 + fake_layers[-1]))
        total = total + adversarial + weights.feature * matching + hinge
    total = total / len(of_real)
    if weights.perceptual and perceive is not None:
        pairs = zip(PERCEPTUAL_LAYERS, perceive(fake), perceive(batch.image), strict=True)
        total = total + weights.perceptual * sum(
            weight * _mean(jnp.abs(one - stop(other))) for weight, one, other in pairs
        )
    return total


def _relu(x: Array) -> Array:
    return jnp.maximum(x, 0)


def _mean(x: Array) -> Array:
    return x.mean(axis=tuple(range(1, x.ndim)))


def sample(
    generator: Network,
    params: Params,
    x0: Array,
    condition: Condition,
    solver: Any = None,
    keys: Array | None = None,
    trajectory: bool = False,
) -> Solution:
    """Images from noise in one call.

    Args:
      generator, params: see `Adversaries`.
      x0: standard normal noise [B, *S, C] float32.
      condition: of the same batch.
      solver, keys: not used, see `Method.sample`.
      trajectory: also return noise and image as two states.
    """
    del solver, keys
    x0 = x0.astype(jnp.float32)
    ones = jnp.ones(x0.shape[:1], jnp.int32)
    x = generator.apply(params, x0, 0.0 * ones, generator.encode(params, condition), None)
    return Solution(x, ones, ones, jnp.stack([x0, x]) if trajectory else None)


def optimizer(
    learning_rate: Callable[[Any], Any], discriminator_rate: float, clip: float = 0.0
) -> optax.GradientTransformation:
    """Adam for parameters "generator/..", and a faster one for all others.

    Args:
      learning_rate: of the generator, by update.
      discriminator_rate: times that for the others.
      clip: largest gradient norm of each side; 0 for no clipping.

    Source: Heusel et al. 2017 (two rates); Park et al. 2019 (their ratio 4, b1 = 0, b2 = 0.9).
    """

    def side(rate: Callable[[Any], Any]) -> optax.GradientTransformation:
        clipping = [optax.clip_by_global_norm(clip)] if clip else []
        return optax.chain(*clipping, optax.adam(rate, b1=0.0, b2=0.9))

    return optax.partition(
        {
            "generator": side(learning_rate),
            "other": side(lambda step: discriminator_rate * learning_rate(step)),
        },
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "generator" if path[-1].key.startswith("generator/") else "other",
            params,
        ),
    )


def _loss(settings, networks, params, batch, condition, keys, dropout_key) -> Array:
    del dropout_key
    weights = Weights(settings.feature_weight, settings.perceptual_weight)
    return loss(networks, params, batch, condition, keys, weights)


def _solver(settings: Any, name: str, steps: int | None, options: Mapping[str, Any]) -> OneCall:
    if name or options or steps not in (None, 1):
        raise ValueError(
            "--solver, --steps, --rtol, --atol, --eta, --spacing: the run is a generator "
            "(config.method='spade'), which makes an image in one call; leave them out"
        )
    return OneCall()


def _optimizer(settings: Any, learning_rate: Callable, clip: float) -> optax.GradientTransformation:
    return optimizer(learning_rate, settings.discriminator_rate, clip)


def _check(config: Any) -> None:
    if "mask" not in config.cond:
        raise ValueError(
            f"config.method='spade' with config.cond={config.cond!r}: it makes images from masks; "
            "use cond mask or mask+class"
        )
    for name, value, only in (
        ("train.base", config.train.base, "a UNet can be kept; leave it empty"),
        ("model.dropout", config.model.dropout, "a UNet has it; leave it 0"),
        ("data.augment.told", config.data.augment.told, "a UNet is told; set it to False"),
        ("train.optimizer", config.train.optimizer.replace("adam", ""), "adam trains it"),
    ):
        if value:
            value = config.train.optimizer if name == "train.optimizer" else value
            raise ValueError(f"config.{name}={value!r} with config.method='spade': only {only}")
    weight, size = config.spade.perceptual_weight, tuple(config.data.size)
    if weight and (len(size) != 2 or min(size) < 16):
        raise ValueError(
            f"config.spade.perceptual_weight={weight} with config.data.size={size}: VGG19 sees 2-D "
            "images of 16 pixels a side and more; leave it 0"
        )
    check_signed_range(config, "its generator ends in a tanh and makes")


METHOD = Method(
    section="spade",
    settings={
        # channels of the convolution by which a normalisation reads the mask
        "hidden": positive(128).fix(),
        "width": positive(64),  # channels of a discriminator's first layer
        "discriminators": positive(2),  # each sees the image at half the size of the one before
        "feature_weight": number(10.0),  # of feature matching in the generator's loss
        # of the perceptual (VGG19) loss in the generator's, 10 in the publication; above 0 it
        # needs the published weights: motfm convert features --network=vgg
        "perceptual_weight": number(0.0),
        "discriminator_rate": positive(4.0),  # times train.lr: the discriminators' learning rate
    },
    loss=_loss,
    solver=_solver,
    sample=sample,
    network="adversaries",
    check=_check,
    optimizer=_optimizer,
    ranks=False,
)
