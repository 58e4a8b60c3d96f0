"""Resampling, normalisation, time embedding, dropout, residual blocks, and how layers start."""

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
def test_group_norm_follows_the_formula_in_float64(space, mean, std):
    features, groups = 12, 4
    norm = layers.GroupNorm(features, groups=groups, dtype=jnp.float32)
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
def test_group_norm_takes_a_shift_of_each_channel(space):
    norm = layers.GroupNorm(12, groups=4, dtype=jnp.float32)
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


@pytest.mark.parametrize("features", [8, 9])
def test_time_is_embedded_in_cosines_and_sines(features):
    level = np.array([0.0, 1.0, 12.5, 999.0])
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    expected = np.zeros((4, features))
    expected[:, :4] = np.cos(level[:, None] * frequencies)
    expected[:, 4:8] = np.sin(level[:, None] * frequencies)
    found = layers.sinusoidal_embedding(jnp.asarray(level, jnp.float32), features)
    np.testing.assert_allclose(found, expected, atol=3e-4)


def test_continuous_and_floored_time_agree_at_whole_levels_and_only_there():
    embed = {
        floor: layers.TimeEmbedding(8, floor=floor, dtype=jnp.float32, rngs=draws())
        for floor in (False, True)
    }
    levels = np.array([0, 1, 250, 998, 999], np.float32)
    at = levels / np.float32(999)
    assert (at * np.float32(999) == levels).all(), "these levels come back exactly in float32"
    between = (levels[:-1] + np.float32(0.5)) / np.float32(999)
    np.testing.assert_array_equal(embed[True](at), embed[False](at))
    np.testing.assert_array_equal(embed[True](between), embed[True](at[:-1]))
    difference = np.abs(np.asarray(embed[False](between) - embed[True](between))).max(axis=1)
    assert (difference > 1e-3).all()


def test_time_embedding_is_two_layers_with_silu_between():
    embed = layers.TimeEmbedding(8, floor=False, dtype=jnp.float32, rngs=draws())
    t = np.array([0.0, 0.3, 1.0], np.float32)
    first, second = (
        (np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...], np.float64))
        for layer in (embed.linear1, embed.linear2)
    )
    h = np.asarray(layers.sinusoidal_embedding(t * 999.0, 8), np.float64) @ first[0] + first[1]
    expected = h / (1 + np.exp(-h)) @ second[0] + second[1]
    assert expected.shape == (3, 32)
    np.testing.assert_allclose(embed(t), expected, atol=1e-5)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    x = jnp.ones((4, 5000))
    dropped = np.asarray(layers.dropout(x, 0.25, jax.random.key(0)))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert abs((dropped == 0).mean() - 0.25) < 0.02
    assert layers.dropout(x, 0.25, None) is x
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x


def test_layers_start_within_one_over_the_square_root_of_their_inputs():
    common = dict(dtype=jnp.float32, rngs=draws())
    for layer, fan_in in (
        (layers.linear(64, 50, **common), 64),
        (layers.conv(5, 40, dims=2, **common), 45),
        (layers.conv(5, 40, dims=3, **common), 135),
        (layers.conv(64, 40, dims=2, kernel=1, **common), 64),
    ):
        for values in (layer.kernel[...], layer.bias[...]):
            largest = float(np.abs(values).max()) * fan_in**0.5
            assert 0.85 < largest <= 1 + 1e-6
    zero = layers.conv(5, 4, dims=2, zero=True, **common)
    assert not np.any(zero.kernel[...]) and not np.any(zero.bias[...])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "resample, change", [(None, lambda x: x), ("up", layers.upsample), ("down", layers.downsample)]
)
def test_a_residual_block_starts_as_its_resampling(dims, resample, change):

    @jax.jit
    def run(x, embedding):
        block = layers.ResBlock(
            8,
            8,
            6,
            dims=dims,
            groups=4,
            dropout=0.0,
            dtype=jnp.float32,
            rngs=draws(),
            resample=resample,
        )
        return block(x, embedding, None), change(x)

    np.testing.assert_array_equal(*run(draw(2, *(4,) * dims, 8), draw(2, 6)))


def test_a_residual_block_is_its_formula():
    """norm, SiLU, average, convolution, time shift, norm, SiLU, convolution, plus the skip."""
    block = layers.ResBlock(
        4, 8, 6, dims=2, groups=2, dropout=0.0, dtype=jnp.float32, rngs=draws(), resample="down"
    )
    block.conv2.kernel = nnx.Param(jnp.asarray(0.1 * draw(3, 3, 8, 8, seed=3)))
    x, embedding = jnp.asarray(draw(2, 4, 4, 4)), draw(2, 6, seed=1)
    h = block.conv1(layers.downsample(nnx.silu(block.norm1(x))))
    h = h + block.time_emb_proj(nnx.silu(embedding))[:, None, None]
    h = block.conv2(nnx.silu(block.norm2(h)))
    expected = block.skip_connection(layers.downsample(x)) + h
    assert float(jnp.abs(h).mean()) > 0.1
    np.testing.assert_allclose(block(x, embedding, None), expected, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("space", [(8, 9), (40, 33), (5, 3, 4), (12, 9, 11)])
def test_a_convolution_in_the_forms_of_a_cpu_is_the_convolution(kernel, space):
    common = dict(dims=len(space), kernel=kernel, dtype=jnp.float32)
    plain = layers.conv(3, 5, rngs=draws(), **common)
    other = layers.conv(3, 5, rngs=draws(), on_cpu=True, **common)
    assert other.on_cpu and not plain.on_cpu
    x = draw(2, *space, 3)

    def loss(module, x):
        y = jnp.square(module(x))
        return jnp.mean(y * jnp.arange(5.0).reshape((1,) * (y.ndim - 1) + (5,)))

    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(other(x), plain(x), rtol=1e-5, atol=1e-5)
        wanted, made = (nnx.grad(loss, argnums=(0, 1))(module, x) for module in (plain, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), made, wanted)


def test_a_convolution_on_a_cpu_computes_in_its_dtype_and_keeps_strides_to_xla():
    other = layers.conv(2, 4, dims=3, dtype=jnp.bfloat16, rngs=draws(), on_cpu=True)
    assert other(draw(1, 2, 2, 2, 2)).dtype == jnp.bfloat16
    strided = layers.conv(2, 4, dims=2, dtype=jnp.float32, rngs=draws(), on_cpu=True, stride=2)
    assert not strided.on_cpu


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"kernel": 1},
        {"kernel": 4, "stride": 2, "padding": 2},
        {"use_bias": False},
        {"dims": 3},
        {"dtype": jnp.bfloat16},
    ],
)
def test_a_convolution_is_that_of_flax(options):
    options = {"dims": 2, "dtype": jnp.float32} | options
    own = layers.conv(3, 5, rngs=draws(), **options)
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
    x = draw(2, *(9, 8, 7)[: options["dims"]], 3)
    assert own(x).dtype == options["dtype"]
    np.testing.assert_array_equal(own(x), flax(x))
