"""Models whose network is a formula, to sample and measure without training."""

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax import settings
from motfm_jax.core import Condition, Network
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.model import Bundle

CLASSES = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
LABELS = ("background", "cavity", "myocardium")
INTENSITY = Intensity("minmax", "dataset", (-1.0, 1.0), (0.5, 99.5), 90.0, 110.0)  # 10 x + 100


def mixing_network():
    """A velocity that mixes the image's pixels, the mask, the class and the time."""

    def encode(params, condition):
        total = 0.0
        if condition.mask is not None:
            total = total + condition.mask
        if condition.label is not None:
            total = total + (condition.label @ jnp.arange(4.0))[:, None, None, None]
        return total

    def apply(params, x, t, context, dropout_key):
        mixed = jnp.tanh(jnp.roll(x, 1, axis=1) + context)
        return params["scale"] * mixed + t[:, None, None, None]

    return Network(encode, apply)


def constant_network(value):
    """A velocity that moves every image by `value`, whatever the steps."""
    return Network(
        lambda params, condition: None, lambda params, x, t, context, key: jnp.full_like(x, value)
    )


def to_condition(mask, label):
    """Masks of labels as one channel of floats, masks of floats unchanged."""
    if mask is not None and not jnp.issubdtype(mask.dtype, jnp.floating):
        mask = mask[..., None].astype(jnp.float32)
    return Condition(mask, None if label is None else jax.nn.one_hot(label, len(CLASSES)))


def make_bundle(network=None, size=(4, 6), intensity=INTENSITY, **fields):
    """A model with fields of its config by path: cond="mask", flow__source="speckle"."""
    config = settings.default()
    config.data.size = size
    settings.assign(config, {name.replace("__", "."): value for name, value in fields.items()})
    return Bundle(
        network=network or mixing_network(),
        params={"scale": np.float32(0.7)},
        condition=to_condition,
        facts=Facts(size, 1, CLASSES, LABELS, intensity.to_json()),
        config=config,
        run="runs/x",
        checkpoint_hash="abc",
        step=7,
    )
