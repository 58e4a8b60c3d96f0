"""From noise to images, whatever the method: the kind of solver says which."""

from motfm_jax.core import Array, Condition, Network, Params
from motfm_jax.methods import adversarial, diffusion, flow, ode
from motfm_jax.methods.adversarial import OneCall
from motfm_jax.methods.diffusion import DDIM
from motfm_jax.methods.ode import Solution

# Of a flow, of a diffusion, of a generator.
Solver = ode.Solver | DDIM | OneCall


def solve(
    network: Network,
    params: Params,
    x0: Array,
    condition: Condition,
    solver: Solver,
    keys: Array | None = None,
    trajectory: bool = False,
) -> Solution:
    """Runs the `sample` of the method that the solver belongs to.

    Args:
      network, params: the velocity field, the estimate of the noise, or the generator.
      x0: what images start from, [B, *S, C] float32.
      condition: of the same batch.
      solver: how.
      keys: [B], where DDIM draws fresh noise.
      trajectory: also return the states on the way.
    """
    if isinstance(solver, OneCall):
        return adversarial.sample(network, params, x0, condition, trajectory)
    if isinstance(solver, DDIM):
        return diffusion.sample(network, params, x0, condition, solver, keys, trajectory)
    return flow.sample(network, params, x0, condition, solver, trajectory)


def num_calls(solver: Solver) -> int:
    """Network calls an image; of a solver that does not choose its steps."""
    if isinstance(solver, ode.Solver):
        return ode.num_calls(solver, solver.steps)
    return solver.steps
