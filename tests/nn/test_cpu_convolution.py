"""Convolutions in a CPU's forms against XLA's, values and gradients, over kernels and paddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.nn.cpu_convolution import convolve

LAYOUT = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def reference(x, kernel, padding):
    dims = x.ndim - 2
    return jax.lax.conv_general_dilated(
        x, kernel, (1,) * dims, padding, dimension_numbers=LAYOUT[dims]
    )


def check(function, expected, *arguments):
    """Values and gradients, to the rounding of sums as long as these."""
    with jax.default_matmul_precision("highest"):
        result, pull = jax.vjp(function, *arguments)
        wanted, wanted_pull = jax.vjp(expected, *arguments)
        assert result.shape == wanted.shape
        cotangent = drawn(*result.shape, seed=7)
        pairs = zip((result, *pull(cotangent)), (wanted, *wanted_pull(cotangent)))
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))


ONE = (1, 1)
CASES = [
    ((1, 7, 8), (3, 3), (ONE, ONE)),
    ((4, 150, 120), (3, 3), (ONE, ONE)),  # the kernel's gradient in two parts of the batch
    ((2, 83, 67), (2, 2), (ONE, ONE)),  # in strips, as the result is larger than the image
    ((1, 4, 5, 3), (3, 3, 3), (ONE,) * 3),  # few positions
    ((2, 17, 18, 19), (3, 3, 3), (ONE,) * 3),  # several strips
]
MORE = [
    ((2, 83, 67), (3, 3), (ONE, ONE)),
    ((3, 21, 26), (3, 3), (ONE, ONE)),
    ((1, 83, 67), (3, 5), ((0, 2), (4, 1))),
    ((1, 40, 9), (1, 3), ((0, 0), (0, 0))),
    ((1, 7, 9, 8), (3, 3, 3), (ONE,) * 3),
    ((1, 23, 24, 15), (2, 3, 4), ((1, 0), (0, 2), (3, 1))),
]
CASES += [pytest.param(*case, marks=pytest.mark.nightly) for case in MORE]


@pytest.mark.parametrize("space, widths, padding", CASES)
def test_equals_the_convolution_of_xla(space, widths, padding):
    x, kernel = drawn(*space, 6), drawn(*widths, 6, 5, seed=1)
    check(
        lambda x, kernel: convolve(x, kernel, padding),
        lambda x, kernel: reference(x, kernel, padding),
        x,
        kernel,
    )
