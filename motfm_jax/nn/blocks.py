"""The velocity UNet's settings, time embedding and residual block.

Source: MONAI generative 0.2.3, `DiffusionModelUNet` with `resblock_updown=True`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.fields import by_level
from motfm_jax.nn.dispatch import Choice, Implementation
from motfm_jax.nn.layers import (
    Compute,
    Draws,
    GroupNorm,
    conv,
    downsample,
    dropout,
    linear,
    upsample,
)

TIME_SCALE = 999.0  # t in [0, 1] is embedded as a diffusion level in 0 .. 999
LONGEST_PERIOD = 10_000.0

# What the backward pass computes again: nothing, normalisations and activations, or whole blocks.
Remat = Literal["none", "norms", "blocks"]
REMAT = get_args(Remat)


@dataclasses.dataclass(frozen=True)
class UNetSettings:
    """What a UNet is built from.

    Attributes:
      dims: 2 or 3 spatial axes.
      image_channels: of x and of the velocity.
      channels: features of each level, the finest first.
      res_blocks: residual blocks of every level, or of each (the decoder has one more).
      attention: for each level, whether its blocks attend.
      head_dim: channels per head of every level, or of each; 0 for one head.
      num_classes: width of the class token; 0 without class conditioning.
      transformer_layers: blocks of each transformer, with class conditioning.
      norm_groups: groups of the group normalisation.
      floor_time: round time down to 1,000 levels, as the original does.
      dropout: rate inside residual blocks.
      dtype: of convolutions and products.
      remat: what of each block is computed again in the backward pass, to keep less.
      choose_attention: head_dim -> kernel, see `dispatch.resolve`.
      told: numbers that tell of an example's augmentation; 0 where the network is not told.
      platform: see `layers.Compute`.
    """

    dims: int
    image_channels: int
    channels: tuple[int, ...]
    res_blocks: int | tuple[int, ...]
    attention: tuple[bool, ...]
    head_dim: int | tuple[int, ...]
    num_classes: int
    transformer_layers: int
    norm_groups: int
    floor_time: bool
    dropout: float
    dtype: Any
    remat: Remat
    choose_attention: Callable[[int], Choice]
    platform: str = "any"
    told: int = 0

    @property
    def compute(self) -> Compute:
        """How the layers compute."""
        return Compute(self.dims, self.dtype, self.platform)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level."""
        return by_level(self.res_blocks, len(self.channels))

    def heads(self, level: int) -> int:
        """Attention heads of a level."""
        head_dim = by_level(self.head_dim, len(self.channels))[level]
        return self.channels[level] // head_dim if head_dim else 1

    def attention_kernel(self, level: int) -> Implementation:
        """Implementation of attention at a level."""
        return self.choose_attention(self.channels[level] // self.heads(level)).implementation


def group_norm(features: int, settings: UNetSettings) -> GroupNorm:
    """The normalisation of a UNet's features."""
    return GroupNorm(
        features,
        groups=settings.norm_groups,
        dtype=settings.dtype,
        one_pass=settings.platform != "cpu",
    )


def sinusoidal_embedding(level: Array, features: int) -> Array:
    """Cosines and sines of a level at geometric frequencies: [B] -> [B, features], float32."""
    half = features // 2
    frequencies = jnp.exp(-jnp.log(LONGEST_PERIOD) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = level.astype(jnp.float32)[:, None] * frequencies[None]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2)))


class TimeEmbedding(nnx.Module):
    """Time to a vector: sinusoids, then two dense layers.

    With `floor` time is rounded down to one of 1,000 levels, as the original does.
    """

    def __init__(self, features: int, *, floor: bool, dtype: Any, rngs: Draws):
        self.linear1 = linear(features, 4 * features, dtype=dtype, rngs=rngs)
        self.linear2 = linear(4 * features, 4 * features, dtype=dtype, rngs=rngs)
        self.features = features
        self.floor = floor

    def __call__(self, t: Array) -> Array:
        """t [B] in [0, 1] -> [B, 4 features]."""
        level = t.astype(jnp.float32) * TIME_SCALE
        if self.floor:
            level = jnp.floor(level)
        return self.linear2(nnx.silu(self.linear1(sinusoidal_embedding(level, self.features))))


class ResBlock(nnx.Module):
    """Residual block conditioned on the time embedding; optionally resamples by 2.

    Args:
      features_in, features_out: channels.
      settings: of the UNet.
      rngs: initial values.
      number: of the block in its encoder or decoder; its dropout key is folded from it.
      resample: None, "up" or "down".
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        settings: UNetSettings,
        rngs: Draws,
        *,
        number: int = 0,
        resample: str | None = None,
    ):
        compute, dtype = settings.compute, settings.dtype
        self.norm1 = group_norm(features_in, settings)
        self.conv1: Any = conv(features_in, features_out, compute, rngs)
        self.time_emb_proj = linear(4 * settings.channels[0], features_out, dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(features_out, settings)
        self.conv2 = conv(features_out, features_out, compute, rngs, zero=True)
        self.skip_connection = (
            None
            if features_in == features_out
            else conv(features_in, features_out, compute, rngs, kernel=1)
        )
        self.resample = resample
        self.dropout = settings.dropout
        self.number = number

    def __call__(
        self, x: Array, embedding: Array, key: Array | None, skip: Array | None = None
    ) -> Array:
        """The block.

        Args:
          x: [B, *S, C].
          embedding: [B, E].
          key: dropout key, or None.
          skip: [B, *S, C_in - C], joined to x; None for an x of all channels.

        Returns:
          [B, *S', C_out].
        """
        key = None if key is None else jax.random.fold_in(key, self.number)
        parts = (x,) if skip is None else (x, skip)
        h = nnx.silu(self.norm1(jnp.concatenate(parts, axis=-1)))
        if self.resample == "up":
            h, parts = self.conv1.unbiased_upsampled(h), (upsample(x),)
        elif self.resample == "down":
            h, parts = self.conv1.unbiased(downsample(h)), (downsample(x),)
        else:
            h = self.conv1.unbiased(h)
        shift = self.time_emb_proj(nnx.silu(embedding)) + self.conv1.bias[None]
        h = self.conv2(dropout(nnx.silu(self.norm2(h, shift)), self.dropout, key))
        if self.skip_connection is None:
            return h + jnp.concatenate(parts, axis=-1)
        return h + self.skip_connection(*parts)
