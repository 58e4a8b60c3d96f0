"""Layers shared by the networks: convolution, normalisation, resampling, time, residual block.

Arrays are channels last, [B, *S, C]; `dims` says whether S is (H, W) or (D, H, W). Parameters are
float32; `dtype` is what convolutions and products compute in.

Source: MONAI generative 0.2.3, `DiffusionModelUNet`, as MOTFM uses it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.arrays import Array

NORM_EPSILON = 1e-6
TIME_SCALE = 999.0  # t in [0, 1] is embedded as a diffusion level in 0 .. 999
LONGEST_PERIOD = 10_000.0

# PyTorch's default for convolutions and linear layers: uniform with bound 1 / sqrt(fan_in).
fan_in_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _fan_in_bias(fan_in: int):
    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(
    features_in: int, features_out: int, *, dtype: Any, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    """A dense layer with PyTorch's default initialisation."""
    return nnx.Linear(
        features_in, features_out, use_bias=use_bias, dtype=dtype, rngs=rngs,
        kernel_init=fan_in_uniform, bias_init=_fan_in_bias(features_in),
    )  # fmt: skip


def conv(
    features_in: int, features_out: int, *, dims: int, dtype: Any, rngs: nnx.Rngs,
    kernel: int = 3, zero: bool = False,
) -> nnx.Conv:  # fmt: skip
    """A stride-1 convolution that keeps the spatial size; `zero` initialises it to zero."""
    zeros = nnx.initializers.zeros_init()
    return nnx.Conv(
        features_in, features_out, kernel_size=(kernel,) * dims, padding=kernel // 2, dtype=dtype,
        rngs=rngs, kernel_init=zeros if zero else fan_in_uniform,
        bias_init=zeros if zero else _fan_in_bias(features_in * kernel**dims),
    )  # fmt: skip


class GroupNorm(nnx.Module):
    """Group normalisation with two-pass float32 statistics, applied as one a x + b a channel."""

    def __init__(self, features: int, *, groups: int, dtype: Any):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.groups = groups
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """[B, *S, C] -> [B, *S, C] in `dtype`."""
        batch, *space, features = x.shape
        x = x.astype(jnp.float32)
        grouped = x.reshape(batch, -1, self.groups, features // self.groups)
        mean = grouped.mean(axis=(1, 3))
        variance = jnp.square(grouped - mean[:, None, :, None]).mean(axis=(1, 3))
        spread = lambda group: jnp.repeat(group, features // self.groups, axis=1)  # noqa: E731
        slope = spread(jax.lax.rsqrt(variance + NORM_EPSILON)) * self.scale[None]
        offset = self.bias[None] - spread(mean) * slope
        to_space = (batch,) + (1,) * len(space) + (features,)
        return (x * slope.reshape(to_space) + offset.reshape(to_space)).astype(self.dtype)


def upsample(x: Array) -> Array:
    """Nearest-neighbour by 2 along every spatial axis: [B, *S, C] -> [B, *2S, C]."""
    batch, *space, features = x.shape
    paired = jnp.expand_dims(x, tuple(range(2, 2 + 2 * len(space), 2)))
    tiled = [extent for size in space for extent in (size, 2)]
    return jnp.broadcast_to(paired, (batch, *tiled, features)).reshape(
        batch, *(2 * size for size in space), features)


def downsample(x: Array) -> Array:
    """Average over blocks of 2 along every spatial axis: [B, *S, C] -> [B, *S/2, C]."""
    batch, *space, features = x.shape
    halves = [extent for size in space for extent in (size // 2, 2)]
    return x.reshape(batch, *halves, features).mean(axis=tuple(range(2, 2 + 2 * len(space), 2)))


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Zeroes a share `rate` of x and scales the rest up; nothing where the key is None."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


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

    def __init__(self, features: int, *, floor: bool, dtype: Any, rngs: nnx.Rngs):
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
      embedding: width of the time embedding.
      resample: None, "up" or "down".
    """

    def __init__(
        self, features_in: int, features_out: int, embedding: int, *, dims: int, groups: int,
        dropout: float, dtype: Any, rngs: nnx.Rngs, resample: str | None = None,
    ):  # fmt: skip
        self.norm1 = GroupNorm(features_in, groups=groups, dtype=dtype)
        self.conv1 = conv(features_in, features_out, dims=dims, dtype=dtype, rngs=rngs)
        self.time_emb_proj = linear(embedding, features_out, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(features_out, groups=groups, dtype=dtype)
        self.conv2 = conv(features_out, features_out, dims=dims, dtype=dtype, rngs=rngs, zero=True)
        self.skip_connection = (
            None if features_in == features_out
            else conv(features_in, features_out, dims=dims, kernel=1, dtype=dtype, rngs=rngs)
        )  # fmt: skip
        self.resample = {None: lambda x: x, "up": upsample, "down": downsample}[resample]
        self.dropout = dropout

    def __call__(self, x: Array, embedding: Array, key: Array | None) -> Array:
        """x [B, *S, C_in], embedding [B, E] -> [B, *S', C_out]."""
        h = self.resample(nnx.silu(self.norm1(x)))
        x = self.resample(x)
        h = self.conv1(h)
        shift = self.time_emb_proj(nnx.silu(embedding))
        h = h + jnp.expand_dims(shift, tuple(range(1, h.ndim - 1)))
        h = self.conv2(dropout(nnx.silu(self.norm2(h)), self.dropout, key))
        return h + (x if self.skip_connection is None else self.skip_connection(x))
