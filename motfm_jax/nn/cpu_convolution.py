"""Convolutions with stride 1 in forms that are faster on a CPU than XLA's own.

The results equal `jax.lax.conv_general_dilated` up to rounding, for two and three spatial axes,
channels last. XLA is slow on a CPU in three places: 3-D convolutions copy patches; the gradient of
a kernel is a convolution with a window as large as the image, which is fast for some orders of the
axes and some sizes alone; and short rows in 3-D leave cores idle (jax 0.10.2) or make small
products. So

* a 3-D convolution runs as one 2-D convolution over (depth, height x width): each kernel row gets
  its own output channels, which are then shifted and summed. Over few positions it is one matrix
  product with all patches;
* the gradient of a kernel is, in 3-D and after an upsampling, a matrix product over strips of the
  image that fit the cache; else a convolution of the fast kind, over a part of the batch at a time.

Only reverse mode is defined (`jax.grad`, `jax.vjp`). For `jax.jvp`, build the network for platform
"any": forward mode of these forms would need transposable custom rules that can be batched.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Array

Padding = tuple[tuple[int, int], ...]

FEW_POSITIONS = 1024  # a batch of at most so many positions is convolved as one matrix of patches
STRIP_POSITIONS = 4096  # the gradient of a kernel is summed over strips of about this size
PART_POSITIONS = 65_536  # or over parts of the batch of at most this size


def _has_few_positions(x: Array) -> bool:
    """Whether x [B, *S, C] is about as small as a kernel."""
    return x.size // x.shape[-1] <= FEW_POSITIONS


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, padding: Padding) -> Array:
    """A convolution with stride 1.

    Args:
      x: [B, *S, C].
      kernel: [*K, C, C'].
      padding: zeros before and after each axis, fewer than the kernel is wide.

    Returns:
      [B, *S', C'], S' = S + padding - K + 1.
    """
    if kernel.ndim == 4:
        return _convolve_planes(x, kernel, padding)
    if _has_few_positions(x):
        return _patches(x, kernel, padding) @ kernel.reshape(-1, kernel.shape[-1])
    return _rows_in_outputs(x, kernel, padding)


def convolve_upsampled(x: Array, kernel: Array) -> Array:
    """An image upsampled by 2 (nearest) and convolved, without the upsampled image.

    Each pixel becomes two along an axis. The left one sees pixel i - 1 through the first tap and i
    through the sum of the others, the right one i and i + 1. So one convolution with two taps an
    axis makes them all, as channels: in 2-D 4/9 of the products, in 3-D 8/27.

    Args:
      x: [B, *S, C].
      kernel: [*K, C, C'], K = 3, padded by 1.

    Returns:
      [B, *2S, C'].
    """
    padding = ((1, 1),) * (x.ndim - 2)
    return _interleave(convolve(x, _two_tap_kernels(kernel), padding), x.shape[1:-1])


def _two_tap_kernels(kernel: Array) -> Array:
    """The kernels of both pixels along each axis, see `convolve_upsampled`: [*3, C, C'] ->
    [*2, C, 2^dims C']."""
    dims = kernel.ndim - 2
    sides = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
    for _ in range(dims):  # [3, .., C, C'] -> [.., C, C', side, tap]
        kernel = jnp.einsum("k...,stk->...st", kernel, sides)
    taps, pixels = range(3, 2 + 2 * dims, 2), range(2, 2 + 2 * dims, 2)
    kernel = kernel.transpose(*taps, 0, *pixels, 1)
    return kernel.reshape(*(2,) * dims, kernel.shape[dims], -1)


def _interleave(each: Array, space: tuple[int, ...]) -> Array:
    """Pixels as channels to their places, the right one of an axis a window further on:
    [B, *(S + 1), 2^dims C'] -> [B, *2S, C']."""
    dims, images = len(space), []
    parts = jnp.split(each, 2**dims, axis=-1)
    for part, pixel in zip(parts, np.ndindex(*(2,) * dims)):
        at = (slice(start, start + size) for start, size in zip(pixel, space))
        images.append(part[(slice(None), *at)])
    image = jnp.stack(images, axis=1 + dims).reshape(-1, *space, *(2,) * dims, parts[0].shape[-1])
    paired = [axis for at in range(1, 1 + dims) for axis in (at, at + dims)]
    image = image.transpose(0, *paired, 1 + 2 * dims)
    return image.reshape(-1, *(2 * size for size in space), image.shape[-1])


def _forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, padding), (x, kernel)


def _backward(padding: Padding, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _input_gradient(x, kernel, g, padding), _kernel_gradient(x, kernel, g, padding)


convolve.defvjp(_forward, _backward)


def _taps(kernel: Array) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, kernel.shape[:-2])))


def _pad(x: Array, padding: Padding) -> Array:
    """Pads the spatial axes with zeros; a negative number crops."""
    return jax.lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*each, 0) for each in padding), (0, 0, 0)]
    )


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _patches(x: Array, kernel: Array, padding: Padding) -> Array:
    """The inputs of each output position, [B, *S', taps C]."""
    space = [
        size + sum(each) - width + 1
        for size, each, width in zip(x.shape[1:-1], padding, kernel.shape)
    ]
    padded = _pad(x, padding)
    return jnp.concatenate(
        [
            padded[(slice(None), *(slice(at, at + size) for at, size in zip(tap, space)))]
            for tap in _taps(kernel)
        ],
        axis=-1,
    )


