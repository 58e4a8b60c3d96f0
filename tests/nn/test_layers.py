"""Resampling, normalisation, dropout, convolutions, and how layers start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import draw, draws

from motfm_jax.nn import layers

SPACES = [(4, 6), (4, 2, 6)]


@pytest.mark.parametrize("space", SPACES)
def test_upsample_repeats_along_every_axis(space):
    x = draw(2, *space, 3)
    expected = x
    for axis in range(1, 1 + len(space)):
        expected = np.repeat(expected, 2, axis)
    np.testing.assert_array_equal(layers.upsample(jnp.asarray(x)), expected)


@pytest.mark.parametrize("space", SPACES)
def test_downsample_is_the_mean_of_blocks(space):
    x = draw(2, *space, 3)
    found = np.asarray(layers.downsample(jnp.asarray(x)))
    assert found.shape == (2, *(size // 2 for size in space), 3)
    for index in np.ndindex(found.shape[1:-1]):
        block = tuple(slice(2 * i, 2 * i + 2) for i in index)
        expected = x[:, *block].astype(np.float64).mean(axis=tuple(range(1, 1 + len(space))))
        np.testing.assert_allclose(found[:, *index], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (50.0, 0.1)])
@pytest.mark.parametrize("one_pass", [False, True])
def test_group_norm_follows_the_formula_in_float64(space, mean, std, one_pass):
    features, groups = 12, 4
    norm = layers.GroupNorm(features, groups=groups, dtype=jnp.float32, one_pass=one_pass)
    norm.scale = nnx.Param(jnp.asarray(1 + draw(features, seed=1)))
    norm.bias = nnx.Param(jnp.asarray(draw(features, seed=2)))
    x = (mean + std * draw(2, *space, features)).astype(np.float32)

    grouped = x.astype(np.float64).reshape(2, -1, groups, features // groups)
    centred = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    variance = np.square(centred).mean(axis=(1, 3), keepdims=True)
    normalised = (centred / np.sqrt(variance + 1e-6)).reshape(x.shape)
    expected = normalised * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x), expected, atol=3e-4 if mean else 1e-5)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("one_pass", [False, True])
def test_group_norm_takes_a_shift_of_each_channel(space, one_pass):
    norm = layers.GroupNorm(12, groups=4, dtype=jnp.float32, one_pass=one_pass)
    norm.scale = nnx.Param(jnp.asarray(1 + draw(12, seed=1)))
    x, shift, g = draw(2, *space, 12), 30 * draw(2, 12, seed=2), draw(2, *space, 12, seed=3)
    added = lambda x, shift: norm(  # noqa: E731
        x + shift.reshape(2, *(1 for _ in space), 12)
    )
    np.testing.assert_allclose(norm(x, shift), added(x, shift), atol=3e-5)
    for found, expected in zip(
        *(jax.vjp(function, x, shift)[1](g) for function in (norm, added)), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_group_norm_computes_in_float32_and_answers_in_its_dtype():
    x = (50 + 0.1 * draw(1, 8, 8, 8)).astype(np.float32)
    exact = layers.GroupNorm(8, groups=2, dtype=jnp.float32)(x)
    rounded = layers.GroupNorm(8, groups=2, dtype=jnp.bfloat16)(x)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (100.0, 1.0), (0.0, 1e-3)])
def test_layer_norm_and_its_derivatives_are_those_of_the_formula(mean, std):
    x, dx, g = (draw(2, 7, 24, seed=seed) for seed in range(3))
    x, norm = mean + std * x, layers.LayerNorm(24, dtype=jnp.float32)
    norm.scale[...], norm.bias[...] = draw(24, seed=3), draw(24, seed=4)

    def formula(x):
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normed = centred / jnp.sqrt(variance + 1e-5)
        return normed * norm.scale[None, None] + norm.bias[None, None]

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    for ours, expected in zip(jax.jvp(norm, (x,), (dx,)), jax.jvp(formula, (x,), (dx,))):
        close(ours, expected)
    close(jax.vjp(norm, x)[1](g)[0], jax.vjp(formula, x)[1](g)[0])


def test_layer_norm_computes_in_float32_and_answers_in_its_dtype():
    x = draw(2, 7, 24).astype(jnp.bfloat16)
    exact, rounded = (layers.LayerNorm(24, dtype=dtype)(x) for dtype in (jnp.float32, jnp.bfloat16))
    np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    x = jnp.ones((4, 5000))
    dropped = np.asarray(layers.dropout(x, 0.25, jax.random.key(0)))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert abs((dropped == 0).mean() - 0.25) < 0.02
    assert layers.dropout(x, 0.25, None) is x
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x


def test_layers_start_within_one_over_the_square_root_of_their_inputs():
    rngs = draws()
    for layer, fan_in in (
        (layers.linear(64, 50, dtype=jnp.float32, rngs=rngs), 64),
        (layers.conv(5, 40, layers.Compute(2), rngs), 45),
        (layers.conv(5, 40, layers.Compute(3), rngs), 135),
        (layers.conv(64, 40, layers.Compute(2), rngs, kernel=1), 64),
    ):
        for values in (layer.kernel[...], layer.bias[...]):
            largest = float(np.abs(values).max()) * fan_in**0.5
            assert 0.85 < largest <= 1 + 1e-6
    zero = layers.conv(5, 4, layers.Compute(2), rngs, zero=True)
    assert not np.any(zero.kernel[...]) and not np.any(zero.bias[...])


@pytest.mark.parametrize("kernel, space", [(1, (8, 9)), (3, (40, 33)), (3, (5, 3, 4))])
def test_a_convolution_in_the_forms_of_a_cpu_is_the_convolution(kernel, space):
    plain, other = (
        layers.conv(3, 5, layers.Compute(len(space), platform=platform), draws(), kernel=kernel)
        for platform in ("any", "cpu")
    )
    assert str(jax.make_jaxpr(plain)(draw(2, *space, 3))) != str(
        jax.make_jaxpr(other)(draw(2, *space, 3))
    )
    x = draw(2, *space, 3)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(other(x), plain(x), rtol=1e-5, atol=1e-5)


def test_a_convolution_on_a_cpu_computes_in_its_dtype_and_leaves_strides_to_xla():
    other = layers.conv(2, 4, layers.Compute(3, jnp.bfloat16, "cpu"), draws())
    assert other(draw(1, 2, 2, 2, 2)).dtype == jnp.bfloat16
    strided = layers.conv(2, 4, layers.Compute(2, platform="cpu"), draws(), stride=2)
    assert strided(draw(1, 6, 6, 2)).shape == (1, 3, 3, 4)


@pytest.mark.parametrize(
    "compute, options",
    [
        (layers.Compute(2), {}),
        (layers.Compute(2), {"kernel": 4, "stride": 2}),
        (layers.Compute(2), {"kernel": 1, "use_bias": False}),
        (layers.Compute(3, jnp.bfloat16), {}),
    ],
)
def test_a_convolution_is_that_of_flax(compute, options):
    own = layers.conv(3, 5, compute, draws(), **options)
    flax = nnx.Conv(
        3,
        5,
        own.kernel_size,
        strides=own.strides,
        padding=own.padding,
        dtype=own.dtype,
        use_bias=own.use_bias,
        rngs=nnx.Rngs(0),
    )
    nnx.update(flax, nnx.state(own))
    x = draw(2, *(9, 8, 7)[: compute.dims], 3)
    assert own(x).dtype == compute.dtype
    np.testing.assert_array_equal(own(x), flax(x))


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_derivative_of_a_bias_adds_up_in_float32(kind):
    if kind == "linear":
        layer = layers.linear(4, 3, dtype=jnp.bfloat16, rngs=draws())
    else:
        layer = layers.conv(4, 3, layers.Compute(2, jnp.bfloat16), draws())
    graph, params = nnx.split(layer)
    x, weight = draw(2, 64, 64, 4), draw(2, 64, 64, 3, seed=1)

    def loss(params):
        return jnp.sum(nnx.merge(graph, params)(x).astype(jnp.float32) * weight)

    exact = weight.astype(jnp.bfloat16).astype(np.float64).sum((0, 1, 2))
    sums = [
        equation
        for equation in jax.make_jaxpr(jax.grad(loss))(params).jaxpr.eqns
        if equation.primitive.name == "reduce_sum" and equation.outvars[0].aval.shape == (3,)
    ]
    assert [each.invars[0].aval.dtype for each in sums] == [jnp.float32]
    found = jax.grad(loss)(params).bias[...]
    np.testing.assert_allclose(found, exact, atol=1e-3)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("space", [(5, 4), (3, 2, 4)])
def test_a_convolution_of_an_upsampled_image_does_not_need_it(space, platform):
    compute = layers.Compute(len(space), platform=platform)
    layer = layers.conv(3, 6, compute, draws())
    x, g = draw(2, *space, 3), draw(2, *(2 * size for size in space), 6, seed=1)

    def plain(layer, x):
        return layer.unbiased(layers.upsample(x))

    def ours(layer, x):
        return layer.unbiased_upsampled(x)

    graph, state = nnx.split(layer)
    (expected, pull), (found, pull_ours) = (
        jax.vjp(lambda state, x, f=f: f(nnx.merge(graph, state), x), state, jnp.asarray(x))
        for f in (plain, ours)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(*(jax.tree.leaves(pulled(g)) for pulled in (pull_ours, pull))):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_convolution_takes_an_image_in_parts():
    layer, x = layers.conv(5, 6, layers.Compute(2), draws()), draw(2, 4, 6, 5)
    np.testing.assert_allclose(layer(x[..., :2], x[..., 2:]), layer(x), atol=1e-6)
