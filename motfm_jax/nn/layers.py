"""Layers shared by the networks: convolution, normalisation, resampling, dropout.

Arrays are channels last, [B, *S, C], where S is (H, W) or (D, H, W). Parameters are float32;
convolutions and products compute in `dtype`.

Source: MONAI generative 0.2.3, `DiffusionModelUNet`, as MOTFM uses it.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.nn import cpu_convolution, gpu_convolution

GROUP_NORM_EPSILON = 1e-6
LAYER_NORM_EPSILON = 1e-5


class Compute(NamedTuple):
    """How the layers of a network compute.

    Attributes:
      dims: spatial axes, 2 or 3.
      dtype: of convolutions and products.
      platform: "cpu", "gpu", or "any" for a program that must run on both, see
        `cpu_convolution` and `gpu_convolution`.
    """

    dims: int
    dtype: Any = jnp.float32
    platform: str = "any"


class Draws:
    """Random numbers for all initialisers from one draw; takes the place of `nnx.Rngs`.

    One draw per parameter would repeat the random-number code for each in the program: the
    paper's networks then took minutes to compile.

    Args:
      key: of the draw.
      count: how many numbers, at least as many as the parameters have elements.
    """

    def __init__(self, key: Array, count: int):
        self.values = jax.random.uniform(key, (count,), minval=-1.0)
        self.used = 0

    def params(self) -> Callable[[tuple[int, ...]], Array]:
        return self.take

    def take(self, shape: tuple[int, ...]) -> Array:
        """The next numbers, uniform in [-1, 1)."""
        start, self.used = self.used, self.used + math.prod(shape)
        return self.values[start : self.used].reshape(shape)


def _uniform(fan_in: int) -> Callable:
    """PyTorch's default for convolutions and linear layers: uniform, bound 1 / sqrt(fan_in)."""

    def init(take: Callable, shape: tuple[int, ...], dtype: Any) -> Array:
        return (take(shape) * fan_in**-0.5).astype(dtype)

    return init


def add_bias(x: Array, bias: Array) -> Array:
    """x [..., C] plus bias [C] float32, in x's type; the derivative adds up in float32: over all
    positions of a volume bfloat16 would lose it."""
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)


def product(x: Array, kernel: Array) -> Array:
    """x [..., C] times the kernel [C, C'], as a product of two matrices. For the kernel's gradient
    over more axes XLA would transpose in memory first, which takes a CPU longer than the product.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


class Linear(nnx.Linear):
    """`nnx.Linear` with the same parameters and values, see `add_bias`."""

    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., C']."""
        x = product(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return x if self.bias is None else add_bias(x, self.bias[...])


def linear(
    features_in: int,
    features_out: int,
    *,
    dtype: Any,
    rngs: Draws,
    use_bias: bool = True,
    zero: bool = False,
) -> Linear:
    """A dense layer with PyTorch's default initialisation, or with `zero` all zeros."""
    init = nnx.initializers.zeros_init() if zero else _uniform(features_in)
    return Linear(
        features_in,
        features_out,
        use_bias=use_bias,
        dtype=dtype,
        rngs=cast(nnx.Rngs, rngs),
        kernel_init=init,
        bias_init=init,
    )


class Conv(nnx.Conv):
    """`nnx.Conv` with the same parameters and values, computed as the platform likes it.

    `unbiased` leaves out the bias, so that the normalisation after it can add it for free.
    """

    platform = "any"

    def __call__(self, *parts: Array) -> Array:
        """The image [B, *S, C], or parts of it along C -> [B, *S', C']."""
        x = self.unbiased(*parts)
        return x if self.bias is None else add_bias(x, self.bias[...])

    def unbiased(self, *parts: Array) -> Array:
        """The convolution without its bias; parts of an image are not joined for it."""
        ends = np.cumsum([part.shape[-1] for part in parts])[:-1]
        kernels = jnp.split(self.kernel[...], ends, axis=-2)
        return functools.reduce(operator.add, map(self._convolve, parts, kernels))

    def unbiased_upsampled(self, x: Array) -> Array:
        """`unbiased(upsample(x))` of a kernel 3 wide; on CPU and GPU without the upsampled image:
        [B, *S, C] -> [B, *2S, C']."""
        form = {
            "cpu": cpu_convolution.convolve_upsampled,
            "gpu": gpu_convolution.convolve_upsampled,
        }.get(self.platform)
        if form is None:
            return self.unbiased(upsample(x))
        return form(x.astype(self.dtype), self.kernel[...].astype(self.dtype))

    def _convolve(self, x: Array, kernel: Array) -> Array:
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        side, dims = cast(int, self.padding), kernel.ndim - 2
        padding = ((side, side),) * dims
        on_cpu = self.platform == "cpu" and self.strides == 1
        if on_cpu and math.prod(self.kernel_size) == 1:
            return product(x, kernel.reshape(kernel.shape[-2:]))
        if on_cpu:
            return cpu_convolution.convolve(x, kernel, padding)
        space = "DHW"[3 - dims :]
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (cast(int, self.strides),) * dims,
            padding,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        )


