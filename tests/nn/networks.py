"""Networks of a few thousand parameters, and random parameters, for the tests of this folder."""

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.nn.dispatch import Choice
from motfm_jax.nn.layers import Draws
from motfm_jax.nn.unet import UNetSettings


def make_settings(**changed):
    fields = dict(
        dims=2,
        image_channels=1,
        channels=(8, 16),
        res_blocks=1,
        attention=(False, True),
        head_dim=8,
        num_classes=0,
        transformer_layers=1,
        norm_groups=4,
        floor_time=False,
        dropout=0.0,
        dtype=jnp.float32,
        remat="none",
        choose_attention=lambda head_dim: Choice("xla", "test"),
    )
    return UNetSettings(**{**fields, **changed})


def draws(seed=0):
    return Draws(jax.random.key(seed), 1_000_000)


def parameter_shapes(init):
    return {name: leaf.shape for name, leaf in jax.eval_shape(init, jax.random.key(0)).items()}


def random_params(init, seed=0):
    """Parameters none of which is zero, so that nothing hides behind an initialisation."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in parameter_shapes(init).items():
        draw = rng.standard_normal(shape).astype(np.float32)
        width = np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 5.0
        params[name] = draw / np.float32(width) + (name.endswith("scale"))
    return params


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
