"""Adversarial training of a generator that makes an image in one call.

Source: Park et al. 2019 (SPADE): hinge losses (Lim and Ye 2017), feature matching and, if wanted, a
perceptual loss (Wang et al. 2018). Both networks learn from the same state, in one update.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from motfm_jax.core import (
    Adversaries,
    Array,
    Batch,
    Condition,
    Network,
    Params,
    normal_per_example,
)
from motfm_jax.methods.ode import Solution

# Of the layers relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of VGG19.
PERCEPTUAL_LAYERS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


class OneCall(NamedTuple):
    """How a generator is sampled: there is nothing to choose."""

    steps: int = 1
    name = "generator"  # beside those of `ode.Solver`


def loss(
    networks: Adversaries,
    params: Params,
    batch: Batch,
    condition: Condition,
    keys: Array,
    feature_weight: float = 10.0,
    perceive: Callable[[Array], Sequence[Array]] | None = None,
    perceptual_weight: float = 0.0,
) -> Array:
    """The generator's loss plus the discriminators', per example.

    One sum serves both networks, since neither term has a gradient in the other's parameters: the
    generator's sees the discriminators as they are, the discriminators' the images as they are.
    The value says little about the images.

    Args:
      networks, params: see `Adversaries`.
      batch: images in [-1, 1].
      condition: with a mask.
      keys: [B], one per example; noise is drawn from it alone.
      feature_weight: of feature matching, the mean absolute difference of what the discriminators'
        layers make of the generated and of the real image.
      perceive: images in [-1, 1] -> what the PERCEPTUAL_LAYERS of a network that is not trained
        here make of them; None without a perceptual loss.
      perceptual_weight: of the perceptual loss, the weighted sum of the layers' mean absolute
        differences between the generated and the real image.

    Returns:
      [B] float32.
    """
    held = jax.lax.stop_gradient
    generator, discriminate = networks
    x0 = normal_per_example(keys, batch.image.shape[1:])
    mask = generator.encode(params, condition)
    made = generator.apply(params, x0, jnp.zeros(x0.shape[:1]), mask, None)
    of_generator = discriminate(held(params), made, mask)
    of_made = discriminate(params, held(made), mask)
    of_real = discriminate(params, batch.image, mask)

    total = 0.0
    for tried, made_layers, real_layers in zip(of_generator, of_made, of_real, strict=True):
        adversarial = -_mean(tried[-1])
        matching = sum(
            _mean(jnp.abs(one.astype(jnp.float32) - held(other).astype(jnp.float32)))
            for one, other in zip(tried[:-1], real_layers[:-1], strict=True)
        )
        hinge = _mean(_relu(1 - real_layers[-1])) + _mean(_relu(1 + made_layers[-1]))
        total = total + adversarial + feature_weight * matching + hinge
    total = total / len(of_real)
    if perceive is not None:
        pairs = zip(PERCEPTUAL_LAYERS, perceive(made), perceive(batch.image), strict=True)
        total = total + perceptual_weight * sum(
            weight * _mean(jnp.abs(one - held(other))) for weight, one, other in pairs
        )
    return total


def _relu(x: Array) -> Array:
    return jnp.maximum(x, 0)


def _mean(x: Array) -> Array:
    return x.mean(axis=tuple(range(1, x.ndim)))


def sample(
    generator: Network, params: Params, x0: Array, condition: Condition, trajectory: bool = False
) -> Solution:
    """Images from noise in one call.

    Args:
      generator, params: see `Adversaries`.
      x0: standard normal noise [B, *S, C] float32.
      condition: of the same batch.
      trajectory: also return noise and image as two states.
    """
    x0 = x0.astype(jnp.float32)
    ones = jnp.ones(x0.shape[:1], jnp.int32)
    x = generator.apply(params, x0, 0.0 * ones, generator.encode(params, condition), None)
    return Solution(x, ones, ones, jnp.stack([x0, x]) if trajectory else None)