def _convolve_planes(x: Array, kernel: Array, padding: Padding) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _rows_in_outputs(x: Array, kernel: Array, padding: Padding) -> Array:
    batch, depth, height, width, features = x.shape
    deep, high, wide, _, outputs = kernel.shape
    (above, below), (left, right) = padding[1:]
    # The zeros after a row are also those before the next, so that a slice is one long row.
    padded = _pad(x, ((0, 0), (0, 0), (0, max(left, right))))
    each = _convolve_planes(
        padded.reshape(batch, depth, -1, features),
        kernel.transpose(0, 2, 3, 1, 4).reshape(deep, wide, features, high * outputs),
        (padding[0], (left, wide - 1 - left)),
    )
    each = each.reshape(batch, each.shape[1], height, padded.shape[3], high * outputs)
    each = each[:, :, :, : width + left + right - wide + 1]
    return _sum(
        _pad(
            each[..., at * outputs : (at + 1) * outputs],
            ((0, 0), (above - at, below - (high - 1 - at)), (0, 0)),
        )
        for at in range(high)
    )


def _input_gradient(x: Array, kernel: Array, g: Array, padding: Padding) -> Array:
    widths = kernel.shape[:-2]
    if kernel.ndim == 4 or not _has_few_positions(x):
        turned = jnp.flip(kernel, range(len(widths))).swapaxes(-1, -2)
        around = tuple(
            (width - 1 - before, width - 1 - after)
            for width, (before, after) in zip(widths, padding)
        )
        return convolve(g, turned, around)
    # The contribution of each output to each of its taps, added at the place of the tap.
    rows, outputs = kernel.reshape(-1, kernel.shape[-1]), g.shape[-1]
    # Both factors are matrices, so that XLA copies nothing.
    shares = jnp.einsum("po,ro->pr", g.reshape(-1, outputs), rows)
    shares = shares.reshape(*g.shape[:-1], -1, x.shape[-1])
    return _sum(
        _pad(
            shares[..., number, :],
            tuple(
                (at - before, width - 1 - at - after)
                for at, width, (before, after) in zip(tap, widths, padding)
            ),
        )
        for number, tap in enumerate(_taps(kernel))
    )


def _kernel_gradient(x: Array, kernel: Array, g: Array, padding: Padding) -> Array:
    """The gradient of the kernel, in its type; added up in float32."""
    inside = all(window <= side for window, side in zip(g.shape[1:-1], x.shape[1:-1]))
    form = _gradient_of_parts if kernel.ndim == 4 and inside else _gradient_of_strips
    return form(x, kernel, g, padding).astype(kernel.dtype)


