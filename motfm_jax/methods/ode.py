"""Integration of dx/dt = v(t, x) from noise (t = 0) to image (t = 1) on Diffrax.

Fixed-step solvers make exactly the number of network calls their tableau says; `adaptive` solves
each sample of a batch by itself, so that no image depends on its batch-mates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Array
from motfm_jax.methods.guidance import Guidance
from motfm_jax.methods.method import Solution


class RK4(diffrax.AbstractERK):
    """The classical fourth-order Runge-Kutta method (Kutta 1901); no error estimate."""

    tableau = diffrax.ButcherTableau(
        c=np.array([0.5, 0.5, 1.0]),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.zeros(4),
        a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
    )
    interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        del terms
        return 4


class CountingController(diffrax.AbstractStepSizeController):
    """A step size controller that also counts the attempts rejected before the first success.

    Until a step is accepted the solver holds no velocity to reuse and evaluates it again at each
    attempt, so those attempts cost one call more.
    """

    controller: diffrax.AbstractStepSizeController

    def wrap(self, direction):
        return CountingController(self.controller.wrap(direction))

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        next_t, state = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return next_t, (state, jnp.array(False), jnp.array(0, jnp.int32))

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, state):
        inner, accepted, rejections = state
        keep, next_t0, next_t1, made_jump, inner, result = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, inner
        )
        accepted = accepted | keep
        rejections = rejections + (~accepted).astype(jnp.int32)
        return keep, next_t0, next_t1, made_jump, (inner, accepted, rejections), result


class Tableau(NamedTuple):
    """A Runge-Kutta scheme and its NFE: first + per_step * steps."""

    make: Callable[[], diffrax.AbstractSolver]
    per_step: int
    first: int


SOLVERS = {
    "euler": Tableau(diffrax.Euler, 1, 0),
    "heun": Tableau(diffrax.Heun, 2, 0),
    "midpoint": Tableau(diffrax.Midpoint, 2, 0),
    "rk4": Tableau(RK4, 4, 0),
    "tsit5": Tableau(diffrax.Tsit5, 6, 1),
    "dopri5": Tableau(diffrax.Dopri5, 6, 1),
    "adaptive": Tableau(diffrax.Tsit5, 6, 1),
}
MAX_ADAPTIVE_STEPS = 4096
FIRST_ADAPTIVE_STEP = 0.05


class Solver(NamedTuple):
    """How to integrate.

    Attributes:
      name: a key of SOLVERS. "adaptive" is Tsit5 with error control.
      steps: number of steps (not for "adaptive").
      rtol: relative tolerance of "adaptive".
      atol: absolute tolerance of "adaptive", in the intensity range of the images.
      guidance: of the velocity, or None; its network is called too.
      shift: moves the times between the steps towards noise (above 1) or the image (below 1), see
        `step_times`; 1 for equal steps.
    """

    name: str = "euler"
    steps: int = 10
    rtol: float = 1e-3
    atol: float = 1e-3
    shift: float = 1.0
    guidance: Guidance | None = None

    draws_noise = False

    @property
    def num_steps(self) -> int | None:
        return None if self.name == "adaptive" else self.steps

    @property
    def num_calls(self) -> int | None:
        return None if self.name == "adaptive" else num_calls(self, self.steps)

    def settings(self) -> dict[str, Any]:
        fields = ("name", "rtol", "atol") if self.name == "adaptive" else ("name", "steps")
        if self.shift != 1:
            fields += ("shift",)
        settings = {name: getattr(self, name) for name in fields}
        return settings | ({"guidance": self.guidance.settings()} if self.guidance else {})


def check_solver(solver: Solver) -> None:
    """Raises ValueError for a solver that does not exist or a setting it cannot take."""
    if solver.name not in SOLVERS:
        raise ValueError(f"solver {solver.name!r}: use one of {', '.join(SOLVERS)}")
    if solver.name == "adaptive":
        if solver.rtol <= 0 or solver.atol <= 0:
            raise ValueError(f"tolerances rtol={solver.rtol}, atol={solver.atol}: must be above 0")
    elif solver.steps < 1:
        raise ValueError(f"steps={solver.steps}: a solver makes at least 1 step")
    if not 0 < solver.shift < np.inf:
        raise ValueError(
            f"shift={solver.shift}: above 0 needed; 1 is equal steps, 2 shorter ones near noise"
        )


def step_times(steps: int, shift: float = 1.0) -> np.ndarray:
    """Times between the steps: t / (t + shift (1 - t)) of equally spaced t, [steps + 1] float64.

    With shift k the middle one of ten steps begins at 1 / (1 + k) in place of 1/2: k above 1 makes
    short steps near noise (t = 0) and long ones near the image, k below 1 the reverse.

    Source: Esser et al. 2024, equation 23, whose time runs from image to noise.
    """
    t = np.arange(steps + 1) / steps
    return t / (t + shift * (1 - t))


def call_times(solver: Solver) -> np.ndarray:
    """Times at which a fixed-step solver calls its field, one for each call."""
    scheme, times = SOLVERS[solver.name], step_times(solver.steps, solver.shift)
    tableau = getattr(scheme.make(), "tableau", None)
    later = () if tableau is None else tableau.c
    stages = np.array([*(() if scheme.first else (0.0,)), *later])
    within = times[:-1, None] + np.diff(times)[:, None] * stages
    return np.concatenate([np.zeros(scheme.first), within.ravel()])


def num_calls(solver: Solver, steps: Any) -> Any:
    """Network calls that `steps` steps of this solver cost, with those of a guiding network;
    "adaptive" makes one more for each attempt rejected before its first success, see
    `Solution.calls`."""
    scheme, guidance = SOLVERS[solver.name], solver.guidance
    calls = scheme.first + scheme.per_step * steps
    if guidance is None:
        return calls
    if solver.name == "adaptive" or guidance.always:
        return 2 * calls  # adaptive: one program for images at different times calls both networks
    return calls + int(guidance.applies(call_times(solver)).sum())


def integrate(
    field: Callable[[Array, Array, object], Array],
    x0: Array,
    args: object,
    solver: Solver,
    trajectory: bool = False,
) -> Solution:
    """Solves dx/dt = field(t, x, args) from t = 0 to t = 1.

    Args:
      field: (t [B], x [B, *S, C], args) -> velocity [B, *S, C]. With "adaptive" B is 1.
      x0: [B, *S, C] float32 at t = 0.
      args: pytree the field needs; every leaf's first axis is the batch.
      solver: see Solver.
      trajectory: also return x after every step; fixed-step solvers only.

    Raises:
      ValueError: unknown solver, no steps, or a trajectory asked of "adaptive".
    """
    check_solver(solver)
    if solver.name != "adaptive":
        return _integrate_fixed(field, x0, args, solver, trajectory)
    if trajectory:
        raise ValueError("solver 'adaptive' takes each image along its own times: no trajectory")
    return _integrate_adaptive(field, x0, args, solver)


def _integrate_fixed(field, x0, args, solver, trajectory) -> Solution:
    """Diffrax's steps in a scan of known length: `diffeqsolve`'s loop asks after each step whether
    the end is reached, which a GPU's host would have to wait for."""
    batch = x0.shape[0]
    term = diffrax.ODETerm(lambda t, x, args: field(jnp.full((batch,), t), x, args))
    scheme: Any = SOLVERS[solver.name].make()
    times = jnp.asarray(step_times(solver.steps, solver.shift), x0.dtype)

    def step(carry, ends):
        x, state = carry
        x, _, _, state, _ = scheme.step(term, *ends, x, args, state, made_jump=False)
        return (x, state), x if trajectory else None

    start = x0, scheme.init(term, times[0], times[1], x0, args)
    (x1, _), states = jax.lax.scan(step, start, (times[:-1], times[1:]))
    steps = jnp.full((batch,), solver.steps, jnp.int32)
    states = None if states is None else jnp.concatenate([x0[None], states])
    return Solution(x1, steps, num_calls(solver, steps), states)


def _integrate_adaptive(field, x0, args, solver) -> Solution:
    def one(x0, args):
        def velocity(t, x, args):
            args = jax.tree.map(lambda leaf: leaf[None], args)
            return field(jnp.full((1,), t), x[None], args)[0]

        solution: Any = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            SOLVERS["adaptive"].make(),
            t0=0.0,
            t1=1.0,
            dt0=FIRST_ADAPTIVE_STEP,
            y0=x0,
            args=args,
            stepsize_controller=CountingController(
                diffrax.PIDController(rtol=solver.rtol, atol=solver.atol)
            ),
            saveat=diffrax.SaveAt(t1=True, controller_state=True),
            adjoint=diffrax.ForwardMode(),
            throw=False,
            max_steps=MAX_ADAPTIVE_STEPS,
        )
        # A solve that ran out of steps must not pass for an image.
        failed = solution.result != diffrax.RESULTS.successful
        x1 = jnp.where(failed, jnp.nan, solution.ys[-1])
        steps = solution.stats["num_steps"].astype(jnp.int32)
        *_, rejections = solution.controller_state
        return x1, steps, num_calls(solver, steps) + rejections * (2 if solver.guidance else 1)

    return Solution(*jax.vmap(one)(x0, args))
