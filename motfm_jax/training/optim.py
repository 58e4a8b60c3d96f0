"""Learning-rate schedule and optimiser, from plain numbers."""

from collections.abc import Callable
from typing import Any

import jax
import optax

Schedule = Callable[[Any], Any]  # update, counted from 0 -> learning rate


def make_schedule(
    lr: float, warmup: int = 0, schedule: str = "constant", total_steps: int = 0
) -> Schedule:
    """Learning rate by update, counted from 0.

    Args:
      lr: the rate after warm-up.
      warmup: updates of linear warm-up, from lr / warmup to lr.
      schedule: "constant", or "cosine" to reach 0 at total_steps.
      total_steps: updates in all; only "cosine" uses it.

    Raises:
      ValueError: another schedule, or a cosine that is all warm-up.
    """
    first = lr / max(warmup, 1)
    if schedule == "constant":
        return optax.warmup_constant_schedule(first, lr, warmup)
    if schedule != "cosine":
        raise ValueError(f"schedule {schedule!r}: use 'constant' or 'cosine'")
    if total_steps <= warmup:
        raise ValueError(
            f"cosine schedule over {total_steps} updates, {warmup} of them warm-up: "
            "needs more updates than warm-up"
        )
    return optax.warmup_cosine_decay_schedule(first, lr, warmup, total_steps)


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
      frozen: parameters whose name starts with this do not change and have no optimiser state; ""
        for none.
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
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if path[-1].key.startswith(frozen) else "trained", params
        ),
    )
