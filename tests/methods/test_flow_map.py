"""Flow maps: times, the loss of maps whose error is known, jumps, and the closed-form Gaussian."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Batch, Condition, Network, fold_keys
from motfm_jax.methods import flow, flow_map
from motfm_jax.methods.energy import local_energy_score
from motfm_jax.methods.flow_map import Jumps, Pairs
from motfm_jax.methods.method import TEACHER
from motfm_jax.methods.ode import Solver

# Images that are normal around MEAN with SPREAD: the flow's path of a point is known.
MEAN, SPREAD = 0.5, 0.4


def expand(values, x):
    return jnp.reshape(values, (-1,) + (1,) * (x.ndim - 1))


def spread_at(t):
    return jnp.sqrt((1 - t) ** 2 + (t * SPREAD) ** 2)


def jumped(x, t, s):
    """Where the flow takes x from t to s: normal scores are kept."""
    t, s = expand(t, x), expand(s, x)
    return s * MEAN + (x - t * MEAN) * spread_at(s) / spread_at(t)


def velocity(x, t):
    t = expand(t, x)
    slope = (t * SPREAD**2 - (1 - t)) / spread_at(t) ** 2
    return MEAN + slope * (x - t * MEAN)


def mean_velocity(x, t, s):
    gap = expand(s - t, x)
    far = (jumped(x, t, s) - x) / jnp.where(gap == 0, 1, gap)
    return jnp.where(gap == 0, velocity(x, t), far)


def apply(params, x, t, context, key, s=None):
    return mean_velocity(x, t, t if s is None else s) + params["error"]


EXACT = Network(lambda params, condition: None, apply)


def make_params(error=0.0):
    return {"error": jnp.float32(error), TEACHER + "error": jnp.float32(0)}


def make_batch(count=256):
    rng = np.random.default_rng(0)
    image = jnp.array(MEAN + SPREAD * rng.normal(size=(count, 2, 2, 1)), jnp.float32)
    return Batch(image, None, None, jnp.ones(count, bool), jnp.arange(count))


def losses(error=0.0, pairs=Pairs(), batch=None, network=EXACT):  # noqa: B008
    batch = batch or make_batch()
    keys = fold_keys(jax.random.key(3), batch.index)
    _, time_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    t, s = flow_map.draw_pairs(time_keys, pairs)
    values = flow_map.loss(network, make_params(error), batch, Condition(), keys, None, pairs)
    return np.asarray(values), np.asarray(t), np.asarray(s)


def test_pairs_are_in_order_and_have_the_shares_asked_for():
    keys = jax.random.split(jax.random.key(0), 4000)
    t, s = flow_map.draw_pairs(keys, Pairs(diagonal=0.25, whole=0.4))
    assert float(jnp.min(s - t)) >= 0 and float(t.min()) >= 0 and float(s.max()) <= 1
    np.testing.assert_allclose(jnp.mean(s == t), 0.25, atol=0.02)
    np.testing.assert_allclose(jnp.mean((t == 0) & (s == 1)), 0.75 * 0.4, atol=0.02)
    between = np.asarray((s > t) & (t > 0))
    assert np.mean(t[between]) < 0.35 and np.mean(s[between]) > 0.7


def test_the_exact_map_of_a_gaussian_has_no_loss_but_the_steps_error():
    values, t, s = losses(pairs=Pairs(ratio=0.01, power=0.0))
    far = s > t
    assert values[far].max() < 2e-3 and values[~far].mean() > 0.05
    rough, *_ = losses(pairs=Pairs(ratio=0.1, power=0.0))
    assert rough[far].mean() > 5 * values[far].mean(), "the error of Euler's step grows with it"


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_an_error_is_weighed_by_its_size(power):
    ratio, error = 0.02, 0.7
    values, t, s = losses(error, Pairs(ratio=ratio, power=power))
    # The rest of the jump has the same error: only the teacher's share differs.
    square = error**2
    expected = ratio * square / (square + flow_map.FLOOR) ** power
    np.testing.assert_allclose(values[s > t], expected, rtol=0.25)


def test_the_weight_and_the_target_have_no_gradient():
    batch = make_batch(8)
    keys = fold_keys(jax.random.key(3), batch.index)
    pairs = Pairs(diagonal=0.0, ratio=0.02, power=0.5)

    def total(error):
        params = make_params() | {"error": error}
        return flow_map.loss(EXACT, params, batch, Condition(), keys, None, pairs).sum()

    # d/de a (r e)^2 w / r^2, r = a: 2 e a w / a for each, with w = 1 / sqrt(e^2 + floor) fixed
    error = 0.7
    expected = 8 * 2 * error / np.sqrt(error**2 + flow_map.FLOOR)
    np.testing.assert_allclose(jax.grad(total)(jnp.float32(error)), expected, rtol=0.1)


def test_on_the_diagonal_it_is_the_loss_of_the_flow():
    values, t, _s = losses(0.3, Pairs(diagonal=1.0))
    batch = make_batch()
    keys = fold_keys(jax.random.key(3), batch.index)
    noise_keys, _ = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x0 = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))(noise_keys)
    x_t, own = flow.linear_path(x0, batch.image, jnp.asarray(t))
    expected = jnp.mean(jnp.square(velocity(x_t, jnp.asarray(t)) + 0.3 - own), axis=(1, 2, 3))
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_a_ratio_of_one_compares_with_the_teachers_velocity_alone():
    values, _t, _s = losses(0.0, Pairs(diagonal=0.0, whole=1.0, ratio=1.0, power=0.0))
    batch = make_batch()
    keys = fold_keys(jax.random.key(3), batch.index)
    noise_keys, _ = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x0 = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))(noise_keys)
    zero, one = jnp.zeros(256), jnp.ones(256)
    error = mean_velocity(x0, zero, one) - velocity(x0, zero)
    np.testing.assert_allclose(values, jnp.mean(jnp.square(error), axis=(1, 2, 3)), rtol=1e-4)


def test_the_samples_own_velocity_needs_no_teacher():
    batch, pairs = make_batch(8), Pairs(velocity="sample")
    keys = fold_keys(jax.random.key(3), batch.index)
    params = {"error": jnp.float32(0)}
    values = flow_map.loss(EXACT, params, batch, Condition(), keys, None, pairs)
    assert np.isfinite(values).all()


def test_no_derivative_in_time_is_taken():
    batch = make_batch(4)
    keys = fold_keys(jax.random.key(3), batch.index)
    calls = []

    def counted(params, x, t, context, key, s=None):
        calls.append(s is not None)
        return apply(params, x, t, context, key, s)

    network = Network(EXACT.encode, counted)
    make = lambda p: flow_map.loss(network, p, batch, Condition(), keys, None, Pairs()).sum()  # noqa: E731
    text = str(jax.make_jaxpr(make)(make_params()))
    assert calls == [True, False, True] and "jvp" not in text


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_exact_jumps_makes_the_same_image(steps):
    x0 = jnp.array(np.random.default_rng(1).normal(size=(6, 3, 3, 1)), jnp.float32)
    solution = flow_map.sample(EXACT, make_params(), x0, Condition(), Jumps(steps), True)
    np.testing.assert_allclose(solution.x, MEAN + SPREAD * x0, atol=1e-5)
    assert solution.calls.tolist() == solution.steps.tolist() == [steps] * 6
    assert solution.trajectory.shape == (steps + 1, *x0.shape)
    np.testing.assert_array_equal(solution.trajectory[-1], solution.x)


def test_the_velocity_of_a_map_may_be_integrated():
    x0 = jnp.array(np.random.default_rng(1).normal(size=(6, 3, 3, 1)), jnp.float32)
    solution = flow_map.sample(EXACT, make_params(), x0, Condition(), Solver("heun", 20))
    np.testing.assert_allclose(solution.x, MEAN + SPREAD * x0, atol=5e-3)
    assert solution.calls.tolist() == [40] * 6


def test_a_score_adds_that_of_two_images_of_one_call():
    batch = make_batch(8)
    keys = fold_keys(jax.random.key(3), batch.index)
    plain, *_ = losses(batch=batch)
    scored, *_ = losses(pairs=Pairs(energy_weight=2.0), batch=batch)
    noise_keys, _ = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    noises = [noise_keys, jax.vmap(lambda key: jax.random.fold_in(key, 1))(noise_keys)]
    images = [
        MEAN + SPREAD * jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))(each)
        for each in noises
    ]
    expected = 2 * local_energy_score(*images, batch.image)
    np.testing.assert_allclose(scored - plain, expected, rtol=1e-4, atol=1e-6)
