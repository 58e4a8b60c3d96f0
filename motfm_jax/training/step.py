"""One optimiser update and one validation batch, as pure functions of arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from motfm_jax.core import Array, Batch, Params, fold_keys
from motfm_jax.training.state import Packed, TrainState, pack

# (params by name, batch of B examples, a key each [B], dropout key or None) -> loss of each [B].
LossFn = Callable[[Params, Batch, Array, Array | None], Array]


class Metrics(NamedTuple):
    """Scalars of one update, the same on every device.

    Attributes:
      loss: mean over the valid examples of the global batch, float32.
      grad_norm: global gradient norm before clipping, float32.
      finite: whether both were finite and the update was made, bool.
    """

    loss: Array
    grad_norm: Array
    finite: Array


def sum_over_devices(
    loss: Array, grads: Packed, count: Array, axis_name: str | None
) -> tuple[Array, Packed, Array]:
    """Sums of all devices.

    GPUs sum gradients by name: XLA puts those that are ready into one message, and sends it while
    the backward pass goes on. A CPU's XLA would send each one alone.
    """
    if axis_name is None or jax.lax.axis_size(axis_name) == 1:
        return loss, grads, count
    together = functools.partial(jax.lax.psum, axis_name=axis_name)

    def by_name(loss: Array, grads: Packed, count: Array) -> tuple[Array, Packed, Array]:
        loss, named, count = together((loss, grads.named(), count))
        return loss, pack(named), count

    return jax.lax.platform_dependent(
        loss, grads, count, cpu=lambda *sums: together(sums), default=by_name
    )


def _gradients(
    loss_fn: LossFn, params: Packed, batch: Batch, keys: Array, dropout_key: Array, parts: int
) -> tuple[Array, Packed]:
    """Loss and gradients summed over a device's valid examples, in `parts` equal micro-batches."""

    def total(params: Packed, batch: Batch, keys: Array, dropout_key: Array) -> Array:
        losses = loss_fn(params.named(), batch, keys, dropout_key)
        return jnp.sum(jnp.where(batch.valid, losses, 0.0))

    value_and_grad = jax.value_and_grad(total)
    if parts == 1:
        return value_and_grad(params, batch, keys, jax.random.fold_in(dropout_key, 0))

    def add(sums, part):
        number, batch, keys = part
        one = value_and_grad(params, batch, keys, jax.random.fold_in(dropout_key, number))
        return jax.tree.map(jnp.add, sums, one), None

    rows = keys.shape[0]
    if rows % parts:
        raise ValueError(f"{rows} images a device do not divide into {parts} micro-batches")
    split = jax.tree.map(
        lambda leaf: leaf.reshape(parts, rows // parts, *leaf.shape[1:]), (batch, keys)
    )
    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    sums, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), *split))
    return sums


