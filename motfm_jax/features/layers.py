"""Layers that only hold weights, and resizing as in PyTorch; shared by the feature networks.

Weights come from published files: a layer starts at zero and `weights.read` fills it.
Normalisation by stored statistics is folded into the convolutions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.nn.layers import Draws

_CUBIC = -0.75  # the slope that PyTorch's bicubic interpolation has at distance 1
_ZEROS: dict[str, Any] = dict(
    kernel_init=nnx.initializers.zeros_init(), bias_init=nnx.initializers.zeros_init()
)


def _draws() -> Any:
    """An initialiser for layers; a function, since JAX must not start at import."""
    return Draws(jax.random.key(0), 0)


class Conv(nnx.Conv):
    """`nnx.Conv` by number of padded places along each axis."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...] | int = 1,
        padding: tuple[int, ...] | int = 0,
    ):
        each = (padding,) * len(kernel) if isinstance(padding, int) else padding
        super().__init__(
            features_in,
            features_out,
            kernel,
            stride,
            padding=[(side, side) for side in each],
            rngs=_draws(),
            **_ZEROS,
        )


def dense(features_in: int, features_out: int, use_bias: bool = True) -> nnx.Linear:
    """A dense layer."""
    return nnx.Linear(features_in, features_out, use_bias=use_bias, rngs=_draws(), **_ZEROS)


def layer_norm(features: int) -> nnx.LayerNorm:
    """Layer normalisation with PyTorch's epsilon."""
    return nnx.LayerNorm(features, epsilon=1e-5, use_fast_variance=False, rngs=_draws())


def resize_matrix(size: int, new_size: int, cubic: bool) -> np.ndarray:
    """Interpolation along one axis as a matrix [new_size, size], without smoothing before.

    Samples lie at half pixels and what lies outside repeats the border, as in PyTorch's
    `interpolate` with align_corners=False.
    """
    at = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(at).astype(int)
    matrix = np.zeros((new_size, size))
    for offset in range(-1, 3) if cubic else range(2):
        distance = np.abs(at - (first + offset))
        weight = _keys(distance) if cubic else 1 - distance
        np.add.at(matrix, (np.arange(new_size), np.clip(first + offset, 0, size - 1)), weight)
    return matrix.astype(np.float32)


def _keys(x: np.ndarray) -> np.ndarray:
    near = (_CUBIC + 2) * x**3 - (_CUBIC + 3) * x**2 + 1
    far = _CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, far)


def resize(images: Array, side: int, cubic: bool = False) -> Array:
    """[B, H, W, C] -> [B, side, side, C]."""
    rows, columns = (resize_matrix(size, side, cubic) for size in images.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, images, columns)


def to_rgb(images: Array) -> Array:
    """One channel three times: [B, *S, 1] -> [B, *S, 3]; three stay as they are."""
    if images.shape[-1] == 3:
        return images
    if images.shape[-1] != 1:
        raise ValueError(f"images of {images.shape[-1]} channels: 1 or 3 needed")
    return jnp.repeat(images, 3, axis=-1)
