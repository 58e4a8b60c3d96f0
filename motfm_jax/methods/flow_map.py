"""Flow maps: jumps along the paths of a trained flow, so that one network call makes an image.

The mean velocity u(x, t, s) takes a point at time t to where the flow takes it at time s:
X(x, t, s) = x + (s - t) u(x, t, s). At s = t it is the flow's velocity. Training starts from a
flow, the teacher, and needs no derivative in time: a jump is compared with a small step of the
teacher followed by the rest of the jump.

Source: Boffi et al. 2024 (flow map matching); Peng et al. 2025 (SoFlow) and Zhang et al. 2025
(AlphaFlow), the discrete target; Lee et al. 2025 (Decoupled MeanFlow), the second time in the
decoder. Their time runs from image to noise, ours from noise to image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from motfm_jax.core import Array, Batch, Condition, Network, Params, normal_per_example
from motfm_jax.fields import choice, number, numbers, positive
from motfm_jax.methods import flow
from motfm_jax.methods.energy import local_energy_score
from motfm_jax.methods.method import TEACHER, Method, Solution, refuse_options

FLOOR = 1e-3  # added to a mean square before its power is taken


class Jumps(NamedTuple):
    """How a flow map is sampled: by jumps of equal length from noise to image.

    Attributes:
      steps: jumps, one network call each.
    """

    steps: int = 1

    name = "jump"  # beside those of `ode.Solver`
    draws_noise = False

    @property
    def num_steps(self) -> int:
        return self.steps

    @property
    def num_calls(self) -> int:
        return self.steps

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "steps": self.steps}


class Pairs(NamedTuple):
    """How times (t, s) are drawn, and how jumps between them are trained.

    Attributes:
      diagonal: share of examples with s = t, which train the velocity on real images.
      whole: share of the others that are the whole way, t = 0 and s = 1.
      means: of two normal variables; t and s are their sigmoids (logit-normal times), in order.
      ratio: the teacher's step is this share of a jump. The map that is learned follows Euler's
        method with steps of this share of the way that is left.
      power: p of a jump's weight, see `loss`.
      velocity: "teacher", or "sample" for the velocity of the example's own straight path.
      energy_weight: of the energy score of one-call images; 0 leaves it out.
    """

    diagonal: float = 0.375
    whole: float = 0.3
    means: tuple[float, float] = (-1.0, 1.5)
    ratio: float = 0.2
    power: float = 0.5
    velocity: str = "teacher"
    energy_weight: float = 0.0


def draw_pairs(keys: Array, pairs: Pairs) -> tuple[Array, Array]:
    """Times t <= s in [0, 1], one key an example: keys [B] -> [B], [B]."""

    def one(key: Array) -> tuple[Array, Array]:
        kind, first, second = jax.random.split(key, 3)
        choices, uniform = jax.random.uniform(kind, (2,)), jax.random.uniform(first)
        times = jax.nn.sigmoid(jax.random.normal(second, (2,)) + jnp.array(pairs.means))
        t, s = times.min(), times.max()
        whole = choices[1] < pairs.whole
        t, s = jnp.where(whole, 0.0, t), jnp.where(whole, 1.0, s)
        diagonal = choices[0] < pairs.diagonal
        return jnp.where(diagonal, uniform, t), jnp.where(diagonal, uniform, s)

    return jax.vmap(one)(keys)


def loss(
    network: Network,
    params: Params,
    batch: Batch,
    condition: Condition,
    keys: Array,
    dropout_key: Array | None,
    pairs: Pairs,
) -> Array:
    """Error of the mean velocity, per example.

    With a = ratio and l = t + a (s - t), a jump is compared with
    a v(x_t, t) + (1 - a) u(x_l, l, s), where x_l = x_t + (l - t) v(x_t, t), v is the teacher and
    this u has no gradient. Where the teacher is exact and a is small, the solution is the mean
    velocity of its flow. With q the difference divided by a, the loss of a jump is
    a mean(q^2) / (mean(q^2) + FLOOR)^power, whose weight has no gradient. At s = t it is that of
    `flow.loss`. With an `energy_weight`, two images made in one call from x0 and from other noise
    are compared with the real one too, see `energy.local_energy_score`.

    Args:
      network: the flow map, and with the teacher's weights the velocity.
      params: of the flow map by name, and of the teacher by TEACHER + name.
      batch, condition, keys, dropout_key: see `flow.loss`.
      pairs: see `Pairs`.

    Returns:
      [B] float32.
    """
    x0, noise_keys, time_keys = flow.draw_start(batch, keys)
    t, s = draw_pairs(time_keys, pairs)
    x_t, own = flow.linear_path(x0, batch.image, t)
    ways = [(x_t, t, s)]
    if pairs.energy_weight:
        second_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(noise_keys)
        second = normal_per_example(second_keys, batch.image.shape[1:])
        ways += [(noise, jnp.zeros_like(t), jnp.ones_like(t)) for noise in (x0, second)]
    u, *whole = _mean_velocities(network, params, ways, condition, dropout_key)

    step = pairs.ratio * (s - t)
    velocity = own
    if pairs.velocity == "teacher":
        teacher = {
            name.removeprefix(TEACHER): leaf
            for name, leaf in params.items()
            if name.startswith(TEACHER)
        }
        velocity = network.apply(teacher, x_t, t, network.encode(teacher, condition), None)
    fixed = jax.lax.stop_gradient(params)
    x_l = x_t + _per_example(step, x_t) * velocity
    rest = network.apply(fixed, x_l, t + step, network.encode(fixed, condition), dropout_key, s)
    target = jax.lax.stop_gradient(pairs.ratio * velocity + (1 - pairs.ratio) * rest)

    axes = tuple(range(1, u.ndim))
    at_velocity = jnp.mean(jnp.square(u - own), axis=axes)
    at_target = jnp.mean(jnp.square(u - target), axis=axes) / pairs.ratio
    weight = jax.lax.stop_gradient((at_target / pairs.ratio + FLOOR) ** -pairs.power)
    losses = jnp.where(s == t, at_velocity, weight * at_target)
    if not pairs.energy_weight:
        return losses
    score = local_energy_score(x0 + whole[0], second + whole[1], batch.image)
    return losses + pairs.energy_weight * score


def _mean_velocities(
    network: Network,
    params: Params,
    ways: Sequence[tuple[Array, Array, Array]],
    condition: Condition,
    dropout_key: Array | None,
) -> list[Array]:
    """u of several (x, t, s) of one condition, by one call of a larger batch: one program."""
    x, t, s = (jnp.concatenate(parts) for parts in zip(*ways))
    repeated = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(ways)), condition)
    u = network.apply(params, x, t, network.encode(params, repeated), dropout_key, s)
    return jnp.split(u, len(ways))


def _per_example(values: Array, like: Array) -> Array:
    """[B] -> [B, 1, .., 1]."""
    return jnp.expand_dims(values, tuple(range(1, like.ndim)))


def sample(
    network: Network,
    params: Params,
    x0: Array,
    condition: Condition,
    solver: Any,
    trajectory: bool = False,
) -> Solution:
    """Takes x0 to images, by jumps or, with an `ode.Solver`, along the velocity u(x, t, t).

    Args:
      network, params: the flow map.
      x0, condition, trajectory: see `flow.sample`.
      solver: `Jumps`, or an `ode.Solver`.
    """
    if not isinstance(solver, Jumps):
        return flow.sample(network, params, x0, condition, solver, trajectory)
    params = network.prepare(params)
    context = network.encode(params, condition)
    times = jnp.linspace(0.0, 1.0, solver.steps + 1)

    def jump(x: Array, ends: tuple[Array, Array]) -> tuple[Array, Array | None]:
        t, s = (jnp.full(x.shape[:1], end) for end in ends)
        x = x + _per_example(s - t, x) * network.apply(params, x, t, context, None, s)
        return x, x if trajectory else None

    x0 = x0.astype(jnp.float32)
    x, states = jax.lax.scan(jump, x0, (times[:-1], times[1:]))
    steps = jnp.full(x0.shape[:1], solver.steps, jnp.int32)
    return Solution(
        x, steps, steps, None if states is None else jnp.concatenate([x0[None], states])
    )


def _loss(settings, network, params, batch, condition, keys, dropout_key) -> Array:
    pairs = Pairs(
        settings.diagonal,
        settings.whole,
        tuple(settings.means),
        settings.ratio,
        settings.power,
        settings.velocity,
        settings.energy_weight,
    )
    return loss(network, params, batch, condition, keys, dropout_key, pairs)


def _sample(network, params, x0, condition, solver, keys, trajectory) -> Solution:
    return sample(network, params, x0, condition, solver, trajectory)


def _solver(settings: Any, name: str, steps: int | None, options: Mapping[str, Any]) -> Any:
    if name not in ("", Jumps.name):
        return flow.METHOD.solver(settings, name, steps, options)
    refuse_options(options, "a flow map jumps from noise to image in --steps equal jumps")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: a flow map makes at least 1 jump")
    return Jumps(steps or 1)


def _check(config: Any) -> None:
    flow.METHOD.check(config)
    train = config.train
    if config.flow_map.energy_weight and config.flow.source != "noise":
        raise ValueError(
            f"config.flow_map.energy_weight={config.flow_map.energy_weight} with "
            f"config.flow.source={config.flow.source!r}: it compares images of different noise; "
            "set it to 0"
        )
    if not train.teacher:
        raise ValueError(
            "config.train.teacher is empty: a flow map starts from a trained flow, "
            "--config.train.teacher=RUN"
        )
    for name in ("base", "init_from"):
        if train[name]:
            raise ValueError(
                f"config.train.{name}={train[name]!r} with config.method='flow_map': it starts "
                "from config.train.teacher; leave it empty"
            )


METHOD = Method(
    section="flow_map",
    settings={
        "diagonal": number(0.375, high=1),
        "whole": number(0.3, high=1),
        "means": numbers((-1.0, 1.5), count=2),
        "ratio": positive(0.2, high=1),
        "power": number(0.5, high=1),
        "velocity": choice("teacher", "sample"),
        "energy_weight": number(0.0),
    },
    loss=_loss,
    solver=_solver,
    sample=_sample,
    check=_check,
    starts_from_images=True,
    distils=True,
)
