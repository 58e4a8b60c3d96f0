"""One update: accumulation, averaging, randomness, and what a bad loss does."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_layers import batch_at, init_params, loss_fn

from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.state import init_state, pack
from motfm_jax.training.step import (
    averaging,
    ema_decay,
    make_eval_step,
    make_train_step,
    power_decay,
    power_exponent,
    sum_over_devices,
)

KEY = jax.random.key(3)


@functools.cache
def compiled(loss_fn, name, ema, clip, accumulation, platform="cpu"):
    optimizer = make_optimizer(name, make_schedule(0.1), clip)
    step = jax.jit(make_train_step(loss_fn, optimizer, averaging(ema), accumulation))
    if platform != "cpu":  # its form of the update, run here
        with mock.patch.object(jax.lax, "platform_dependent", lambda cpu, default: default()):
            state = init_state(init_params(), optimizer, ema)
            step = step.lower(state, batch_at(0), KEY).compile()
    return optimizer, step


def train(
    loss_fn=loss_fn, steps=3, rows=8, valid=None, name="sgd", ema=0.0, clip=0.0, accumulation=1
):
    optimizer, step = compiled(loss_fn, name, ema, clip, accumulation)
    state, history = init_state(init_params(), optimizer, ema), []
    for number in range(steps):
        state, metrics = step(state, batch_at(number, rows, valid), KEY)
        history.append(metrics)
    return state, history


def assert_close(a, b, tolerance):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_accumulation_changes_nothing_but_rounding():
    whole, expected = train(ema=0.9, clip=0.3)
    parts, history = train(ema=0.9, clip=0.3, accumulation=2)
    assert_close(history, expected, 1e-6)
    assert_close(parts, whole, 1e-6)
    assert float(expected[0].grad_norm) > 0.3  # clipping had something to clip
    assert not np.allclose(whole.params.named()["in/kernel"], init_params()["in/kernel"], atol=1e-3)


def test_accumulation_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="8 images a device do not divide into 3"):
        train(accumulation=3, steps=1)


@pytest.mark.slow
def test_the_reported_loss_and_gradient_are_those_of_the_mean():
    batch, state = batch_at(0), train(steps=0)[0]
    example_key = jax.random.split(jax.random.fold_in(KEY, 0))[0]
    keys = jax.vmap(lambda index: jax.random.fold_in(example_key, index))(batch.index)
    mean = lambda params: jnp.mean(loss_fn(params, batch, keys, None))  # noqa: E731
    params = state.params.named()
    loss, gradients = jax.value_and_grad(mean)(params)
    updated, (metrics,) = train(steps=1)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradients.values()))
    np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
    expected = jax.tree.map(lambda leaf, gradient: leaf - 0.1 * gradient, params, gradients)
    assert_close(updated.params.named(), expected, 1e-6)


def test_padding_rows_do_not_count():
    padded, _ = train(steps=1, rows=8, valid=6)

    def without_padding(params, batch, keys, dropout_key):
        losses = loss_fn(params, batch, keys, dropout_key)
        return jnp.where(jnp.arange(8) < 6, losses, 1e9) * jnp.where(jnp.arange(8) < 6, 1, 0)

    other, _ = train(without_padding, steps=1, rows=8, valid=6)
    everything, _ = train(steps=1, rows=8)
    assert_close(padded.params, other.params, 1e-6)
    kernels = [state.params.named()["in/kernel"] for state in (padded, everything)]
    assert not np.allclose(*kernels, atol=1e-5)


def test_the_average_follows_its_recursion():
    state, _ = train(steps=0, ema=0.9)
    average, weights = np.array(state.ema.named()["out/kernel"]), []
    for steps in (1, 2, 3):
        weights.append(np.array(train(steps=steps, ema=0.9)[0].params.named()["out/kernel"]))
    for step, weight in enumerate(weights):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    ema = train(steps=3, ema=0.9)[0].ema.named()
    np.testing.assert_allclose(ema["out/kernel"], average, atol=1e-6)
    assert float(ema_decay(jnp.int32(10**6), 0.9)) == pytest.approx(0.9)


@pytest.mark.parametrize("form", ["cpu", "default"])
def test_devices_sum_gradients_alike_in_either_form(form):
    params = init_params()
    own = [pack({name: leaf * factor for name, leaf in params.items()}) for factor in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)

    def forms(*sums, **given):
        return given[form](*sums)

    with mock.patch.object(jax.lax, "platform_dependent", forms):
        summed = jax.vmap(
            lambda grads: sum_over_devices(jnp.ones(()), grads, jnp.ones(()), "data"),
            axis_name="data",
        )(stacked)
    loss, grads, count = jax.tree.map(lambda leaf: leaf[0], summed)
    assert (loss, count) == (2, 2)
    for name, leaf in grads.named().items():
        np.testing.assert_allclose(leaf, 3 * params[name], rtol=1e-6)


def test_the_power_average_weighs_updates_by_a_power_of_their_number_over_any_length():
    decays = np.array([power_decay(jnp.int32(step), 0.1) for step in range(300)], np.float64)
    exponent = power_exponent(0.1)
    for length in (1, 50, 300):
        weights = np.zeros(length)
        for step, decay in enumerate(decays[:length]):
            weights = decay * weights
            weights[step] += 1 - decay
        edges = (np.arange(length + 1) / length) ** (exponent + 1)
        np.testing.assert_allclose(weights, np.diff(edges), atol=1e-6)
    centres = (np.arange(300) + 0.5) / 300
    mean = weights @ centres
    assert np.sqrt(weights @ (centres - mean) ** 2) == pytest.approx(0.1, abs=1e-3)


def test_the_power_average_of_two_updates():
    optimizer = make_optimizer("sgd", make_schedule(0.1))
    step = jax.jit(make_train_step(loss_fn, optimizer, averaging(0.9, 0.1)))
    state, weights = init_state(init_params(), optimizer, 0.1), []
    for number in (0, 1):
        state, _ = step(state, batch_at(number), KEY)
        weights.append(np.array(state.params.named()["out/kernel"]))
    decay = 0.5 ** (power_exponent(0.1) + 1)
    expected = decay * weights[0] + (1 - decay) * weights[1]
    np.testing.assert_allclose(state.ema.named()["out/kernel"], expected, atol=1e-6)


def test_the_average_starts_as_a_copy():
    state = init_state(init_params(), make_optimizer("adam", make_schedule(0.1)), 0.9)
    for name, leaf in state.params.groups.items():
        assert state.ema.groups[name].unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()
        np.testing.assert_array_equal(state.ema.groups[name], leaf)
    assert state.weights is state.ema
    assert state._replace(ema=None).weights is state.params


def test_draws_change_with_the_step_the_index_and_the_dropout_key():
    seen = []

    def watch(params, batch, keys, dropout_key):
        jax.debug.callback(
            lambda *arrays: seen.append([np.array(a) for a in arrays]),
            jax.random.key_data(keys),
            jax.random.key_data(dropout_key),
        )
        return loss_fn(params, batch, keys, dropout_key)

    train(watch, steps=2, accumulation=2)
    jax.effects_barrier()
    keys = {row.tobytes() for part, _ in seen for row in part}
    dropout = {key.tobytes() for _, key in seen}
    # Callbacks may run more than once (forward, backward): what counts is that none coincide.
    assert len(keys) == 16 and len(dropout) == 4 and not keys & dropout


@pytest.mark.slow
@pytest.mark.parametrize(
    "where, accumulation, platform",
    [("loss", 1, "cuda"), ("loss", 2, "cpu"), ("gradient", 1, "cpu")],
)
def test_a_bad_loss_leaves_the_state_and_stops_it(where, accumulation, platform):
    def bad_at_two(params, batch, keys, dropout_key):
        losses = loss_fn(params, batch, keys, dropout_key)
        marked = batch.image[:, 0, 0, 0] > 100
        if where == "loss":
            return jnp.where(marked, jnp.nan, losses)
        # sqrt has an infinite slope at 0: the loss is finite, its gradient is not.
        root = jnp.sqrt(jnp.sum(params["in/bias"] ** 2) * 0 * jnp.ones(losses.shape))
        return losses + jnp.where(marked, root, 0.0)

    optimizer, step = compiled(bad_at_two, "adam", 0.9, 0.0, accumulation, platform)
    _, step_good = compiled(loss_fn, "adam", 0.9, 0.0, accumulation, platform)
    state = init_state(init_params(), optimizer, 0.9)
    state, metrics = step_good(state, batch_at(0), KEY)
    assert bool(metrics.finite) and not bool(state.halted)
    good = jax.tree.map(np.array, state)

    batch = batch_at(1)
    batch.image[3, 0, 0, 0] = 1000.0
    state, metrics = step(state, batch, KEY)
    assert not bool(metrics.finite)
    assert bool(np.isfinite(metrics.loss)) == (where == "gradient")
    assert bool(state.halted)
    assert_close(state._replace(halted=good.halted), good, 0)

    state, metrics = step_good(state, batch_at(2), KEY)  # a good batch no longer changes it
    assert bool(metrics.finite) and bool(state.halted)
    assert_close(state._replace(halted=good.halted), good, 0)


def test_the_update_is_a_branch_on_a_cpu_alone():
    optimizer, step = compiled(loss_fn, "adam", 0.9, 0.0, 1)
    traced = step.trace(init_state(init_params(), optimizer, 0.9), batch_at(0), KEY)
    cpu, cuda = (
        traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.case")
        for platform in ("cpu", "cuda")
    )  # both have the choice of the platform itself
    assert cpu == cuda + 1


@pytest.mark.slow
def test_validation_draws_are_fixed_and_do_not_depend_on_the_batches():
    step = jax.jit(make_eval_step(loss_fn))
    params, batch = pack(init_params()), batch_at(5, rows=8)
    total, count = step(params, batch, KEY)
    again, _ = step(params, batch, KEY)
    assert total == again and count == 8

    def rows(start, stop):
        return jax.tree.map(lambda leaf: leaf[start:stop], batch)

    parts = [step(params, rows(0, 3), KEY), step(params, rows(3, 8), KEY)]
    np.testing.assert_allclose(sum(part[0] for part in parts), total, rtol=1e-6)
    padded = batch._replace(valid=np.arange(8) < 3)
    np.testing.assert_allclose(step(params, padded, KEY), parts[0], rtol=1e-6)
    assert step(params, batch, jax.random.key(9))[0] != total
