"""The tables of levels, single steps and ten steps, as MONAI and diffusers computed them."""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Condition, Network
from motfm_jax.methods import diffusion
from motfm_jax.methods.diffusion import DDIM

GOLDEN = Path(__file__).parents[1] / "golden" / "diffusion"
VISITED, ETAS, DDPM_LEVELS = (0, 4, 9), (0.0, 0.5, 1.0), (999, 500, 1, 0)
SPACED = [(s, p) for s in ("linear", "cosine") for p in ("leading", "trailing")]


@functools.cache
def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def estimate_noise(params, x, t, context, dropout_key):
    """The stand-in for a network that the references were recorded with."""
    level = (t * 999.0)[:, None, None, None]
    return x * (0.9 + level / 10000) + x / (5 + x * x)


NETWORK = Network(lambda params, condition: None, estimate_noise)


@pytest.mark.parametrize(
    "reference, prefix, schedule",
    [
        ("monai", "", "linear"),
        ("diffusers", "linear_", "linear"),
        ("diffusers", "cosine_", "cosine"),
    ],
)
def test_levels_and_noised_images_are_the_references(reference, prefix, schedule):
    arrays = load(reference)
    share = diffusion.alpha_bar(schedule)
    np.testing.assert_allclose(share, arrays[f"{prefix}alpha_bar"], rtol=2e-5)
    for level, expected in zip((0, 1, 250, 998, 999), arrays[f"{prefix}noised"], strict=True):
        levels = jnp.full(3, level)
        found = diffusion.add_noise(arrays["x0"], arrays["x1"], levels, schedule)
        np.testing.assert_allclose(found, expected, atol=5e-6)


def one_step(ddim, number, x0, fresh):
    """The level and the result of a step of the stand-in, fed with given fresh noise."""
    step = diffusion.Steps(*(table[number] for table in diffusion.ddim_steps(ddim)))
    t = jnp.full(len(x0), diffusion.TIMES[step.level])
    predicted = estimate_noise({}, x0, t, None, None)
    return step.level, diffusion.ddim_step(x0, predicted, step, ddim.clip, fresh)


def assert_steps_agree(ddim, x0, expected, fresh):
    # At the cosine's last level the references' float32 has no digits left of 1 - alpha_bar.
    tolerance = 1e-4 if ddim.schedule == "cosine" and ddim.eta == 1 else 5e-6
    for n, number in enumerate(VISITED):
        level, found = one_step(ddim, number, x0, fresh[n])
        np.testing.assert_allclose(found, expected[n], atol=tolerance, err_msg=f"level {level}")


@pytest.mark.parametrize("number, eta", list(enumerate(ETAS)))
def test_single_steps_are_the_references(number, eta):
    arrays = load("monai")
    assert_steps_agree(
        DDIM(10, eta, clip=False),
        arrays["x0"],
        arrays["steps"][:, number],
        arrays["fresh"][:, number],
    )
    arrays = load("diffusers")
    for schedule, spacing in SPACED:
        case = f"{schedule}_{spacing}"
        assert_steps_agree(
            DDIM(10, eta, schedule, spacing),
            arrays["x0"],
            arrays[f"{case}_steps"][:, number],
            arrays[f"{case}_fresh"][:, number],
        )


def test_ancestral_steps_between_neighbouring_levels_are_ddpm():
    arrays, x0 = load("monai"), load("monai")["x0"]
    for wanted, expected, fresh in zip(
        DDPM_LEVELS, arrays["ddpm"], arrays["ddpm_fresh"], strict=True
    ):
        level, found = one_step(DDIM(1000, 1.0, clip=False), 999 - wanted, x0, fresh)
        assert level == wanted
        # The references' float32 keeps three digits of 1 - alpha_bar near the image.
        tolerance = 5e-4 if level < 2 else 1e-6
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=f"level {level}")


def test_ten_steps_are_the_references():
    arrays = load("monai")
    found = diffusion.sample(
        NETWORK, {}, arrays["x0"], Condition(), DDIM(10, clip=False), trajectory=True
    )
    np.testing.assert_allclose(found.trajectory, arrays["trajectory"], atol=2e-5)
    np.testing.assert_array_equal(found.x, found.trajectory[-1])
    arrays = load("diffusers")
    for schedule, spacing in SPACED:
        ddim, case = DDIM(10, 0.0, schedule, spacing), f"{schedule}_{spacing}"
        np.testing.assert_array_equal(diffusion.ddim_steps(ddim).level, arrays[f"{case}_levels"])
        found, free = (
            diffusion.sample(NETWORK, {}, arrays["x0"], Condition(), case, trajectory=True)
            for case in (ddim, ddim._replace(clip=False))
        )
        expected = arrays[f"{case}_trajectory"]
        np.testing.assert_allclose(found.trajectory, expected, atol=2e-5, err_msg=case)
        assert np.abs(free.trajectory - expected).max() > 0.01, "clipping is part of the case"
