"""Convolutions of spectral norm one.

The kernel, as a matrix from patches to features, is divided by its largest singular value. A power
iteration follows that value: each convolution carries an estimate of the singular vector, and
`refresh` improves every estimate by one step per update. Both depend on parameters alone, so they
are the same on every device. Gradients flow through the kernel, not through the vector.

Source: Miyato et al. 2018.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array, Params
from motfm_jax.nn.layers import Compute, Draws, conv

_KERNEL, _VECTOR = "conv/kernel", "singular"
_FIRST_STEPS = 15  # of the power iteration before the first update


class SpectralConv(nnx.Module):
    """A convolution whose kernel is divided by its spectral norm; arguments as of `layers.conv`."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        compute: Compute,
        rngs: Draws,
        *,
        kernel: int = 3,
        stride: int = 1,
    ):
        self.conv = conv(
            features_in, features_out, compute, rngs, kernel=kernel, stride=stride, use_bias=False
        )
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.singular = nnx.Param(rngs.params()((features_out,)))

    def __call__(self, x: Array) -> Array:
        """[B, *S, C] -> [B, *S', C']."""
        kernel = self.conv.kernel[...]
        matrix = kernel.reshape(-1, kernel.shape[-1])
        vector = jax.lax.stop_gradient(self.singular[...])
        norm = jnp.linalg.norm(matrix @ (vector / jnp.linalg.norm(vector)))
        x = self.conv(x)
        bias = self.bias[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return x / norm.astype(x.dtype) + bias


def refresh(params: Params) -> Params:
    """One step of the power iteration for every `SpectralConv` among the parameters."""
    refreshed = {}
    for name in params:
        if name.rpartition("/")[2] != _VECTOR:
            continue
        kernel = params[name.removesuffix(_VECTOR) + _KERNEL]
        matrix = kernel.reshape(-1, kernel.shape[-1])
        vector = matrix.T @ (matrix @ params[name])
        refreshed[name] = vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)
    return params | refreshed


def settle(params: Params) -> Params:
    """Freshly drawn estimates taken close to their singular vectors."""
    return jax.lax.fori_loop(0, _FIRST_STEPS, lambda _, current: refresh(current), params)
