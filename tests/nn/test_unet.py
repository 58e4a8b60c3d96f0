"""The UNet's shapes, skips, heads, recomputation, precision and dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import draw, draws, make_settings, parameter_shapes, random_params

from motfm_jax.core import Condition
from motfm_jax.nn.control import velocity_network
from motfm_jax.nn.unet import UNet, skip_features

MINIMAL = make_settings(channels=(8,), attention=(True,))
X, T = draw(2, 4, 4, 1), np.array([0.5, 0.9], np.float32)


@functools.cache
def compiled(**changed):
    """(params, x, t, key) -> velocity of the one-level network with some settings changed."""
    network, _ = velocity_network(dataclasses.replace(MINIMAL, **changed))

    def velocity(params, x, t, key):
        return network.apply(params, x, t, network.encode(params, Condition()), key)

    return jax.jit(velocity)


@functools.cache
def params():
    return random_params(velocity_network(MINIMAL)[1])


def test_the_decoder_takes_the_skips_of_the_original_in_reverse():
    settings = make_settings(
        channels=(32, 64, 128, 224, 256), attention=(False,) * 5, res_blocks=2, norm_groups=32
    )
    assert len(skip_features(settings)) == 15
    shapes = parameter_shapes(velocity_network(settings)[1])
    inputs = [
        [shapes[f"unet/up_blocks/{level}/resnets/{block}/norm1/scale"][0] for block in range(3)]
        for level in range(5)
    ]
    assert inputs == [
        [512, 512, 480],
        [480, 448, 352],
        [352, 256, 192],
        [192, 128, 96],
        [96, 64, 64],
    ]


def test_levels_of_other_numbers_of_blocks():
    settings = make_settings(res_blocks=(2, 1), image_channels=3)
    assert skip_features(settings) == [8, 8, 8, 8, 16]
    shapes = parameter_shapes(velocity_network(settings)[1])
    inputs = [
        [shapes[f"unet/up_blocks/{level}/resnets/{block}/norm1/scale"][0] for block in blocks]
        for level, blocks in enumerate((range(2), range(3)))
    ]
    assert inputs == [[32, 24], [24, 16, 16]]
    assert "unet/up_blocks/0/resnets/2/norm1/scale" not in shapes


def velocity_of(network, params, x, condition):
    return network.apply(params, x, jnp.zeros(2), network.encode(params, condition), None)


def mean_square(velocity, params):
    return jnp.mean(jnp.square(velocity(params, X, T, None)))


@pytest.mark.parametrize("num_classes, mask_channels", [(0, 0), (3, 2)])
def test_two_and_three_dimensions_differ_in_one_argument(num_classes, mask_channels):
    names = []
    for dims in (2, 3):
        network, init = velocity_network(
            make_settings(dims=dims, image_channels=2, num_classes=num_classes), mask_channels
        )
        shapes = jax.eval_shape(init, jax.random.key(0))
        names.append(set(shapes))
        x = jax.ShapeDtypeStruct((2, *(4, 8, 6)[:dims], 2), jnp.float32)
        condition = Condition(
            mask=jnp.zeros((*x.shape[:-1], mask_channels)) if mask_channels else None,
            label=jnp.zeros((2, num_classes)) if num_classes else None,
        )
        velocity = jax.eval_shape(
            functools.partial(velocity_of, network),
            shapes,
            x,
            condition,
        )
        assert velocity.shape == x.shape and velocity.dtype == jnp.float32
        assert shapes["unet/encoder/conv_in/kernel"].shape == (3,) * dims + (2, 8)
        assert {leaf.dtype for leaf in shapes.values()} == {jnp.dtype("float32")}
    assert names[0] == names[1]


def test_the_number_of_heads_does_not_change_the_parameters():
    shapes = [
        parameter_shapes(velocity_network(make_settings(num_classes=3, head_dim=head_dim))[1])
        for head_dim in (0, 4, 16)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    heads = lambda head_dim: [make_settings(head_dim=head_dim).heads(level) for level in (0, 1)]  # noqa: E731
    assert [heads(0), heads(4), heads((2, 16))] == [[1, 1], [2, 4], [4, 1]]


def test_heads_and_kernels_are_chosen_for_the_channels_of_each_level():
    asked = []
    choose = make_settings().choose_attention
    for head_dim in (8, 0):
        settings = make_settings(
            head_dim=head_dim, choose_attention=lambda size: asked.append(size) or choose(size)
        )
        jax.eval_shape(velocity_network(settings)[1], jax.random.key(0))
    assert asked and set(asked) == {8, 16}


def test_heads_change_the_velocity():
    one = compiled()(params(), X, T, None)
    two = compiled(head_dim=4)(params(), X, T, None)
    assert float(jnp.abs(one - two).max()) > 1e-3


@pytest.mark.nightly
@pytest.mark.parametrize("policy", ["norms", "blocks"])
def test_recomputing_changes_no_gradient(policy):
    programs, gradients = [], []
    for remat in ("none", policy):
        velocity = compiled(remat=remat)
        loss = functools.partial(mean_square, velocity)
        gradients.append(jax.jit(jax.value_and_grad(loss))(params()))
        programs.append(str(jax.make_jaxpr(loss)(params())))
    assert ["checkpoint" in program or "remat" in program for program in programs] == [False, True]
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], rtol=1e-5)
    unused = {"unet/encoder/middle_block/attention/proj_attn"}
    for name, gradient in gradients[0][1].items():
        scale = float(jnp.abs(gradient).max())
        np.testing.assert_allclose(gradients[1][1][name], gradient, atol=1e-5 * max(scale, 1e-2))
        if "proj_attn" not in name and "to_k/bias" not in name:  # softmax ignores a common shift
            assert scale > 0, f"{name} has no part in the velocity"
        unused.discard(name.rpartition("/")[0]) if scale == 0 else None
    assert not unused


@pytest.mark.nightly
def test_bfloat16_is_close_to_float32_and_answers_in_float32():
    exact = np.asarray(compiled()(params(), X, T, None))
    rounded = compiled(dtype=jnp.bfloat16)(params(), X, T, None)
    assert rounded.dtype == jnp.float32
    difference = np.sqrt(np.mean(np.square(rounded - exact)))
    assert 1e-5 < difference / exact.std() < 0.03


@functools.cache
def compiled_gradients(dtype):
    """(params, scale) -> gradients of a mean square scaled so, scaled back; all in one vector."""
    velocity = compiled(dtype=dtype)

    def gradients(params, scale):
        loss = lambda params: scale * jnp.mean(jnp.square(velocity(params, X, T, None)))  # noqa: E731
        leaves = jax.tree.leaves(jax.grad(loss)(params))
        return jnp.concatenate([leaf.ravel() for leaf in leaves]) / scale

    return jax.jit(gradients)


@pytest.mark.nightly
@pytest.mark.parametrize("exponent", [-20, -60])
def test_gradients_do_not_underflow_in_bfloat16_so_that_no_loss_needs_scaling(exponent):
    """It has float32's exponents; in float16 they vanish, and losses are scaled up for that."""
    wanted = np.asarray(compiled_gradients(jnp.bfloat16)(params(), 1.0))
    found = np.asarray(compiled_gradients(jnp.bfloat16)(params(), 2.0**exponent))
    assert np.linalg.norm(found - wanted) < 2**-8 * np.linalg.norm(wanted)
    there = wanted != 0
    assert (found[there] != 0).mean() > 0.999
    assert ((wanted[there] * 2.0**exponent).astype(np.float16) == 0).mean() > 0.5


