"""The table of methods: the solver of each, and what it refuses."""

import pytest

from motfm_jax import settings
from motfm_jax.methods import METHODS
from motfm_jax.methods.adversarial import OneCall
from motfm_jax.methods.diffusion import DDIM
from motfm_jax.methods.ode import Solver


def make_solver(method, name="", steps=None, **options):
    config = settings.default()
    config.diffusion.update(dict(schedule="cosine", spacing="trailing", eta=0.5))
    config.flow.shift = 0.5
    return METHODS[method].solver(config[METHODS[method].section], name, steps, options)


@pytest.mark.parametrize(
    "method, arguments, solver, calls",
    [
        ("flow", {}, Solver("euler", 10, shift=0.5), 10),
        ("flow", dict(name="heun", steps=3), Solver("heun", 3, shift=0.5), 6),
        ("flow", dict(steps=4, shift=3.0), Solver("euler", 4, shift=3.0), 4),
        ("flow", dict(name="adaptive", atol=1e-4), Solver("adaptive", atol=1e-4), None),
        ("flow_map", dict(name="euler", steps=3), Solver("euler", 3), 3),
        ("ddpm", {}, DDIM(50, 0.5, "cosine", "trailing"), 50),
        ("ddpm", dict(steps=7, eta=0.0, spacing="leading"), DDIM(7, 0.0, "cosine"), 7),
        ("spade", {}, OneCall(), 1),
    ],
)
def test_a_solver_takes_its_defaults_from_the_config(method, arguments, solver, calls):
    result = make_solver(method, **arguments)
    assert result == solver and type(result) is type(solver)
    assert result.num_calls == calls


@pytest.mark.parametrize(
    "method, arguments, message",
    [
        ("flow", dict(name="ddim"), "--solver=ddim: the run learned a flow"),
        ("flow", dict(eta=0.0), "--eta: the run learned a flow"),
        ("flow", dict(name="adaptive", steps=10), "--steps=10 with --solver=adaptive"),
        ("flow", dict(rtol=1e-3), "only adaptive takes tolerances"),
        ("flow", dict(name="adaptive", shift=2.0), "--shift=2.0 with --solver=adaptive"),
        ("ddpm", dict(shift=2.0), "--shift: the run is a diffusion"),
        ("flow", dict(name="eular"), "use one of euler"),
        ("flow", dict(guidance=1, guidance_interval=(5, 6)), "guidance interval"),
        ("flow_map", dict(name="ddim"), "--solver=ddim: the run learned a flow, which"),
        ("ddpm", dict(name="heun"), "--solver=heun: the run is a diffusion"),
        ("ddpm", dict(rtol=0.1, atol=0.1), "--rtol, --atol: the run is a diffusion.*leave them"),
        ("ddpm", dict(steps=0), "steps=0: DDIM visits 1 to 1000"),
        ("spade", dict(steps=2), "makes an image in one call"),
    ],
)
def test_a_solver_of_another_method_is_refused(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_solver(method, **arguments)
