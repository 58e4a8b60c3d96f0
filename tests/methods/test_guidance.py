"""Guided velocities, the calls they cost, and conditions that are dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_bundle

from motfm_jax import build
from motfm_jax.core import Batch, Condition, Network, drop_condition
from motfm_jax.methods import flow, ode
from motfm_jax.methods.guidance import GUIDE, Guidance, guided, with_guide
from motfm_jax.methods.ode import Solver
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.generate import Request
from motfm_jax.sampling.sample import settings_of


def scaled(times=None):
    """The velocity scale * (1 + label), everywhere and always; `times` gets those of its calls."""

    def apply(params, x, t, context, key):
        if times is not None:
            jax.debug.callback(lambda t: times.append(float(t)), t[0])
        return params["scale"] * (1 + context[:, None]) * jnp.ones_like(x)

    return Network(lambda params, condition: condition.label @ jnp.arange(1.0, 3.0), apply)


LABELS, PARAMS = Condition(label=jnp.eye(2)), {"scale": jnp.float32(0.5)}
X = jnp.zeros((2, 3))


def solve(network, params, solver):
    return jax.jit(lambda x: flow.sample(network, params, x, LABELS, solver))(X)


def test_guidance_leads_away_from_the_velocity_without_the_condition():
    solution = solve(scaled(), PARAMS, Solver("euler", 2, guidance=Guidance(3.0)))
    own, weak = np.array([1.0, 1.5]), 0.5
    np.testing.assert_allclose(solution.x[:, 0], weak + 3 * (own - weak), rtol=1e-6)
    assert solution.calls.tolist() == [4, 4] and solution.steps.tolist() == [2, 2]


def test_another_network_guides_with_weights_of_its_own():
    network = with_guide(scaled(), scaled())
    params = PARAMS | {GUIDE + "scale": jnp.float32(0.1)}
    solution = solve(network, params, Solver("euler", 2, guidance=Guidance(2.0, guide="other")))
    own, weak = np.array([1.0, 1.5]), np.array([0.2, 0.3])
    np.testing.assert_allclose(solution.x[:, 0], weak + 2 * (own - weak), rtol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        Solver("euler", 10),  # whose steps begin at the ends of the interval
        Solver("heun", 5, shift=2.0),
        Solver("tsit5", 3),
    ],
)
def test_outside_the_interval_the_weak_network_is_not_called(solver):
    times, solver = [], solver._replace(guidance=Guidance(2.0, (0.2, 0.8)))
    solution = solve(scaled(times), PARAMS, solver)
    jax.effects_barrier()
    # A time at which both are called occurs twice.
    calls = ode.call_times(solver)
    inside = (calls > 0.1999) & (calls < 0.8001)
    assert 0 < inside.sum() < len(calls)
    expected = sorted([*calls, *calls[inside]])
    np.testing.assert_allclose(sorted(times), expected, atol=1e-5)
    assert solution.calls.tolist() == [len(times)] * 2 == [solver.num_calls] * 2
    assert "callback" not in jax.jit(lambda x: solve(scaled(), PARAMS, solver)).lower(X).as_text()


def test_the_guided_steps_alone_are_pushed():
    solver = Solver("euler", 10, guidance=Guidance(2.0, (0.5, 1.0)))
    solution = solve(scaled(), PARAMS, solver)
    np.testing.assert_allclose(solution.x[0], 0.5 * 1.0 + 0.5 * (0.5 + 2 * 0.5), rtol=1e-5)
    assert solution.calls.tolist() == [15, 15]


def test_adaptive_calls_both_networks_at_every_time():
    field = guided(scaled(), Guidance(2.0, (0.2, 0.8)))
    plain = solve(scaled(), PARAMS, Solver("adaptive"))
    solution = solve(scaled(), PARAMS, Solver("adaptive", guidance=Guidance(1.0)))
    np.testing.assert_array_equal(solution.calls, 2 * plain.calls)
    t = jnp.full(2, 0.1)
    own = field.apply(PARAMS, X, t, field.encode(PARAMS, LABELS), None)
    np.testing.assert_allclose(own[:, 0], [1.0, 1.5])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(guidance=-1.0), "guidance=-1.0: give a number of 0 or more"),
        (dict(guidance=2.0, guidance_interval=(0.8, 0.2)), r"interval \(0.8, 0.2\): give two"),
        (dict(guidance_interval=(0.2, 0.8)), "--guidance-interval without --guidance"),
        (dict(guidance=2.0), "--guidance=2: runs/x was not trained without its condition"),
    ],
)
def test_guidance_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_bundle(cond="class").solver(**options)


def test_a_model_may_be_guided_by_one_of_the_same_conditions_alone():
    model, guide = make_bundle(cond="class"), make_bundle(cond="class")
    together = model.guided_by(guide)
    with pytest.raises(ValueError, match="--guide without --guidance"):
        together.solver()
    solver = together.solver(guidance=2.0)
    assert solver.num_calls == 20 and solver.guidance.guide == "abc at step 7"
    with pytest.raises(ValueError, match=r"--guide=runs/x: its condition is mask, class needed"):
        model.guided_by(make_bundle(cond="mask"))
    with pytest.raises(ValueError, match="--guide=runs/x: its method is ddpm, flow needed"):
        model.guided_by(make_bundle(cond="class", method="ddpm"))


def test_images_of_another_guidance_are_other_images():
    model = make_bundle(cond="class", train__drop_condition=0.1)
    conditions = Conditions(2, labels=np.zeros(2, np.int32))
    found = [
        settings_of(model, conditions, Request(model.solver(**options)))["solver"]
        for options in ({}, {"guidance": 1}, {"guidance": 2, "guidance_interval": (0, 0.5)})
    ]
    plain = {"name": "euler", "steps": 10}
    assert found == [plain, plain, plain | {"guidance": {"weight": 2.0, "interval": [0.0, 0.5]}}]


def test_no_condition_is_unlike_any_condition():
    onehot = jax.nn.one_hot(jnp.zeros((2, 4, 4), jnp.int32), 3)  # background everywhere
    scalar = jnp.zeros((2, 4, 4, 1))
    for mask in (onehot, scalar):
        condition = Condition(mask, jnp.eye(2))
        dropped = drop_condition(condition, jnp.array([False, True]))
        for some, kept in zip(dropped[:2], condition[:2]):
            np.testing.assert_array_equal(some[0], kept[0])
            assert not np.isclose(some[1], kept[1]).all()
        assert np.unique(dropped.mask[1]).size == 1 and not dropped.label[1].any()
    assert drop_condition(Condition()) == Condition()


def test_training_drops_the_share_of_conditions_that_validation_keeps():
    network = Network(
        lambda params, condition: condition.label.sum(-1),
        lambda params, x, t, context, key: 100 * context[:, None, None, None] * jnp.ones_like(x),
    )
    model = make_bundle(cond="class", train__drop_condition=0.25)
    parts = build.Parts(network, network, None)
    loss = build.loss(model.config, build.Architecture(parts, model.condition, jnp.float32))
    batch = Batch(
        np.zeros((400, 4, 4, 1), np.float32),
        None,
        np.zeros(400, np.int32),
        np.ones(400, bool),
        np.arange(400),
    )
    keys = jax.random.split(jax.random.key(0), 400)
    dropped = np.asarray(jax.jit(loss)({}, batch, keys, jax.random.key(1))) < 1000
    assert 0.18 < dropped.mean() < 0.32
    again = np.asarray(jax.jit(loss)({}, batch, keys, jax.random.key(2))) < 1000
    np.testing.assert_array_equal(again, dropped)
    assert (np.asarray(loss({}, batch, keys, None)) > 1000).all()
