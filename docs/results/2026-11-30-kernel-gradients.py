"""Times gradients of kernels on a CPU: in strips, as they are now, and XLA's own.

    .venv/bin/python docs/results/2026-11-30-kernel-gradients.py

Prints medians of 9 in ms: of 3 x 3 convolutions, the last column of four in a loop, and of dense
layers, with all axes and as a product of two matrices.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.io import malloc
from motfm_jax.nn import cpu_convolution as ours
from motfm_jax.nn.layers import product

CONVOLUTIONS = [
    (16, 64, 32, 32),
    (16, 32, 64, 64),
    (16, 16, 96, 96),
    (1, 128, 32, 32),
    (16, 128, 32, 32),
    (16, 128, 64, 64),
]
DENSE = [((16, 256), 96, 768), ((16, 64, 64), 32, 32)]
ONE = ((1, 1), (1, 1))


def milliseconds(function, *arguments):
    call = jax.jit(function).lower(*arguments).compile()
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        times.append(1e3 * (time.perf_counter() - begin))
    return f"{statistics.median(times[1:]):.1f}"


def four_times(gradient):
    """In a loop, each time of another cotangent; divide by four."""

    def loop(x, kernel, g):
        def step(total, _):
            return total + gradient(x, kernel, g + total[0, 0, 0, 0]), None

        return jax.lax.scan(step, jnp.zeros_like(kernel), None, length=4)[0]

    return loop


def xlas(x, kernel, g):
    def forward(kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ONE, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return jax.vjp(forward, kernel)[1](g)[0]


def strips(x, kernel, g):
    return ours._gradient_of_strips(x, kernel, g, ONE)


def now(x, kernel, g):
    return ours._kernel_gradient(x, kernel, g, ONE)


def main():
    malloc.keep_freed()
    random = np.random.default_rng(0)

    def drawn(*shape):
        return jax.device_put(random.standard_normal(shape, np.float32))

    print("| convolution | strips | now | XLA's own | now, 4 in a loop |\n|---|--:|--:|--:|--:|")
    for batch, side, features, outputs in CONVOLUTIONS:
        arrays = (
            drawn(batch, side, side, features),
            drawn(3, 3, features, outputs),
            drawn(batch, side, side, outputs),
        )
        cells = [milliseconds(form, *arrays) for form in (strips, now, xlas, four_times(now))]
        print(f"| {batch} x {side}^2, {features} -> {outputs} | {' | '.join(cells)} |", flush=True)
    arrays = drawn(4, 64, 64, 32), drawn(3, 3, 32, 32), drawn(4, 64, 64, 32)
    print(f"XLA's own, 4 x 64^2, 4 in a loop: {milliseconds(four_times(xlas), *arrays)}\n")
    print("| dense layer | all axes | two matrices |\n|---|--:|--:|")
    for space, features, outputs in DENSE:
        arrays = drawn(*space, features), drawn(features, outputs), drawn(*space, outputs)
        cells = [
            milliseconds(lambda x, w, g: jax.vjp(lambda w: form(2 * x, w), w)[1](g * g)[0], *arrays)  # noqa: B023
            for form in (jnp.matmul, product)
        ]
        print(f"| {' x '.join(map(str, space))}, {features} -> {outputs} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
