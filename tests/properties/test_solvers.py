"""What every solver solves exactly, how fast its error falls, and what a sample depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.methods import ode
from motfm_jax.methods.ode import Solver

ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4, "tsit5": 5, "dopri5": 5}
BATCH, DEGREE = 16, 5  # polynomials in t have DEGREE + 1 coefficients
SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.sampled_from((1, 2, 3, 7, 16, 40))  # each is a program


def field(t, x, args):
    """dx/dt = rate x + sum of coefficients t^k; rate is a complex number, x its two parts.

    Args:
      x: [B, 2].
      args: rates [B, 2], coefficients [B, DEGREE + 1, 2].
    """
    rate, coefficients = args
    turned = jnp.stack([-x[:, 1], x[:, 0]], axis=1)
    powers = t[:, None] ** jnp.arange(DEGREE + 1)[None]
    return rate[:, :1] * x + rate[:, 1:] * turned + (powers[..., None] * coefficients).sum(axis=1)


@functools.cache
def program(name, steps):
    """x(1) from (x0, args), in float64."""
    solver = Solver(name, steps, rtol=1e-6, atol=1e-6)
    return jax.jit(lambda x0, args: ode.integrate(field, x0, args, solver).x)


def solve(name, x0, rate, coefficients, steps=0):
    with jax.enable_x64(True):
        return np.asarray(program(name, steps)(x0, (rate, coefficients)))


def drawn(seed):
    """A start, rates and coefficients."""
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(BATCH, 2)),
        random.uniform(-1, 1, (BATCH, 2)),
        random.normal(size=(BATCH, DEGREE + 1, 2)),
    )


@pytest.mark.parametrize("name", ode.SOLVERS)
@given(seed=SEEDS, steps=STEPS)
def test_a_polynomial_in_time_below_the_order_is_integrated_exactly(name, seed, steps):
    x0, rate, coefficients = drawn(seed)
    order = ORDERS.get(name, 5)  # "adaptive" is Tsit5
    coefficients[:, order:] = 0
    expected = x0 + (coefficients / np.arange(1, DEGREE + 2)[:, None]).sum(axis=1)
    found = solve(name, x0, 0 * rate, coefficients, steps)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("name", ORDERS)
@given(seed=SEEDS)
def test_a_polynomial_of_the_order_is_not(name, seed):
    """Without this the test above could pass for a solver of a higher order."""
    x0, rate, coefficients = drawn(seed)
    coefficients = np.zeros_like(coefficients)
    coefficients[:, ORDERS[name]] = 1
    error = solve(name, x0, 0 * rate, coefficients, 1) - x0 - 1 / (ORDERS[name] + 1)
    assert np.abs(error).min() > 1e-5


def solution(x0, rate, coefficients):
    """x(1) = exp(rate) x0 + sum of coefficients I_k, I_k the integral of exp(rate (1 - t)) t^k
    over [0, 1], by parts; all as complex numbers, coefficients [B, DEGREE + 1]."""
    integral = (np.exp(rate) - 1) / rate
    total = np.exp(rate) * x0 + coefficients[:, 0] * integral
    for power in range(1, DEGREE + 1):
        integral = (power * integral - 1) / rate
        total += coefficients[:, power] * integral
    return total


def error_of(name, seed, steps=0):
    """Root mean square over linear equations, rate x + polynomial, that grow, decay or turn.

    Over many, since the error of one may vanish for reasons of its own.
    """
    x0, rate, coefficients = drawn(seed)
    rate *= np.random.default_rng(seed).uniform(0.5, 1, (BATCH, 1)) / np.linalg.norm(
        rate, axis=1, keepdims=True
    )
    expected = solution(*(array @ (1, 1j) for array in (x0, rate, coefficients)))
    found = solve(name, x0, rate, coefficients, steps) @ (1, 1j)
    return np.sqrt(np.mean(np.abs(found - expected) ** 2))


@pytest.mark.parametrize("name", ORDERS)
@given(seed=SEEDS)
def test_the_error_on_linear_equations_falls_with_the_order(name, seed):
    errors = [error_of(name, seed, steps) for steps in (16, 32)]
    assert errors[1] > 1e-12, "at rounding: the slope would mean nothing"
    assert abs(np.log2(errors[0] / errors[1]) - ORDERS[name]) < 0.6, errors


@given(seed=SEEDS)
def test_adaptive_keeps_to_its_tolerance_on_linear_equations(seed):
    assert error_of("adaptive", seed) < 1e-5  # ten times its tolerance


@pytest.mark.parametrize("name", ode.SOLVERS)
@given(seed=SEEDS, others=SEEDS, steps=STEPS, row=st.integers(0, BATCH - 1))
def test_a_sample_is_the_same_bit_for_bit_whatever_its_batch_mates(name, seed, others, steps, row):
    mine, theirs = drawn(seed), drawn(others)
    for array, other in zip(mine, theirs):
        other[row] = array[row]
    theirs[1][np.arange(BATCH) != row] *= 30  # other lengths of an adaptive solve
    np.testing.assert_array_equal(solve(name, *mine, steps)[row], solve(name, *theirs, steps)[row])
