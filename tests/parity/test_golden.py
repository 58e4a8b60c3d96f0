"""Small networks against what the PyTorch original computed with the same weights."""

import functools

import jax
import pytest
from differences import (
    GOLDEN,
    TOLERANCES,
    golden_case,
    gradient_differences,
    loss_and_gradients,
    loss_difference,
    trajectory_difference,
    velocity_difference,
)

CASES = ["unconditional", "class", "mask", "mask_class", "unconditional_3d", "mask_class_3d"]
CASES += ["per_level"]  # residual blocks and heads that differ by level


def nightly_but(default):
    """All cases; those but the default run nightly."""
    marks = {name: [pytest.mark.nightly] * (name != default) for name in CASES}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=marks[name]) for name in CASES]
    )


@pytest.fixture(autouse=True)
def _full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def load(name):
    return golden_case(GOLDEN / f"{name}.npz")


@nightly_but("unconditional_3d")
def test_the_velocity_is_the_originals(name):
    assert velocity_difference(load(name)) <= TOLERANCES["velocity"]


@pytest.mark.slow
@nightly_but("mask_class")
def test_every_state_of_ten_euler_steps_is_the_originals(name):
    case = load(name)
    assert len(case.arrays["trajectory"]) == 11
    assert trajectory_difference(case) <= TOLERANCES["trajectory"]


@pytest.mark.slow
@nightly_but("mask_class")
def test_the_training_loss_and_the_gradient_of_every_parameter_are_the_originals(name):
    case = load(name)
    loss, gradients = loss_and_gradients(case)
    differences = gradient_differences(case, gradients)
    wrong = {
        name: value for name, value in differences.items() if not value <= TOLERANCES["gradient"]
    }
    assert not wrong
    assert loss_difference(case, loss) <= TOLERANCES["loss"]
