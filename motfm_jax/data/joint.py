"""An image and its label map as one array, as a network sees them that makes both.

The label map is one-hot in further channels behind the image's: 1 where a voxel has the label, -1
elsewhere. Source: Chen, Zhang and Hinton 2023 (Analog Bits), who generate discrete values as
numbers and round them at the end.
"""

import jax
import jax.numpy as jnp

from motfm_jax.core import Array


def join(image: Array, mask: Array, num_labels: int) -> Array:
    """Image [B, *S, C] and labels [B, *S] -> [B, *S, C + num_labels] float32."""
    labels = 2 * jax.nn.one_hot(mask, num_labels, dtype=jnp.float32) - 1
    return jnp.concatenate([image, labels], axis=-1)


def split(x: Array, num_labels: int) -> tuple[Array, Array | None]:
    """[.., C + num_labels] -> image [.., C], and the label of the greatest channel [..] uint8; None
    without labels."""
    if not num_labels:
        return x, None
    channels = x.shape[-1] - num_labels
    return x[..., :channels], jnp.argmax(x[..., channels:], axis=-1).astype(jnp.uint8)
