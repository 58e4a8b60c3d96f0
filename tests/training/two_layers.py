"""A model and data small enough to train in a test: shared by the tests of this folder."""

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax import parallel
from motfm_jax.core import Batch, normal_per_example
from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.state import init_state
from motfm_jax.training.step import averaging, make_train_step

SIZE = (8, 8)


def init_params():
    keys = jax.random.split(jax.random.key(42), 2)
    return {
        "in/kernel": 0.3 * jax.random.normal(keys[0], (3, 3, 1, 4)),
        "in/bias": jnp.zeros((1, 1, 1, 4)),
        "out/kernel": 0.3 * jax.random.normal(keys[1], (3, 3, 4, 1)),
    }


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def loss_fn(params, batch, keys, dropout_key):
    """A two-layer convolution that estimates the noise in an image at a random level."""
    noise_keys, level_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    noise = normal_per_example(noise_keys, batch.image.shape[1:])
    level = jax.vmap(jax.random.uniform)(level_keys)[:, None, None, None]
    x = (1 - level) * batch.image + level * noise
    hidden = jnp.tanh(convolve(x, params["in/kernel"]) + params["in/bias"])
    return jnp.mean(jnp.square(convolve(hidden, params["out/kernel"]) - noise), axis=(1, 2, 3))


def batch_at(step, rows=8, valid=None, process=0, processes=1):
    """The global batch of a step (or this process's rows of it), different at every step."""
    image = np.random.default_rng(step).normal(size=(rows, *SIZE, 1)).astype(np.float32)
    valid = np.arange(rows) < (rows if valid is None else valid)
    batch = Batch(image, None, None, valid, np.arange(rows, dtype=np.int32))
    return jax.tree.map(lambda leaf: leaf[process::processes], batch)


def batches_from(step, rows=8):
    while True:
        yield batch_at(step, rows)
        step += 1


def make_training(name="sgd", lr=0.1, ema=0.0, accumulation=1, clip=0.0):
    """(replicated state before the first update, compiled update)"""
    optimizer = make_optimizer(name, make_schedule(lr), clip)
    update = parallel.TrainStep(
        make_train_step(loss_fn, optimizer, averaging(ema), accumulation, parallel.AXIS)
    )
    return parallel.replicate(init_state(init_params(), optimizer, ema)), update
