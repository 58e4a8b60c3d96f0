"""Where paths from noise to image begin and end, and that the velocity is their derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.methods.diffusion import (
    DDIM,
    LEVELS,
    add_noise,
    alpha_bar,
    ddim_step,
    ddim_steps,
)
from motfm_jax.methods.flow import draw_times, linear_path

SHAPE = (3, 4, 5, 2)
SEEDS = st.integers(0, 2**32 - 1)
TIMES = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3)

path = jax.jit(linear_path)
slope = jax.jit(  # of the point, by the time
    lambda x0, x1, t: jax.jvp(lambda t: linear_path(x0, x1, t)[0], (t,), (jnp.ones_like(t),))[1]
)
times = jax.jit(draw_times, static_argnums=1)


def ends(seed):
    """Noise and image."""
    return np.random.default_rng(seed).normal(size=(2, *SHAPE)).astype(np.float32)


@given(SEEDS)
def test_a_path_begins_at_its_noise_and_ends_at_its_image(seed):
    x0, x1 = ends(seed)
    np.testing.assert_array_equal(path(x0, x1, np.zeros(3, np.float32))[0], x0)
    np.testing.assert_array_equal(path(x0, x1, np.ones(3, np.float32))[0], x1)


@given(SEEDS, TIMES)
def test_the_velocity_is_the_derivative_and_leads_from_any_point_to_the_image(seed, t):
    x0, x1 = ends(seed)
    t = np.array(t, np.float32)
    point, velocity = path(x0, x1, t)
    np.testing.assert_allclose(slope(x0, x1, t), velocity, atol=1e-6)
    left = (1 - t)[:, None, None, None]
    np.testing.assert_allclose(point + left * velocity, x1, atol=5e-6)


@given(SEEDS, TIMES)
def test_an_example_goes_along_its_own_path(seed, t):
    x0, x1 = ends(seed)
    t = np.array(t, np.float32)
    turned = [2, 0, 1]
    for one, other in zip(path(x0, x1, t), path(x0[turned], x1[turned], t[turned])):
        np.testing.assert_array_equal(one[np.array(turned)], other)


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
@given(seed=SEEDS)
def test_a_time_lies_within_the_path_and_comes_from_its_own_key(distribution, seed):
    keys = jax.random.split(jax.random.key(seed), 64)
    t = times(keys, distribution)
    assert t.min() >= 0 and t.max() <= 1 and len(np.unique(t)) > 32
    np.testing.assert_array_equal(times(keys[::-1], distribution), t[::-1])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@given(seed=SEEDS, level=st.lists(st.integers(0, LEVELS - 1), min_size=3, max_size=3))
def test_a_diffusion_keeps_the_variance_and_loses_the_image_level_by_level(schedule, seed, level):
    x0, x1 = ends(seed)
    share = alpha_bar(schedule)
    assert 0 < share[-1] < 5e-5 and 0.999 < share[0] < 1 and (np.diff(share) < 0).all()
    level = np.array(level)
    signal = add_noise(np.zeros_like(x0), np.ones_like(x1), level, schedule)
    noise = add_noise(np.ones_like(x0), np.zeros_like(x1), level, schedule)
    np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-6)
    state = add_noise(x0, x1, level, schedule)
    np.testing.assert_allclose(state, signal * x1 + noise * x0, atol=1e-6)


@given(
    SEEDS,
    st.integers(1, LEVELS),
    st.sampled_from(["leading", "trailing"]),
    st.sampled_from(["linear", "cosine"]),
)
def test_ddim_that_knows_the_noise_stays_on_the_path_and_ends_at_the_image(
    seed, steps, spacing, schedule
):
    x0, x1 = ends(seed).astype(np.float64)
    table = ddim_steps(DDIM(steps, schedule=schedule, spacing=spacing))
    x = table.signal[0] * x1 + table.noise[0] * x0
    # The tables are float32, and the least signal, by which the state is divided, 4e-3 or 5e-5.
    close = 5e-4 if schedule == "linear" else 1e-2
    for index, step in enumerate(map(type(table)._make, zip(*table))):
        x = ddim_step(x, x0, step, clip=False, fresh=None)
        if index + 1 < steps:
            expected = table.signal[index + 1] * x1 + table.noise[index + 1] * x0
            np.testing.assert_allclose(x, expected, atol=close)
    np.testing.assert_allclose(x, x1, atol=close)
