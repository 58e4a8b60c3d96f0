"""Convolutions in the forms that XLA computes fast on a CPU; elsewhere its own are the better.

Equal to `jax.lax.conv_general_dilated` with stride 1 up to rounding, for two and three spatial
axes, channels last. Three things are slow there: 3-D convolutions, which copy patches; the
gradient of a kernel, a convolution with a window as large as the image; and short rows in 3-D,
which leave cores idle (XLA of jax 0.10.2) or make small products. Here

* a 3-D convolution is a 2-D one over depth and all of a slice's rows in a line, that gives each row
  of the kernel channels of its own, which are added shifted; over few positions, where kernels
  tend to be larger than images, it is one product with the patches;
* the gradient of a kernel is a matrix product over strips of the image small enough for the cache;
* after a nearest-neighbour upsampling by 2 each output pixel sees 2 and not 3 pixels an axis, so
  that four (eight) kernels of 2 by 2 (by 2) on the small image do.

Their derivatives are reverse mode alone (`jax.grad`, `jax.vjp`).
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp

from motfm_jax.core import Array

Padding = tuple[tuple[int, int], ...]

FEW_POSITIONS = 1024  # of a batch; up to so many, patches are one matrix
STRIP_POSITIONS = 4096  # of which the gradient of a kernel is summed


def has_few_positions(x: Array) -> bool:
    """Whether x [B, *S, C] is as small as kernels are."""
    return x.size // x.shape[-1] <= FEW_POSITIONS


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, padding: Padding) -> Array:
    """A convolution with stride 1.

    Args:
      x: [B, *S, C].
      kernel: [*K, C, C'].
      padding: zeros before and after, an axis each, fewer than the kernel is wide.

    Returns:
      [B, *S', C'], S' = S + padding - K + 1.
    """
    if kernel.ndim == 4:
        return _convolve_planes(x, kernel, padding)
    if has_few_positions(x):
        return _patches(x, kernel, padding) @ kernel.reshape(-1, kernel.shape[-1])
    return _rows_in_outputs(x, kernel, padding)


def _forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, padding), (x, kernel)


def _backward(padding: Padding, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return _input_gradient(x, kernel, g, padding), _kernel_gradient(x, kernel, g, padding)


convolve.defvjp(_forward, _backward)


def _taps(kernel: Array) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, kernel.shape[:-2])))


def _pad(x: Array, padding: Padding) -> Array:
    """Zeros around the spatial axes; a negative number takes away."""
    return jax.lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*each, 0) for each in padding), (0, 0, 0)]
    )


def _patches(x: Array, kernel: Array, padding: Padding) -> Array:
    """What each output sees, [B, *S', taps C]."""
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
    # The zeros after a row are those before the next: with them a slice is one long row.
    padded = _pad(x, ((0, 0), (0, 0), (0, max(left, right))))
    each = _convolve_planes(
        padded.reshape(batch, depth, -1, features),
        kernel.transpose(0, 2, 3, 1, 4).reshape(deep, wide, features, high * outputs),
        (padding[0], (left, wide - 1 - left)),
    )
    each = each.reshape(batch, each.shape[1], height, padded.shape[3], high * outputs)
    each = each[:, :, :, : width + left + right - wide + 1]
    return sum(
        _pad(
            each[..., at * outputs : (at + 1) * outputs],
            ((0, 0), (above - at, below - (high - 1 - at)), (0, 0)),
        )
        for at in range(high)
    )


def _input_gradient(x: Array, kernel: Array, g: Array, padding: Padding) -> Array:
    widths = kernel.shape[:-2]
    if kernel.ndim == 4 or not has_few_positions(x):
        turned = jnp.flip(kernel, range(len(widths))).swapaxes(-1, -2)
        around = tuple(
            (width - 1 - before, width - 1 - after)
            for width, (before, after) in zip(widths, padding)
        )
        return convolve(g, turned, around)
    # What each output owes to each of its taps, added where the tap lay: the kernel as it is.
    rows, outputs = kernel.reshape(-1, kernel.shape[-1]), g.shape[-1]
    owed = jnp.einsum("po,ro->pr", g.reshape(-1, outputs), rows)  # matrices: else XLA copies rows
    owed = owed.reshape(*g.shape[:-1], -1, x.shape[-1])
    return sum(
        _pad(
            owed[..., number, :],
            tuple(
                (at - before, width - 1 - at - after)
                for at, width, (before, after) in zip(tap, widths, padding)
            ),
        )
        for number, tap in enumerate(_taps(kernel))
    )


def _kernel_gradient(x: Array, kernel: Array, g: Array, padding: Padding) -> Array:
    """Sums over positions of x's features, shifted along the first axis, by those of g, shifted
    along the others: one matrix product a strip (of all patches, where positions are few)."""
    if has_few_positions(x):
        patches = _patches(x, kernel, padding)
        total = jnp.einsum(
            "pr,po->ro",
            patches.reshape(-1, patches.shape[-1]),
            g.reshape(-1, g.shape[-1]),
            preferred_element_type=jnp.float32,
        )
        return total.reshape(kernel.shape).astype(kernel.dtype)
    (deep, *others), (features, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    # A strip is a block of all axes but the last; together they may reach beyond the image.
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
        given = jax.lax.dynamic_slice(
            g,
            (*at, 0),
            (*blocks[:2], *(b + width - 1 for b, width in zip(blocks[2:], others)), outputs),
        )
        left = jnp.concatenate([rows[:, tap : tap + blocks[1]] for tap in range(deep)], axis=-1)
        right = jnp.concatenate(
            [
                given[
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
    return jnp.moveaxis(total, 1, -2).astype(kernel.dtype)


def convolve_upsampled(x: Array, kernel: Array) -> Array:
    """Upsamples by 2 along every axis (nearest neighbour), then convolves with padding 1.

    Args:
      x: [B, *S, C]; worth while unless it `has_few_positions`.
      kernel: [3, 3, C, C'] or [3, 3, 3, C, C'].

    Returns:
      [B, *2S, C'].
    """
    dims, outputs = x.ndim - 2, kernel.shape[-1]
    for axis in range(dims):  # [3, ...] -> [2 taps, ..., 2 phases, C, C'], one axis after the other
        first, middle, last = jnp.moveaxis(kernel, axis, 0)
        phases = [jnp.stack([first, middle + last], axis), jnp.stack([first + middle, last], axis)]
        kernel = jnp.stack(phases, axis=dims + axis)
    kernel = jnp.moveaxis(kernel, -2, dims)  # [*taps, C, *phases, C']
    both = convolve(x, kernel.reshape(*(2,) * dims, x.shape[-1], -1), ((1, 1),) * dims)
    both = both.reshape(*both.shape[:-1], *(2,) * dims, outputs)
    # Phase 0 of an axis lies before phase 1, one pixel further in; each takes its place in turn.
    for axis in range(dims):
        at, size, phase = 1 + 2 * axis, x.shape[1 + axis], dims + 1 + axis
        both = jnp.stack(
            [
                jax.lax.slice_in_dim(jnp.take(both, number, phase), number, number + size, axis=at)
                for number in range(2)
            ],
            axis=at + 1,
        )
    return both.reshape(len(x), *(2 * size for size in x.shape[1:-1]), outputs)
