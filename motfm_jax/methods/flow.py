"""Flow matching on straight paths: the path, the distribution of times, the loss, and sampling.

Source: Yazdani et al. 2025 (MOTFM), section 2; Lipman et al. 2023; Liu et al. 2023.
"""

import jax
import jax.numpy as jnp

from motfm_jax.core import Array, Batch, Condition, Network, Params, normal_per_example
from motfm_jax.methods.ode import Solution, Solver, integrate


def linear_path(x0: Array, x1: Array, t: Array) -> tuple[Array, Array]:
    """Point and velocity on the straight path from noise to image.

    Args:
      x0: noise [B, *S, C].
      x1: image [B, *S, C], in the intensity range of the config.
      t: time in [0, 1], [B].

    Returns:
      x_t = (1 - t) x0 + t x1 and the velocity x1 - x0, both [B, *S, C].

    Source: Yazdani et al. 2025, section 2.1.
    """
    t = jnp.expand_dims(t, tuple(range(1, x1.ndim)))
    return (1 - t) * x0 + t * x1, x1 - x0


def draw_times(keys: Array, distribution: str) -> Array:
    """Training times in (0, 1), one key an example: keys [B] -> [B].

    Args:
      keys: one per example.
      distribution: "uniform" (the paper) or "logit_normal" (sigmoid of a standard normal: more
        weight on the middle of the path; Esser et al. 2024).
    """
    if distribution == "uniform":
        return jax.vmap(jax.random.uniform)(keys)
    if distribution == "logit_normal":
        return jax.nn.sigmoid(jax.vmap(jax.random.normal)(keys))
    raise ValueError(f"time distribution {distribution!r}: use 'uniform' or 'logit_normal'")


def loss(
    network: Network,
    params: Params,
    batch: Batch,
    condition: Condition,
    keys: Array,
    dropout_key: Array | None,
    time_distribution: str = "uniform",
) -> Array:
    """Mean squared error of the velocity, per example.

    Args:
      network, params: the velocity field.
      batch: images x1 and, where it has them, the sources x0 that are degraded or of another
        modality; else x0 is noise.
      condition: what the field is conditioned on.
      keys: [B], one per example; noise and time are drawn from it alone.
      dropout_key: None switches dropout off.
      time_distribution: see `draw_times`.

    Returns:
      [B] float32.
    """
    noise_keys, time_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x0 = batch.source
    if x0 is None:
        x0 = normal_per_example(noise_keys, batch.image.shape[1:])
    t = draw_times(time_keys, time_distribution)
    x_t, velocity = linear_path(x0, batch.image, t)
    predicted = network.apply(params, x_t, t, network.encode(params, condition), dropout_key)
    return jnp.mean(jnp.square(predicted - velocity), axis=tuple(range(1, velocity.ndim)))


def sample(
    network: Network,
    params: Params,
    x0: Array,
    condition: Condition,
    solver: Solver,
    trajectory: bool = False,
) -> Solution:
    """Transports x0 to images. The condition is encoded once, not once per network call.

    Args:
      network, params: the velocity field.
      x0: noise, or sources as in `loss`, [B, *S, C] float32.
      condition: of the same batch.
      solver: see `ode.Solver`.
      trajectory: also return the states after each step.
    """
    context = network.encode(params, condition)

    def velocity(t, x, context):
        return network.apply(params, x, t, context, None)

    return integrate(velocity, x0.astype(jnp.float32), context, solver, trajectory)
