"""The time embedding and the residual block of the UNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import draw, draws, make_settings

from motfm_jax.nn import blocks, layers


@pytest.mark.parametrize("features", [8, 9])
def test_time_is_embedded_in_cosines_and_sines(features):
    level = np.array([0.0, 1.0, 12.5, 999.0])
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    expected = np.zeros((4, features))
    expected[:, :4] = np.cos(level[:, None] * frequencies)
    expected[:, 4:8] = np.sin(level[:, None] * frequencies)
    result = blocks.sinusoidal_embedding(jnp.asarray(level, jnp.float32), features)
    np.testing.assert_allclose(result, expected, atol=3e-4)


def test_continuous_and_floored_time_agree_at_whole_levels_and_only_there():
    embed = {
        floor: blocks.TimeEmbedding(8, floor=floor, dtype=jnp.float32, rngs=draws())
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
    embed = blocks.TimeEmbedding(8, floor=False, dtype=jnp.float32, rngs=draws())
    t = np.array([0.0, 0.3, 1.0], np.float32)
    first, second = (
        (np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...], np.float64))
        for layer in (embed.linear1, embed.linear2)
    )
    h = np.asarray(blocks.sinusoidal_embedding(t * 999.0, 8), np.float64) @ first[0] + first[1]
    expected = h / (1 + np.exp(-h)) @ second[0] + second[1]
    assert expected.shape == (3, 32)
    np.testing.assert_allclose(embed(t), expected, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "resample, change", [(None, lambda x: x), ("up", layers.upsample), ("down", layers.downsample)]
)
def test_a_residual_block_starts_as_its_resampling(dims, resample, change):

    @jax.jit
    def run(x, embedding):
        block = blocks.ResBlock(8, 8, make_settings(dims=dims), draws(), resample=resample)
        return block(x, embedding, None), change(x)

    np.testing.assert_array_equal(*run(draw(2, *(4,) * dims, 8), draw(2, 32)))


def test_a_residual_block_is_its_formula():
    """norm, SiLU, average, convolution, time shift, norm, SiLU, convolution, plus the skip."""
    block = blocks.ResBlock(4, 8, make_settings(norm_groups=2), draws(), resample="down")
    block.conv2.kernel = nnx.Param(jnp.asarray(0.1 * draw(3, 3, 8, 8, seed=3)))
    x, embedding = jnp.asarray(draw(2, 4, 4, 4)), draw(2, 32, seed=1)
    h = block.conv1(layers.downsample(nnx.silu(block.norm1(x))))
    h = h + block.time_emb_proj(nnx.silu(embedding))[:, None, None]
    h = block.conv2(nnx.silu(block.norm2(h)))
    expected = block.skip_connection(layers.downsample(x)) + h
    assert float(jnp.abs(h).mean()) > 0.1
    np.testing.assert_allclose(block(x, embedding, None), expected, atol=1e-6)
