"""The path, the loss of fields whose error is known, and what sampling computes once."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Batch, Condition, Network, fold_keys, normal_per_example
from motfm_jax.methods import flow
from motfm_jax.methods.ode import Solver

loss = jax.jit(flow.loss, static_argnums=0, static_argnames="times")


def make_batch(count=6, size=(4, 4), source=None):
    image = np.random.default_rng(0).uniform(-1, 1, (count, *size, 1)).astype(np.float32)
    return Batch(
        jnp.array(image),
        None,
        None,
        jnp.ones(count, bool),
        jnp.arange(count, dtype=jnp.int32),
        source,
    )


def make_keys(batch, seed=3):
    return fold_keys(jax.random.key(seed), batch.index)


def knows_the_image(error=0.0):
    """The exact velocity (x1 - x_t) / (1 - t) to the image given as the mask, off by `error`."""

    def apply(params, x, t, image, dropout_key):
        return (image - x) / (1 - t[:, None, None, None]) + error

    return Network(encode=lambda params, condition: condition.mask, apply=apply)


ZERO = Network(lambda params, condition: None, lambda params, x, t, context, key: jnp.zeros_like(x))


def test_the_path_is_straight_from_noise_to_image():
    x0, x1 = jnp.full((3, 2, 2, 1), 2.0), jnp.full((3, 2, 2, 1), -4.0)
    x_t, velocity = flow.linear_path(x0, x1, jnp.array([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(x_t[:, 0, 0, 0], [2.0, 0.5, -4.0])
    np.testing.assert_allclose(velocity, -6.0)


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_the_exact_velocity_has_no_loss_and_a_known_error_its_square(distribution):
    batch = make_batch()
    for error in (0.0, 0.3):
        losses = loss(
            knows_the_image(error),
            {},
            batch,
            Condition(mask=batch.image),
            make_keys(batch),
            None,
            times=flow.Times(distribution),
        )
        assert losses.shape == (6,)
        np.testing.assert_allclose(losses, error**2, atol=1e-4)


def test_a_zero_velocity_loses_the_mean_square_of_image_minus_noise():
    batch, keys = make_batch(), make_keys(make_batch())
    noise_keys = jax.vmap(jax.random.split)(keys)[:, 0]
    noise = normal_per_example(noise_keys, batch.image.shape[1:])
    expected = np.mean(np.square(batch.image - noise), axis=(1, 2, 3))
    np.testing.assert_allclose(loss(ZERO, {}, batch, Condition(), keys, None), expected, rtol=1e-5)


def test_an_examples_loss_does_not_depend_on_the_batch_it_is_in():
    batch = make_batch()
    together = loss(ZERO, {}, batch, Condition(), make_keys(batch), None)
    assert len(set(np.asarray(together).tolist())) == 6, "every example draws its own noise"
    part = Batch(*(None if leaf is None else leaf[1:5] for leaf in batch))
    alone = loss(ZERO, {}, part, Condition(), make_keys(part), None)
    np.testing.assert_allclose(alone, together[1:5], rtol=1e-6)


def test_the_flow_may_start_from_a_degraded_image():
    source = jnp.full((6, 4, 4, 1), 0.5)
    batch = make_batch(source=source)
    losses = loss(ZERO, {}, batch, Condition(), make_keys(batch), None)
    np.testing.assert_allclose(
        losses, np.mean(np.square(batch.image - source), axis=(1, 2, 3)), rtol=1e-6
    )


def test_times_follow_their_distribution():
    keys = jax.random.split(jax.random.key(0), 4000)
    uniform, logit = flow.draw_times(keys, "uniform"), flow.draw_times(keys, "logit_normal")
    for times in (uniform, logit):
        assert float(times.min()) > 0 and float(times.max()) < 1
    at = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(np.quantile(uniform, at), at, atol=0.03)
    quartile = 1 / (1 + np.exp(0.6745))  # sigmoid of the normal's lower quartile
    np.testing.assert_allclose(np.quantile(logit, at), [quartile, 0.5, 1 - quartile], atol=0.03)
    with pytest.raises(ValueError, match="'beta': use 'uniform' or 'logit_normal'"):
        flow.draw_times(keys, "beta")


def test_the_logits_of_times_have_their_mean_and_deviation_but_for_the_uniform_share():
    keys = jax.random.split(jax.random.key(0), 4000)
    times = flow.draw_times(keys, "logit_normal", -0.8, 1.6)
    logits = np.log(times / (1 - times))
    np.testing.assert_allclose([logits.mean(), logits.std()], [-0.8, 1.6], atol=0.06)
    mixed = flow.draw_times(keys, "logit_normal", -0.8, 0.01, 0.25)
    elsewhere = np.abs(mixed - 1 / (1 + np.exp(0.8))) > 0.02
    np.testing.assert_allclose(np.mean(elsewhere), 0.25 * 0.96, atol=0.02)
    np.testing.assert_allclose(np.quantile(mixed[elsewhere], [0.1, 0.9]), [0.1, 0.9], atol=0.04)


def test_an_estimate_of_the_image_becomes_the_velocity_that_leads_to_it():
    image = make_batch().image
    estimate = Network(lambda params, condition: condition.mask, lambda p, x, t, image, key: image)
    network, condition = flow.velocity_of_image(estimate), Condition(mask=image)
    x, t = jnp.full_like(image, 0.25), jnp.array([0.0, 0.5, 0.9, 0.95, 0.99, 1.0])
    velocity = network.apply({}, x, t, network.encode({}, condition), None)
    left = np.array([1, 0.5, 0.1, 0.05, 0.05, 0.05])[:, None, None, None]
    np.testing.assert_allclose(velocity * left, image - 0.25, atol=1e-6)
    for steps in (1, 4):
        solution = flow.sample(network, {}, x, condition, Solver("euler", steps))
        np.testing.assert_allclose(solution.x, image, atol=1e-6)


def test_dropout_is_on_in_the_loss_and_off_in_sampling():
    seen = []

    def apply(params, x, t, context, dropout_key):
        seen.append(dropout_key)
        return x

    network, batch = Network(lambda params, condition: None, apply), make_batch()
    key = jax.random.key(9)
    flow.loss(network, {}, batch, Condition(), make_keys(batch), key)
    assert seen == [key]
    flow.sample(network, {}, batch.image, Condition(), Solver("euler", 2))
    assert seen[1:] and all(key is None for key in seen[1:])


def counting_network(counts):
    """Encodes by a sine, which nothing else here uses; counts what runs, not what is traced."""

    def encode(params, condition):
        jax.debug.callback(lambda: counts.__setitem__("encode", counts["encode"] + 1))
        return jnp.sin(params["scale"] * condition.label)

    def apply(params, x, t, context, dropout_key):
        jax.debug.callback(lambda: counts.__setitem__("apply", counts["apply"] + 1))
        return jnp.broadcast_to(context.sum(-1)[:, None, None, None], x.shape) * params["scale"]

    return Network(encode, apply)


def operations(jaxpr, inside_loop=False):
    """(name, whether inside a loop) of every operation."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield name, inside_loop
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from operations(inner, inside_loop or name in ("while", "scan"))


