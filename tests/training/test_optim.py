"""Schedules and optimisers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from motfm_jax.methods import adversarial
from motfm_jax.training.optim import make_optimizer, make_schedule


def test_warm_up_is_linear_and_then_constant():
    rates = [float(make_schedule(0.4, warmup=4)(step)) for step in range(7)]
    np.testing.assert_allclose(rates, [0.1, 0.175, 0.25, 0.325, 0.4, 0.4, 0.4], rtol=1e-6)
    assert float(make_schedule(0.4)(0)) == pytest.approx(0.4)


def test_cosine_goes_from_the_rate_to_zero():
    schedule = make_schedule(0.4, warmup=2, schedule="cosine", total_steps=12)
    rates = [float(schedule(step)) for step in (0, 1, 2, 7, 12, 20)]
    np.testing.assert_allclose(rates, [0.2, 0.3, 0.4, 0.2, 0.0, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(schedule="linear"), "schedule 'linear': use 'constant' or 'cosine'"),
        (dict(schedule="cosine", warmup=5, total_steps=5), "needs more updates than warm-up"),
    ],
)
def test_schedules_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(0.1, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(name="lion"), "optimizer 'lion': use one of adam, adamw, sgd"),
        (dict(name="adam", weight_decay=0.1), "only adamw uses it"),
    ],
)
def test_optimisers_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(learning_rate=make_schedule(0.1), **settings)


def test_adversarial_sides_have_rates_of_their_own_and_adam_without_momentum():
    optimizer = adversarial.optimizer(make_schedule(0.01), discriminator_rate=4.0)
    params = {"generator/w": jnp.zeros(()), "discriminator/w": jnp.zeros(())}
    gradients = [dict.fromkeys(params, jnp.float32(g)) for g in (0.5, -0.2)]
    got = updates_of(optimizer, params, gradients)
    # b1 = 0: the last gradient over the root of the second moment, freed of its start.
    spread = np.sqrt((0.9 * 0.1 * 0.5**2 + 0.1 * 0.2**2) / (1 - 0.9**2))
    np.testing.assert_allclose(got["generator/w"], 0.01 * 0.2 / spread, rtol=1e-5)
    np.testing.assert_allclose(got["discriminator/w"], 0.04 * 0.2 / spread, rtol=1e-5)


def updates_of(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
    return updates


def test_adam_follows_its_formula_and_the_schedule():
    """Two updates by hand: Kingma and Ba 2015, algorithm 1."""
    g1, g2 = 0.5, -0.2
    optimizer = make_optimizer("adam", make_schedule(0.01, warmup=4))
    got = updates_of(optimizer, {"w": jnp.zeros(())}, [{"w": jnp.float32(g)} for g in (g1, g2)])
    m = (0.9 * 0.1 * g1 + 0.1 * g2) / (1 - 0.9**2)
    v = (0.999 * 0.001 * g1**2 + 0.001 * g2**2) / (1 - 0.999**2)
    np.testing.assert_allclose(got["w"], -0.004375 * m / (np.sqrt(v) + 1e-8), rtol=1e-4)


@pytest.mark.parametrize("scale, norm", [(1.0, 0.5), (0.02, 0.1)])
def test_clipping_scales_all_gradients_by_the_global_norm(scale, norm):
    gradients = {"a": jnp.array([3.0, 0.0]) * scale, "b": jnp.array([[4.0]]) * scale}
    params = jax.tree.map(jnp.zeros_like, gradients)
    updates = updates_of(make_optimizer("sgd", make_schedule(1.0), clip=0.5), params, [gradients])
    np.testing.assert_allclose(optax.tree.norm(updates), norm, rtol=1e-6)
    np.testing.assert_allclose(updates["a"][0] / updates["b"][0, 0], 0.75, rtol=1e-6)


def test_weight_decay_spares_vectors():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = make_optimizer("adamw", make_schedule(0.1), weight_decay=0.5)
    updates = updates_of(optimizer, params, [jax.tree.map(jnp.zeros_like, params)])
    np.testing.assert_allclose(updates["kernel"], -0.05 * np.ones((2, 2)), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))


def test_frozen_parameters_stay_and_need_no_state():
    params = {"unet/w": jnp.ones(3), "controlnet/w": jnp.ones(3)}

    def make(frozen):
        return make_optimizer("adam", make_schedule(0.1), clip=1.0, frozen=frozen)

    state, whole = make("unet/").init(params), make("").init(params)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (whole, state)]
    assert sizes[0] - sizes[1] == 2 * 3  # the two moments
    updates, _ = make("unet/").update({name: jnp.ones(3) for name in params}, state, params)
    np.testing.assert_array_equal(updates["unet/w"], 0)
    assert (np.asarray(updates["controlnet/w"]) < 0).all()