def conv(
    features_in: int,
    features_out: int,
    compute: Compute,
    rngs: Draws,
    *,
    kernel: int = 3,
    stride: int = 1,
    zero: bool = False,
    use_bias: bool = True,
) -> Conv:
    """A convolution padded by half its kernel, so that stride 1 keeps the spatial size.

    Args:
      zero: initialise it to zero.
    """
    dims = compute.dims
    init = nnx.initializers.zeros_init() if zero else _uniform(features_in * kernel**dims)
    layer = Conv(
        features_in,
        features_out,
        kernel_size=(kernel,) * dims,
        strides=stride,
        padding=kernel // 2,
        use_bias=use_bias,
        dtype=compute.dtype,
        rngs=cast(nnx.Rngs, rngs),
        kernel_init=init,
        bias_init=init,
    )
    layer.platform = compute.platform
    return layer


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016) with two-pass float32 statistics."""

    def __init__(self, features: int, *, dtype: Any):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """[B, T, C] -> [B, T, C] in `dtype`."""
        scale, bias = self.scale[None, None], self.bias[None, None]
        return (standardise(x.astype(jnp.float32)) * scale + bias).astype(self.dtype)


@jax.custom_jvp
def standardise(x: Array) -> Array:
    """Every vector along the last axis, [..., C], to mean 0 and variance 1.

    The derivative is written out: XLA fuses autodiff's through whole chains of residual blocks and
    computes it again in each. This way the paper's training step has a third fewer instructions.
    """
    return _standardise(x)[0]


def _standardise(x: Array) -> tuple[Array, Array]:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    return centred * scale, scale


@standardise.defjvp
def _derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    y, scale = _standardise(x)
    # First: the order in which the terms are added up backwards decides what XLA fuses.
    along = (y * dx).mean(axis=-1, keepdims=True)
    return y, scale * (dx - dx.mean(axis=-1, keepdims=True) - y * along)


class GroupNorm(nnx.Module):
    """Group normalisation with float32 statistics, applied as one a x + b a channel.

    Args:
      features: C.
      groups: that C divides into.
      dtype: of the result.
      one_pass: read x once for both statistics, around the centre pixel's value. It saves a GPU a
        pass over memory. The variance is less exact where that pixel is far from the others, and
        more so on a CPU, which adds up one after another.
    """

    def __init__(self, features: int, *, groups: int, dtype: Any, one_pass: bool = False):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.groups = groups
        self.dtype = dtype
        self.one_pass = one_pass

    def __call__(self, x: Array, shift: Array | None = None) -> Array:
        """Normalises x + shift without forming the sum, which would cost a pass over memory.

        Args:
          x: [B, *S, C].
          shift: [B, C], or None for 0.

        Returns:
          [B, *S, C] in `dtype`.
        """
        batch, *space, features = x.shape
        x = x.astype(jnp.float32)
        rows, each = x.reshape(batch, -1, features), features // self.groups

        def of_group(means: Array) -> Array:
            """Means of channels [B, C] -> mean of each channel's group."""
            return jnp.repeat(means.reshape(batch, self.groups, each).mean(axis=2), each, axis=1)

        # First over space, channel by channel: rows of channels are added as vectors.
        shift = jnp.zeros(()) if shift is None else shift.astype(jnp.float32)
        if self.one_pass:
            centre = x[(slice(None), *(size // 2 for size in space))]
            centre = jax.lax.stop_gradient(centre)  # nothing depends on it
            moved = rows - centre[:, None]
            first, second = moved.mean(axis=1), jnp.square(moved).mean(axis=1)
            own = centre + first
            mean = of_group(own + shift) - shift  # as x's channels see it
            spread = second - jnp.square(first) + jnp.square(own - mean)
            variance = jnp.maximum(of_group(spread), 0)
        else:
            mean = of_group(rows.mean(axis=1) + shift) - shift
            variance = of_group(jnp.square(rows - mean[:, None]).mean(axis=1))
        slope = jax.lax.rsqrt(variance + GROUP_NORM_EPSILON) * self.scale[None]
        offset = self.bias[None] - mean * slope
        to_space = (batch,) + (1,) * len(space) + (features,)
        return (x * slope.reshape(to_space) + offset.reshape(to_space)).astype(self.dtype)


def upsample(x: Array) -> Array:
    """Nearest-neighbour by 2 along every spatial axis: [B, *S, C] -> [B, *2S, C]."""
    batch, *space, features = x.shape
    paired = jnp.expand_dims(x, tuple(range(2, 2 + 2 * len(space), 2)))
    tiled = [extent for size in space for extent in (size, 2)]
    return jnp.broadcast_to(paired, (batch, *tiled, features)).reshape(
        batch, *(2 * size for size in space), features
    )


def downsample(x: Array) -> Array:
    """Average over blocks of 2 along every spatial axis: [B, *S, C] -> [B, *S/2, C]."""
    batch, *space, features = x.shape
    halves = [extent for size in space for extent in (size // 2, 2)]
    return x.reshape(batch, *halves, features).mean(axis=tuple(range(2, 2 + 2 * len(space), 2)))


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Zeroes a share `rate` of x and scales the rest up; returns x if the key is None."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