@pytest.mark.parametrize(
    "solver, calls", [(Solver("euler", 7), 7), (Solver("heun", 3), 6), (Solver("adaptive"), None)]
)
def test_the_condition_is_encoded_once_and_the_network_called_per_stage(solver, calls):
    counts = {"encode": 0, "apply": 0}
    network, params = counting_network(counts), {"scale": jnp.float32(2.0)}
    condition, x0 = Condition(label=jnp.eye(2)), jnp.zeros((2, 4, 4, 1))
    sample = lambda x0: flow.sample(network, params, x0, condition, solver).x  # noqa: E731
    x1 = jax.jit(sample)(x0)
    jax.effects_barrier()
    assert counts["encode"] == 1 and (calls is None or counts["apply"] == calls)
    np.testing.assert_allclose(x1, 2 * np.sin(2.0), rtol=1e-5)
    found = [loop for name, loop in operations(jax.make_jaxpr(sample)(x0).jaxpr) if name == "sin"]
    assert found == [False], "the encoder stands outside the solver's loop"


def test_sampling_with_the_exact_velocity_lands_on_the_image():
    batch = make_batch()
    solution = flow.sample(
        knows_the_image(),
        {},
        jnp.ones_like(batch.image),
        Condition(mask=batch.image),
        Solver("euler", 4),
        trajectory=True,
    )
    np.testing.assert_allclose(solution.x, batch.image, atol=1e-5)
    np.testing.assert_allclose(solution.trajectory[2], 0.5 + batch.image / 2, atol=1e-5)
