"""The whole velocity network: how it starts, its conditions, and what is encoded once."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw, make_settings, parameter_shapes, random_params

from motfm_jax.core import Condition
from motfm_jax.methods import flow
from motfm_jax.methods.ode import Solver
from motfm_jax.nn.control import attach, velocity_network

CLASSES, MASK_CHANNELS, MASK_WIDTH = 7, 5, 6  # sizes found nowhere else in the network
ZERO_OUTPUTS = ("skip_convs", "middle_conv", "mask_embedding/conv_out")


@functools.cache
def conditional():
    """A small network with both conditions: its functions and its compiled velocity."""
    network, init = velocity_network(make_settings(num_classes=CLASSES), MASK_CHANNELS, MASK_WIDTH)

    def velocity(params, x, t, condition):
        return network.apply(params, x, t, network.encode(params, condition), None)

    return network, init, jax.jit(velocity)


def start(wanted, seed=0):
    """Initial values of the parameters whose names are wanted; the others are not computed."""
    init = conditional()[1]
    return jax.jit(lambda key: {name: value for name, value in init(key).items() if wanted(name)})(
        jax.random.key(seed)
    )


def make_inputs():
    mask = jax.nn.one_hot(np.random.default_rng(0).integers(0, 5, (3, 8, 8)), MASK_CHANNELS)
    condition = Condition(mask=np.array(mask), label=np.eye(CLASSES, dtype=np.float32)[[0, 2, 5]])
    return draw(3, 8, 8, 1), np.array([0.1, 0.5, 0.9], np.float32), condition


@pytest.mark.nightly
def test_with_a_trained_unet_attached_the_whole_begins_as_that_unet():
    settings = make_settings(num_classes=CLASSES)
    alone, init_unet = velocity_network(settings)
    network, init = velocity_network(settings, MASK_CHANNELS, MASK_WIDTH)
    unet = random_params(init_unet)
    params = attach(init(jax.random.key(1)), unet)
    assert params.keys() == init(jax.random.key(1)).keys()
    x, t, condition = make_inputs()
    given, without = (
        net.apply(weights, x, t, net.encode(weights, condition), None)
        for net, weights in ((network, params), (alone, unet))
    )
    np.testing.assert_allclose(given, without, rtol=1e-5, atol=1e-6)
    assert np.abs(without).max() > 0.1
    for name, value in params.items():
        if name.startswith("controlnet/encoder/"):
            np.testing.assert_array_equal(value, unet["unet/" + name.split("/", 1)[1]])


def change_row(row):
    """The inputs with everything about one row changed."""
    x, t, condition = make_inputs()
    x[row], t[row] = -x[row] + 1, 1 - t[row] / 2
    condition.mask[row] = np.roll(condition.mask[row], 1, axis=-1)
    condition.label[row] = np.eye(CLASSES)[6]
    return x, t, condition


@pytest.mark.slow
def test_the_velocity_starts_at_zero():
    _, init, velocity = conditional()
    params = random_params(init) | start(lambda name: name.startswith("unet/conv_out"))
    found = velocity(params, *make_inputs())
    assert found.shape == (3, 8, 8, 1) and found.dtype == jnp.float32
    np.testing.assert_array_equal(found, 0)


def test_what_starts_at_zero():
    zeros = ("conv2/", "proj_out/", "conv_out/", *ZERO_OUTPUTS)
    names = [
        name for name in parameter_shapes(conditional()[1]) if any(zero in name for zero in zeros)
    ]
    assert len(names) == 2 * (15 + 6 + 2 + 4 + 1)  # blocks, transformers, outputs, skips, middle
    assert not any(np.any(value) for value in start(lambda name: name in names).values())


def test_the_mask_unet_starts_as_a_copy_of_the_encoder():
    init = conditional()[1]
    program = jax.make_jaxpr(init.__wrapped__)(jax.random.key(0)).jaxpr
    results = dict(zip(sorted(parameter_shapes(init)), program.outvars, strict=True))
    made_by = {variable: equation for equation in program.eqns for variable in equation.outvars}
    encoder = {name for name in results if name.startswith("unet/encoder/")}
    copies = {name for name in results if name.startswith("controlnet/encoder/")}
    assert {name.replace("unet/", "controlnet/", 1) for name in encoder} == copies
    for name in copies:
        equation = made_by[results[name]]
        assert equation.primitive.name == "copy", name
        assert equation.invars[0] is results[name.replace("controlnet/", "unet/", 1)], name
    name = "encoder/conv_in/kernel"
    values = start(lambda found: found.endswith(f"/{name}"))
    np.testing.assert_array_equal(values[f"unet/{name}"], values[f"controlnet/{name}"])


@pytest.mark.slow
def test_a_mask_has_no_effect_until_the_zero_convolutions_have_learned():
    _, init, velocity = conditional()
    params = random_params(init) | start(lambda name: any(zero in name for zero in ZERO_OUTPUTS))
    x, t, condition = make_inputs()
    found = velocity(params, x, t, condition)
    assert float(jnp.abs(found).max()) > 0.1
    other = condition._replace(mask=np.roll(condition.mask, 1, axis=-1))
    np.testing.assert_array_equal(velocity(params, x, t, other), found)

    unet, _ = velocity_network(make_settings(num_classes=CLASSES))
    alone = jax.jit(
        lambda params, x, t, label: unet.apply(
            params, x, t, unet.encode(params, Condition(label=label)), None
        )
    )
    own = {name: value for name, value in params.items() if name.startswith("unet/")}
    np.testing.assert_allclose(alone(own, x, t, condition.label), found, atol=1e-5)


def test_class_mask_time_and_image_matter_once_weights_are_random():
    _, init, velocity = conditional()
    params, (x, t, condition) = random_params(init), make_inputs()
    found = velocity(params, x, t, condition)
    for changed in (
        (x, t, condition._replace(label=np.roll(condition.label, 1, axis=-1))),
        (x, t, condition._replace(mask=np.roll(condition.mask, 1, axis=-1))),
        (x, 1 - t / 2, condition),
        (x + 1, t, condition),
    ):
        difference = jnp.abs(velocity(params, *changed) - found)
        assert float(difference.max(axis=(1, 2, 3)).min()) > 1e-3, "in every row"


def test_a_row_depends_on_that_row_alone():
    _, init, velocity = conditional()
    params = random_params(init)
    before, after = velocity(params, *make_inputs()), velocity(params, *change_row(2))
    np.testing.assert_allclose(after[:2], before[:2], atol=1e-6)
    assert float(jnp.abs(after[2] - before[2]).max()) > 1e-2


def equations(jaxpr, inside_loop=False):
    """(equation, whether it is in a loop's body), however deep."""
    for equation in jaxpr.eqns:
        yield equation, inside_loop
        loop = inside_loop or equation.primitive.name in ("while", "scan")
        for value in jax.tree.leaves(
            tuple(equation.params.values()),
            is_leaf=lambda value: isinstance(value, jax.extend.core.ClosedJaxpr | JAXPR),
        ):
            if isinstance(value, jax.extend.core.ClosedJaxpr):
                yield from equations(value.jaxpr, loop)
            elif isinstance(value, JAXPR):
                yield from equations(value, loop)


JAXPR = jax.extend.core.Jaxpr


def test_the_condition_is_encoded_outside_the_sampling_loop():
    network, init, _ = conditional()
    x, _, condition = make_inputs()
    program = jax.make_jaxpr(
        lambda params, x, condition: flow.sample(network, params, x, condition, Solver("heun", 4)).x
    )(jax.eval_shape(init, jax.random.key(0)), x, condition)

    places = {}
    for equation, inside in equations(program.jaxpr):
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            places.setdefault(equation.invars[1].aval.shape, []).append(inside)
    assert places[(3, 3, MASK_CHANNELS, MASK_WIDTH)] == [False]
    assert places[(3, 3, MASK_WIDTH, 8)] == [False]
    class_values = places[(CLASSES, 16)]  # attn2.to_v: 2 + 1 in the encoders and 2 on the way up
    assert len(class_values) == 6 and not any(class_values)
    assert all(places[(3, 3, 1, 8)]), "the first convolution of x is in the loop"


def test_weights_are_cast_before_the_solve_and_not_in_each_call():
    settings = make_settings(dtype=jnp.bfloat16, num_classes=CLASSES)
    network, init = velocity_network(settings, MASK_CHANNELS, MASK_WIDTH)
    params = {name: jnp.asarray(leaf) for name, leaf in random_params(init).items()}
    x, _, condition = make_inputs()

    def solve(network):
        return lambda params, x: flow.sample(network, params, x, condition, Solver("euler", 3)).x

    plain = network._replace(prepare=lambda params: params)
    np.testing.assert_array_equal(*(jax.jit(solve(each))(params, x) for each in (network, plain)))

    def casts(network):
        program = jax.make_jaxpr(solve(network))(params, x)
        kernels = {leaf.shape for name, leaf in params.items() if name.endswith("/kernel")}
        return [
            equation
            for equation, inside in equations(program.jaxpr)
            if inside
            and equation.primitive.name == "convert_element_type"
            and equation.invars[0].aval.shape in kernels
            and equation.outvars[0].aval.dtype == jnp.bfloat16
        ]

    assert len(casts(plain)) > 20 and not casts(network)
