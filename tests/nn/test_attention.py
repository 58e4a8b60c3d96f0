"""Attention against plain softmax, the one-token shortcut, GEGLU, and what has no effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import draw, draws, make_settings, random_params
from scipy.special import erf, softmax

from motfm_jax.nn import attention, layers
from motfm_jax.nn.functional import functional

FEATURES = 16


def plain_attention(query, key, value, heads):
    """Softmax attention in float64, head by head: [B, T, C] each."""
    size = query.shape[-1] // heads
    outputs = []
    for head in range(heads):
        q, k, v = (
            np.asarray(x, np.float64)[..., head * size : (head + 1) * size]
            for x in (query, key, value)
        )
        outputs.append(softmax(q @ k.swapaxes(1, 2) / np.sqrt(size), axis=-1) @ v)
    return np.concatenate(outputs, axis=-1)


@pytest.mark.parametrize("heads", [1, 4])
def test_attend_is_softmax_attention(heads):
    query, key, value = (3 * draw(2, 10, FEATURES, seed=seed) for seed in range(3))
    expected = plain_attention(query, key, value, heads)
    result = attention.attend(query, key, value, heads, "xla")
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_attention_in_bfloat16_is_as_exact_as_its_inputs():
    inputs = [jnp.asarray(3 * draw(2, 64, 24, seed=seed), jnp.bfloat16) for seed in range(3)]
    expected = plain_attention(*(np.asarray(x, np.float32) for x in inputs), 1)
    result = np.asarray(attention.attend(*inputs, 1, "xla"), np.float64)
    assert np.sqrt(np.square(result - expected).mean()) < 0.007


def test_attention_to_one_token_is_the_full_cross_attention():
    layer = attention.TokenAttention(FEATURES, 4, dtype=jnp.float32, rngs=draws())
    token, x = draw(3, 4), draw(3, 10, FEATURES, seed=1)
    for projection, seed in ((layer.to_q, 2), (layer.to_k, 3)):
        projection.kernel = nnx.Param(jnp.asarray(3 * draw(*projection.kernel.shape, seed=seed)))
    context = token[:, None]
    attended = plain_attention(layer.to_q(x), layer.to_k(context), layer.to_v(context), 2)
    full = layer.to_out(jnp.asarray(attended, jnp.float32))
    shortcut = jnp.broadcast_to(layer(token)[:, None], x.shape)
    assert float(jnp.std(shortcut)) > 0.05
    np.testing.assert_allclose(full, shortcut, atol=1e-5)


def test_feed_forward_gates_with_the_exact_gelu():
    layer = attention.FeedForward(FEATURES, dtype=jnp.float32, rngs=draws())
    x = 4 * draw(2, 5, FEATURES)
    h = np.asarray(layer.linear1(x), np.float64)
    signal, gate = h[..., : 4 * FEATURES], h[..., 4 * FEATURES :]
    gated = signal * gate * 0.5 * (1 + erf(gate / np.sqrt(2)))
    expected = gated @ np.asarray(layer.linear2.kernel[...]) + np.asarray(layer.linear2.bias[...])
    np.testing.assert_allclose(layer(x), expected, atol=2e-5)
    approximate = layer.linear2(signal * nnx.gelu(jnp.asarray(gate), approximate=True))
    assert np.abs(approximate - expected).max() > 1e-4, "the test can tell the two GELUs apart"


@pytest.mark.parametrize("space", [(2, 6), (2, 2, 3)])
def test_the_attention_block_is_its_formula_and_proj_attn_has_no_effect(space):
    block = attention.AttentionBlock(1, make_settings(), draws())
    x = jnp.asarray(draw(2, *space, FEATURES))
    tokens = block.norm(x).reshape(2, -1, FEATURES)
    attended = plain_attention(*(f(tokens) for f in (block.to_q, block.to_k, block.to_v)), 2)
    expected = np.asarray(x) + attended.reshape(x.shape)
    np.testing.assert_allclose(block(x, None), expected, atol=1e-5)
    block.proj_attn.kernel = nnx.Param(block.proj_attn.kernel[...] + 1)
    np.testing.assert_allclose(block(x, None), expected, atol=1e-5)
    assert block.encode(None) is None


def make_transformer(layers, rngs=None):
    settings = make_settings(num_classes=4, transformer_layers=layers)
    return attention.SpatialTransformer(1, settings, rngs or draws())


def test_a_transformer_starts_as_the_identity():
    transformer = make_transformer(layers=2)
    x, label = draw(2, 2, 4, FEATURES), jax.nn.one_hot(jnp.array([0, 3]), 4)
    values = transformer.encode(label)
    assert [value.shape for value in values] == [(2, FEATURES)] * 2
    np.testing.assert_array_equal(transformer(x, values), x)


def test_a_transformer_is_its_formula():
    transformer = make_transformer(layers=1)
    transformer.proj_out.kernel = nnx.Param(jnp.eye(FEATURES)[None, None])
    x, label = jnp.asarray(draw(2, 2, 4, FEATURES)), jax.nn.one_hot(jnp.array([0, 3]), 4)
    (block,) = transformer.transformer_blocks
    tokens = transformer.proj_in(transformer.norm(x)).reshape(2, 8, FEATURES)
    normed, attn = block.norm1(tokens), block.attn1
    tokens += attn.to_out(
        jnp.asarray(
            plain_attention(attn.to_q(normed), attn.to_k(normed), attn.to_v(normed), 2), jnp.float32
        )
    )
    tokens += block.attn2.to_out(block.attn2.to_v(label))[:, None]
    tokens += block.ff(block.norm3(tokens))
    expected = x + tokens.reshape(x.shape)
    np.testing.assert_allclose(transformer(x, transformer.encode(label)), expected, atol=3e-5)


@pytest.mark.nightly
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counts the instructions of a CPU")
def test_gradients_of_a_chain_of_blocks_are_not_computed_again_in_each(monkeypatch):
    """With autodiff's LayerNorm they are, and with ours where its terms come in another order."""
    module, init = functional(lambda draws: make_transformer(4, draws))
    params, x, label = random_params(init), draw(1, 8, 8, FEATURES), draw(1, 4)

    def instructions():
        def loss(params):
            transformer = module(params)
            return jnp.sum(transformer(x, transformer.encode(label)) ** 2)

        return jax.jit(jax.grad(loss)).lower(params).compile().as_text().count(" = ")

    ours = instructions()
    monkeypatch.setattr(layers, "standardise", lambda x: layers._standardise(x)[0])
    assert ours < 0.6 * instructions()
