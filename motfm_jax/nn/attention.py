"""Attention over the positions of a feature map, with and without a class token.

Source: MONAI generative 0.2.3, `AttentionBlock` and `SpatialTransformer`, as MOTFM uses them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.nn.blocks import UNetSettings, group_norm
from motfm_jax.nn.dispatch import Implementation
from motfm_jax.nn.layers import Draws, LayerNorm, conv, linear


def attend(
    query: Array, key: Array, value: Array, heads: int, implementation: Implementation
) -> Array:
    """Multi-head attention: [B, T, C] each -> [B, T, C]; scale 1 / sqrt(C / heads).

    Args:
      implementation: of `dispatch.Choice`.
    """
    batch, tokens, features = query.shape
    query, key, value = (
        x.reshape(batch, tokens, heads, features // heads) for x in (query, key, value)
    )
    attended = jax.nn.dot_product_attention(query, key, value, implementation=implementation)
    return attended.reshape(batch, tokens, features)


class AttentionBlock(nnx.Module):
    """Self-attention between all positions, added to its input.

    The original's state dict holds an output projection that its forward pass never applies;
    `proj_attn` keeps its place so that weights can move both ways.
    """

    def __init__(self, level: int, settings: UNetSettings, rngs: Draws):
        features, dtype = settings.channels[level], settings.dtype
        self.norm = group_norm(features, settings)
        self.to_q = linear(features, features, dtype=dtype, rngs=rngs)
        self.to_k = linear(features, features, dtype=dtype, rngs=rngs)
        self.to_v = linear(features, features, dtype=dtype, rngs=rngs)
        self.proj_attn = linear(features, features, dtype=dtype, rngs=rngs)
        self.heads = settings.heads(level)
        self.implementation: Implementation = settings.attention_kernel(level)

    def encode(self, label: Array | None) -> None:
        """No part of this block depends on the class."""

    def __call__(self, x: Array, value: None) -> Array:
        """[B, *S, C] -> [B, *S, C]."""
        tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        attended = attend(
            self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), self.heads, self.implementation
        )
        return attended.reshape(x.shape) + x


class SelfAttention(nnx.Module):
    """Multi-head self-attention with an output projection: [B, T, C] -> [B, T, C]."""

    def __init__(self, level: int, settings: UNetSettings, rngs: Draws):
        features, dtype = settings.channels[level], settings.dtype
        self.to_q = linear(features, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_k = linear(features, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_v = linear(features, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_out = linear(features, features, dtype=dtype, rngs=rngs)
        self.heads = settings.heads(level)
        self.implementation: Implementation = settings.attention_kernel(level)

    def __call__(self, x: Array) -> Array:
        return self.to_out(
            attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads, self.implementation)
        )


class TokenAttention(nnx.Module):
    """Cross-attention to one token: exactly the projected value of that token.

    The softmax over a single key is 1 for every query. So queries, keys and the norm before them
    (`to_q`, `to_k`, and `norm2` of the block) have no effect; they stay parameters so that weights
    can move to and from the original.
    """

    def __init__(self, features: int, context: int, *, dtype: Any, rngs: Draws):
        self.to_q = linear(features, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_k = linear(context, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_v = linear(context, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_out = linear(features, features, dtype=dtype, rngs=rngs)

    def __call__(self, token: Array) -> Array:
        """token [B, K] -> the value that every position receives, [B, C]."""
        return self.to_out(self.to_v(token))


class FeedForward(nnx.Module):
    """Gated feed-forward layer (GEGLU, Shazeer 2020): [B, T, C] -> [B, T, C]."""

    def __init__(self, features: int, *, dtype: Any, rngs: Draws):
        self.linear1 = linear(features, 8 * features, dtype=dtype, rngs=rngs)
        self.linear2 = linear(4 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x, gate = jnp.split(self.linear1(x), 2, axis=-1)
        return self.linear2(x * nnx.gelu(gate, approximate=False))


class TransformerBlock(nnx.Module):
    """Self-attention, attention to the class token, feed-forward; each normalised and added."""

    def __init__(self, level: int, settings: UNetSettings, rngs: Draws):
        features, dtype = settings.channels[level], settings.dtype
        self.norm1 = LayerNorm(features, dtype=dtype)
        self.attn1 = SelfAttention(level, settings, rngs)
        self.norm2 = LayerNorm(features, dtype=dtype)
        self.attn2 = TokenAttention(features, settings.num_classes, dtype=dtype, rngs=rngs)
        self.norm3 = LayerNorm(features, dtype=dtype)
        self.ff = FeedForward(features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, value: Array) -> Array:
        """x [B, T, C], value [B, C] from `attn2` -> [B, T, C]."""
        x = x + self.attn1(self.norm1(x))
        x = x + value[:, None]
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """Transformer blocks over all positions, conditioned on a class token; added to the input."""

    def __init__(self, level: int, settings: UNetSettings, rngs: Draws):
        features = settings.channels[level]
        self.norm = group_norm(features, settings)
        self.proj_in = conv(features, features, settings.compute, rngs, kernel=1)
        self.transformer_blocks = nnx.List(
            TransformerBlock(level, settings, rngs) for _ in range(settings.transformer_layers)
        )
        self.proj_out = conv(features, features, settings.compute, rngs, kernel=1, zero=True)

    def encode(self, label: Array) -> tuple[Array, ...]:
        """One-hot class [B, K] -> the class's value in every block, [B, C] each."""
        return tuple(block.attn2(label) for block in self.transformer_blocks)

    def __call__(self, x: Array, value: tuple[Array, ...]) -> Array:
        """x [B, *S, C], value from `encode` -> [B, *S, C]."""
        h = self.proj_in(self.norm(x))
        tokens = h.reshape(x.shape[0], -1, x.shape[-1])
        for block, of_block in zip(self.transformer_blocks, value):
            tokens = block(tokens, of_block)
        return self.proj_out(tokens.reshape(x.shape)) + x