def _gradient_of_parts(x: Array, kernel: Array, g: Array, padding: Padding) -> Array:
    """In 2-D: the channels of x, as a batch whose channels are the images, convolved with g, whose
    positions are the window. XLA is fast for axes in this order and a window within the image."""

    def of_part(x: Array, g: Array) -> Array:
        each = jax.lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            g.transpose(1, 2, 0, 3),
            (1, 1),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.float32,
        )
        return each.transpose(1, 2, 0, 3)

    batch, positions = len(x), math.prod(x.shape[1:-1])
    fit = (n for n in range(1, batch + 1) if not batch % n and n * positions <= PART_POSITIONS)
    images = max(fit, default=1)
    if images == batch:
        return of_part(x, g)
    parts = tuple(each.reshape(-1, images, *each.shape[1:]) for each in (x, g))
    total, _ = jax.lax.scan(
        lambda total, part: (total + of_part(*part), None), jnp.zeros(kernel.shape), parts
    )
    return total


def _gradient_of_strips(x: Array, kernel: Array, g: Array, padding: Padding) -> Array:
    """One matrix product of x and g per strip of positions, summed over the strips.

    Kernel taps along the first axis come from shifts of x, the others from shifts of g. A batch of
    few positions is one product with all patches.
    """
    if _has_few_positions(x):
        patches = _patches(x, kernel, padding)
        total = jnp.einsum(
            "pr,po->ro",
            patches.reshape(-1, patches.shape[-1]),
            g.reshape(-1, g.shape[-1]),
            preferred_element_type=jnp.float32,
        )
        return total.reshape(kernel.shape)
    (deep, *others), (features, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    # A strip is a block along all axes but the last; the strips may reach beyond the image.
    extents, blocks, room = [*g.shape[:2], *x.shape[2:-1]], [], STRIP_POSITIONS
    for extent in reversed(extents):
        count = math.ceil(extent / max(1, room)) if blocks else 1
        blocks.insert(0, math.ceil(extent / count))
        room //= blocks[0]
    counts = [math.ceil(extent / block) for extent, block in zip(extents, blocks)]
    beyond = [count * block - extent for count, block, extent in zip(counts, blocks, extents)]
    x = jnp.pad(
        x,
        [
            (0, beyond[0]),
            (padding[0][0], padding[0][1] + beyond[1]),
            *((0, more) for more in beyond[2:]),
            (0, 0),
        ],
    )
    g = jnp.pad(
        g,
        [
            (0, beyond[0]),
            (0, beyond[1]),
            *(
                (width - 1 - before, width - 1 - after + more)
                for width, (before, after), more in zip(others, padding[1:], beyond[2:])
            ),
            (0, 0),
        ],
    )

    def strip(number: Array | int) -> Array:
        at = [start * block for start, block in zip(jnp.unravel_index(number, counts), blocks)]
        rows = jax.lax.dynamic_slice(
            x, (*at, 0), (blocks[0], blocks[1] + deep - 1, *blocks[2:], features)
        )
        cotangent = jax.lax.dynamic_slice(
            g,
            (*at, 0),
            (*blocks[:2], *(b + width - 1 for b, width in zip(blocks[2:], others)), outputs),
        )
        left = jnp.concatenate([rows[:, tap : tap + blocks[1]] for tap in range(deep)], axis=-1)
        right = jnp.concatenate(
            [
                cotangent[
                    (
                        slice(None),
                        slice(None),
                        *(
                            slice(width - 1 - tap, width - 1 - tap + block)
                            for tap, width, block in zip(taps, others, blocks[2:])
                        ),
                    )
                ]
                for taps in itertools.product(*map(range, others))
            ],
            axis=-1,
        )
        return jnp.einsum(
            "pi,po->io",
            left.reshape(-1, left.shape[-1]),
            right.reshape(-1, right.shape[-1]),
            preferred_element_type=jnp.float32,
        )

    number = math.prod(counts)
    total = (
        strip(0)
        if number == 1
        else jax.lax.fori_loop(
            0,
            number,
            lambda at, total: total + strip(at),
            jnp.zeros((deep * features, math.prod(others) * outputs)),
        )
    )
    total = total.reshape(deep, features, *others, outputs)
    return jnp.moveaxis(total, 1, -2)
