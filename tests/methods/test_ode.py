"""Counts of steps and network calls; tests/properties/test_solvers.py has the accuracy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.methods import ode
from motfm_jax.methods.ode import Solver, integrate, num_calls

FIXED = [name for name in ode.SOLVERS if name != "adaptive"]


def counted(field):
    """The field, and a list that gets the time of each call made while the program runs."""
    times = []

    def counting(t, x, args):
        jax.debug.callback(lambda t: times.append(float(t)), t[0])
        return field(t, x, args)

    return counting, times


@pytest.mark.parametrize("num_steps", [1, 49, 1000])
def test_the_program_calls_the_field_once_per_euler_step_at_equally_spaced_times(num_steps):
    field, times = counted(lambda t, x, args: -x)
    solution = jax.jit(lambda x: integrate(field, x, None, Solver("euler", num_steps)))(
        jnp.ones((3, 2))
    )
    jax.effects_barrier()
    assert solution.steps.tolist() == [num_steps] * 3
    np.testing.assert_allclose(sorted(times), np.arange(num_steps) / num_steps, atol=1e-6)
    assert len(times) == num_calls(Solver("euler", num_steps), num_steps) == num_steps


@pytest.mark.parametrize(
    "name, per_step, first",
    [
        ("euler", 1, 0),
        ("heun", 2, 0),
        ("midpoint", 2, 0),
        ("rk4", 4, 0),
        ("tsit5", 6, 1),
        ("dopri5", 6, 1),
    ],
)
def test_calls_are_what_the_table_says(name, per_step, first):
    field, times = counted(lambda t, x, args: -x * t[:, None])
    solution = jax.jit(lambda x: integrate(field, x, None, Solver(name, 3)))(jnp.ones((2, 1)))
    jax.effects_barrier()
    assert solution.steps.tolist() == [3, 3]
    assert len(times) == num_calls(Solver(name, 3), 3) == first + 3 * per_step
    assert solution.calls.tolist() == [len(times)] * 2


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(
    "shift, starts", [(3.0, [0, 1 / 10, 1 / 4, 1 / 2]), (0.5, [0, 2 / 5, 2 / 3, 6 / 7])]
)
def test_a_shift_moves_the_steps_and_costs_no_call(name, shift, starts):
    field, times = counted(lambda t, x, args: jnp.ones_like(x) + t[:, None])
    solver = Solver(name, 4, shift=shift)
    solve = jax.jit(lambda x: integrate(field, x, None, solver, trajectory=True))
    solution = solve(jnp.zeros((2, 1)))
    jax.effects_barrier()
    starts = np.array(starts)  # t / (t + shift (1 - t)) of 0, 1/4, 1/2, 3/4
    assert solution.steps.tolist() == [4, 4]
    assert len(times) == num_calls(solver, 4) == solution.calls[0]
    assert all(np.abs(np.array(times) - start).min() < 1e-6 for start in starts)
    if name == "euler":
        np.testing.assert_allclose(sorted(times), starts, atol=1e-6)
    else:  # exact for a velocity that is linear in time
        ends = np.append(starts, 1)
        np.testing.assert_allclose(solution.trajectory[:, 0, 0], ends + ends**2 / 2, atol=1e-5)


def test_a_shifted_program_calls_no_host():
    solver = Solver("heun", 4, shift=3.0)
    program = jax.jit(lambda x: integrate(lambda t, x, args: -x, x, None, solver).x)
    assert "callback" not in program.lower(jnp.ones((2, 1))).as_text()


def test_the_trajectory_holds_every_state_from_start_to_end():
    x0 = jnp.array([[1.0], [2.0]])
    solution = integrate(lambda t, x, args: x, x0, None, Solver("euler", 5), trajectory=True)
    expected = np.asarray(x0) * (1.2 ** np.arange(6))[:, None, None]
    np.testing.assert_allclose(solution.trajectory, expected, rtol=1e-6)
    np.testing.assert_array_equal(solution.trajectory[-1], solution.x)
    plain = integrate(lambda t, x, args: x, x0, None, Solver("euler", 5))
    assert plain.trajectory is None
    np.testing.assert_allclose(plain.x, solution.x, rtol=1e-6)


def oscillation(t, x, rate):
    return rate * jnp.cos(rate * t[:, None])


def test_adaptive_calls_are_counted_and_tighter_tolerances_cost_more_and_err_less():
    rate = jnp.array([[20.0]])
    errors, counts = [], []
    for tolerance in (1e-2, 1e-5):  # the second rejects its first attempt
        field, times = counted(oscillation)
        solver = Solver("adaptive", rtol=tolerance, atol=tolerance)
        solution = jax.jit(functools.partial(integrate, field, args=rate, solver=solver))(
            jnp.zeros((1, 1))
        )
        jax.effects_barrier()
        counts.append(len(times))
        assert counts[-1] == solution.calls[0]
        rejections = counts[-1] - num_calls(solver, int(solution.steps[0]))
        assert rejections == (tolerance < 1e-3)
        errors.append(abs(float(solution.x[0, 0]) - np.sin(20.0)))
    assert counts[1] > counts[0] and errors[1] < errors[0] and errors[1] < 1e-4


def test_an_adaptive_solve_that_runs_out_of_steps_gives_nan_and_not_an_image(monkeypatch):
    monkeypatch.setattr(ode, "MAX_ADAPTIVE_STEPS", 6)
    rates = jnp.array([[0.1], [500.0]])
    solution = integrate(oscillation, jnp.zeros((2, 1)), rates, Solver("adaptive"))
    assert np.isfinite(solution.x[0, 0]) and np.isnan(solution.x[1, 0])


@pytest.mark.parametrize(
    "solver, trajectory, message",
    [
        (Solver("eular"), False, "solver 'eular': use one of euler, heun"),
        (Solver("euler", 0), False, "steps=0: a solver makes at least 1 step"),
        (Solver("euler", shift=0.0), False, "shift=0.0: above 0"),
        (Solver("adaptive", rtol=0.0), False, "tolerances rtol=0.0"),
        (Solver("adaptive"), True, "no trajectory"),
    ],
)
def test_what_cannot_be_solved_is_refused(solver, trajectory, message):
    with pytest.raises(ValueError, match=message):
        integrate(lambda t, x, args: x, jnp.ones((1, 1)), None, solver, trajectory)
