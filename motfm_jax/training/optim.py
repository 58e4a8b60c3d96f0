"""Learning-rate schedule and optimiser, from plain numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from motfm_jax.core import Array

Schedule = Callable[[Array | int], Array]


def make_schedule(
    lr: float, warmup: int = 0, schedule: str = "constant", total_steps: int = 0
) -> Schedule:
    """Learning rate by update, counted from 0.

    Args:
      lr: the rate after warm-up.
      warmup: updates of linear warm-up: lr / warmup, 2 lr / warmup, ... lr.
      schedule: "constant", or "cosine" to reach 0 at total_steps.
      total_steps: updates in all; only "cosine" uses it.
    """
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule {schedule!r}: use 'constant' or 'cosine'")
    if schedule == "cosine" and total_steps <= warmup:
        raise ValueError(
            f"cosine schedule over {total_steps} updates, {warmup} of them warm-up: "
            "needs more updates than warm-up"
        )

    def learning_rate(step: Array | int) -> Array:
        step = jnp.asarray(step, jnp.float32)
        factor = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        if schedule == "cosine":
            progress = jnp.clip((step - warmup) / (total_steps - warmup), 0, 1)
            factor = factor * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return lr * factor

    return learning_rate


def make_optimizer(
    name: str,
    learning_rate: Schedule,
    clip: float = 0.0,
    weight_decay: float = 0.0,
    frozen: str = "",
) -> optax.GradientTransformation:
    """Clipping by global norm, then the update rule.

    Args:
      name: "adam", "adamw" or "sgd" (plain, without momentum).
      learning_rate: as `make_schedule` returns it.
      clip: largest global gradient norm; 0 for no clipping.
      weight_decay: for "adamw"; kernels decay, vectors (biases, norm scales) do not.
      frozen: parameters whose name starts with this stay as they are and need no optimiser state;
        "" for none.
    """
    rules = {
        "adam": lambda: optax.adam(learning_rate),
        "adamw": lambda: optax.adamw(
            learning_rate,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
        "sgd": lambda: optax.sgd(learning_rate),
    }
    if name not in rules:
        raise ValueError(f"optimizer {name!r}: use one of {', '.join(rules)}")
    if weight_decay and name != "adamw":
        raise ValueError(f"weight_decay={weight_decay} with optimizer {name!r}: only adamw uses it")
    clipping = [optax.clip_by_global_norm(clip)] if clip else []
    optimizer = optax.chain(*clipping, rules[name]())
    if not frozen:
        return optimizer
    return optax.partition(
        {"trained": optimizer, "frozen": optax.set_to_zero()},
        lambda params: {
            name: "frozen" if name.startswith(frozen) else "trained" for name in params
        },
    )


def make_adversarial_optimizer(
    learning_rate: Schedule, discriminator_rate: float, clip: float = 0.0
) -> optax.GradientTransformation:
    """Adam for parameters "generator/..", and a faster one for all others.

    Args:
      learning_rate: of the generator.
      discriminator_rate: times that for the others.
      clip: largest gradient norm of each side; 0 for no clipping.

    Source: Heusel et al. 2017 (two rates); Park et al. 2019 (their ratio 4, b1 = 0, b2 = 0.9).
    """

    def side(rate: Schedule) -> optax.GradientTransformation:
        clipping = [optax.clip_by_global_norm(clip)] if clip else []
        return optax.chain(*clipping, optax.adam(rate, b1=0.0, b2=0.9))

    return optax.partition(
        {
            "generator": side(learning_rate),
            "other": side(lambda step: discriminator_rate * learning_rate(step)),
        },
        lambda params: {
            name: "generator" if name.startswith("generator/") else "other" for name in params
        },
    )