@pytest.mark.slow
def test_dropout_is_active_with_a_key_alone():
    exact = compiled()(params(), X, T, None)
    np.testing.assert_array_equal(compiled(dropout=0.3)(params(), X, T, None), exact)
    velocity = functools.partial(compiled(dropout=0.3), params(), X, T)
    first, again, other = (velocity(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    for one, two in ((first, exact), (first, other)):
        assert float(jnp.abs(one - two).max()) > 1e-3


def test_every_residual_block_draws_its_own_dropout():
    """With all channels alike, equal draws in two blocks would show as equal counts of keys."""
    network = nnx.eval_shape(
        lambda: UNet(
            make_settings(channels=(8, 8, 8), attention=(False,) * 3, res_blocks=(2, 1, 3)), draws()
        )
    )
    for levels, extra in ((network.encoder.down_blocks, 2), (network.up_blocks, 0)):
        found = [
            each.number for level in levels for each in (*level.resnets, level.resampler) if each
        ]
        if extra:
            middle = network.encoder.middle_block
            found += [middle.resnet_1.number, middle.resnet_2.number]
        assert found == list(range(len(found)))
    program = jax.make_jaxpr(compiled(dropout=0.3))(params(), X, T, jax.random.key(0))
    blocks = len({name.rpartition("/conv2/")[0] for name in params() if "/conv2/" in name})
    assert blocks == 5
    assert str(program).count("random_fold_in") == blocks


@pytest.mark.nightly
def test_floored_time_reaches_the_network():
    later = T + np.float32(1e-4)  # within the same level of the 1,000
    assert (np.floor(T * 999) == np.floor(later * 999)).all()
    floored = compiled(floor_time=True)
    np.testing.assert_array_equal(floored(params(), X, T, None), floored(params(), X, later, None))
    continuous = compiled()
    assert (
        float(
            jnp.abs(continuous(params(), X, T, None) - continuous(params(), X, later, None)).max()
        )
        > 1e-5
    )
