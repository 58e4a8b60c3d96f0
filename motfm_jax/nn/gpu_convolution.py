"""Convolutions in forms that cost a GPU less than XLA's own, channels last.

Only reverse mode is defined (`jax.grad`, `jax.vjp`), as of cuDNN's attention.
"""

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Array


def convolve_upsampled(x: Array, kernel: Array) -> Array:
    """An image upsampled by 2 (nearest) and convolved, without the upsampled image.

    Two neighbours of it are one pixel of x, so that their taps add up: a kernel of four, of which
    each pixel of the result meets two. That is the gradient of a convolution with stride 2, for
    which cuDNN has kernels: 4/9 of the products in 2-D, 8/27 in 3-D.

    Args:
      x: [B, *S, C].
      kernel: [*K, C, C'], K = 3, padded by 1.

    Returns:
      [B, *2S, C'].
    """
    for axis in range(kernel.ndim - 2):
        ends = np.eye(kernel.ndim, dtype=int)[axis]
        before, after = (
            [tuple(pair) for pair in np.outer(ends, side)] for side in ((1, 0), (0, 1))
        )
        kernel = jnp.pad(kernel, after) + jnp.pad(kernel, before)
    return _spread(x, jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2))


@jax.custom_vjp
def _spread(x: Array, kernel: Array) -> Array:
    """The transpose of `_gather`: x [B, *S, C], kernel [*4, C', C] -> [B, *2S, C']."""
    batch, *space, _ = x.shape
    whole = jax.ShapeDtypeStruct((batch, *(2 * size for size in space), kernel.shape[-2]), x.dtype)
    return jax.linear_transpose(lambda image: _gather(image, kernel), whole)(x)[0]


def _gather(image: Array, kernel: Array) -> Array:
    """A convolution with stride 2: image [B, *2S, C'], kernel [*4, C', C] -> [B, *S, C]."""
    space = "DHW"[5 - kernel.ndim :]
    dims = len(space)
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        (2,) * dims,
        ((1, 1),) * dims,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _spread(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # Left to JAX, the kernel's gradient would be a convolution with a window as large as the image.
    x, kernel = saved
    of_kernel = jax.linear_transpose(lambda kernel: _gather(g, kernel), kernel)(x)[0]
    return _gather(g, kernel), of_kernel


_spread.defvjp(_forward, _backward)