def ema_decay(step: Array, decay: float) -> Array:
    """Decay of the moving average at an update counted from 0: min(decay, (1 + step)/(10 + step)).

    The ramp keeps the random initialisation from weighing on the average of a short run; from
    update 9 decay / (1 - decay) on it is the constant.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def power_exponent(length: float) -> float:
    """Exponent g of the power-function average of a relative width: weights ~ (update)^g.

    The weight's standard deviation over the run's length so far is
    sigma = sqrt((g + 1) / ((g + 2)^2 (g + 3))), a cubic equation in g whose greatest root is meant.

    Args:
      length: sigma, above 0 and at most 0.28 (g = 0, all updates alike, is 0.289).

    Source: Karras et al. 2024 (EDM2), section 3.1 and appendix C.
    """
    a = length**-2
    return float(np.roots([1, 7, 16 - a, 12 - a]).real.max())


def power_decay(step: Array, length: float) -> Array:
    """Decay of the power-function average at an update counted from 0: (1 - 1/t)^(g + 1), t = step
    + 1. After T updates that of number t weighs (t^(g + 1) - (t - 1)^(g + 1)) / T^(g + 1): nothing
    is left of the random initialisation."""
    return jnp.exp((power_exponent(length) + 1) * jnp.log1p(-1 / (1.0 + step)))


def averaging(ema: float, length: float = 0.0) -> Callable[[Array], Array] | None:
    """The decay of a run's moving average, at an update counted from 0.

    Args:
      ema: see `ema_decay`; 0 for no average.
      length: see `power_decay`, in the place of `ema`; 0 for that.
    """
    if length:
        return functools.partial(power_decay, length=length)
    return functools.partial(ema_decay, decay=ema) if ema else None


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    decay: Callable[[Array], Array] | None = None,
    accumulation: int = 1,
    axis_name: str | None = None,
    refresh: Callable[[Params], Params] | None = None,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """The update: gradients of the global batch's mean loss, clip, optimiser, moving average.

    Randomness: the run's key is folded with the step, and then with an example's index in the
    global batch, so that any number of devices and micro-batches draws the same. Dropout alone is
    folded from device and micro-batch.

    Args:
      loss_fn: loss of each example.
      optimizer: as `optim.make_optimizer` returns it.
      decay: of the moving average, see `averaging`; None where the state has none.
      accumulation: micro-batches a device works through before the update.
      axis_name: name of the device axis under pmap; None on one device.
      refresh: changes the parameters by name after each update, such as `nn.spectral.refresh`.

    Returns:
      (state, a device's rows of the batch, key) -> (state, Metrics).
    """

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        example_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        loss, grads = _gradients(
            loss_fn,
            state.params,
            batch,
            fold_keys(example_key, batch.index),
            jax.random.fold_in(dropout_key, device),
            accumulation,
        )
        loss, grads, count = sum_over_devices(loss, grads, jnp.sum(batch.valid), axis_name)
        loss, grads = jax.tree.map(lambda leaf: leaf / count, (loss, grads))
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def update() -> TrainState:
            old = cast(Any, state)  # optax's types know dicts alone
            updates, opt_state = optimizer.update(grads, old.opt_state, old.params)
            params: Any = cast(Any, optax.apply_updates(old.params, updates))
            if refresh is not None:
                params = pack(refresh(params.named()))
            average: Any = None
            if decay is not None:
                kept = decay(state.step)
                # Not optax.incremental_update: its d x + (1 - d) x is not x, and weights that are
                # not trained (the UNet of a ControlNet) must stay as they are.
                average = jax.tree.map(lambda new, mean: new + kept * (mean - new), params, old.ema)
            return TrainState(state.step + 1, params, average, opt_state, state.halted)

        keep = finite & ~state.halted
        updated = _update_if(keep, update, state)
        return updated._replace(halted=~keep), Metrics(loss, grad_norm, finite)

    return train_step


def _update_if(keep: Array, update: Callable[[], TrainState], state: TrainState) -> TrainState:
    """What `update` returns where `keep`, else the state. On a CPU a branch, in which XLA updates
    arrays in place instead of copies; a GPU would have to ask the host which branch to take."""
    return jax.lax.platform_dependent(
        cpu=lambda: jax.lax.cond(keep, update, lambda: state),
        default=lambda: jax.tree.map(lambda new, old: jnp.where(keep, new, old), update(), state),
    )


def make_eval_step(loss_fn: LossFn) -> Callable[[Packed, Batch, Array], tuple[Array, Array]]:
    """Validation: (a state's weights, batch, key) -> sum of the valid losses, and their number.

    Noise and times are folded from the key and an example's index in the split: with one key they
    are the same at every evaluation, whatever the batch size and the devices. No dropout.
    """

    def eval_step(weights: Packed, batch: Batch, key: Array) -> tuple[Array, Array]:
        losses = loss_fn(weights.named(), batch, fold_keys(key, batch.index), None)
        return jnp.sum(jnp.where(batch.valid, losses, 0.0)), jnp.sum(batch.valid)

    return eval_step
