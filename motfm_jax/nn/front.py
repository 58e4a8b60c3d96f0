"""An orthonormal transform of images before a network, undone on the velocity after it.

Each level halves every axis of space and makes 4 (volumes: 8) times as many channels. `haar` takes
sums and differences of neighbours, `pixel_shuffle` moves them into channels unchanged. Noise stays
white and distances stay the same, so the flow and its loss are those of the images, while the
network works at a half or a quarter of the side.

Source: Haar 1910; Shi et al. 2016 (pixel shuffle). Hoogeboom et al. 2023 (simple diffusion, section
3.3) and Phung et al. 2023 (wavelet diffusion) put such transforms around a network.
"""

from typing import NamedTuple

import jax.numpy as jnp

from motfm_jax.core import Array, Condition, Context, Network, Params


class Front(NamedTuple):
    """Which transform, and how often it halves.

    Attributes:
      kind: "none", "haar" or "pixel_shuffle".
      levels: halvings of every axis.
    """

    kind: str = "none"
    levels: int = 1

    @property
    def halvings(self) -> int:
        return 0 if self.kind == "none" else self.levels

    def bands(self, dims: int) -> int:
        """Channels that each channel of an image becomes."""
        return 2 ** (dims * self.halvings)


def analyse(x: Array, front: Front) -> Array:
    """[B, *S, C] -> [B, *S / 2^levels, bands C]: for each band in turn all channels."""
    for _ in range(front.halvings):
        for axis in range(1, x.ndim - 1):
            pairs = jnp.reshape(x, (*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]))
            ends = jnp.moveaxis(pairs, axis + 1, 0)
            x = jnp.concatenate(_rotated(ends[0], ends[1], front), axis=-1)
    return x


def synthesise(x: Array, front: Front) -> Array:
    """The inverse of `analyse`: [B, *S / 2^levels, bands C] -> [B, *S, C]."""
    for _ in range(front.halvings):
        for axis in reversed(range(1, x.ndim - 1)):
            first, second = jnp.split(x, 2, axis=-1)
            pairs = jnp.stack(_rotated(first, second, front), axis=axis + 1)
            x = jnp.reshape(pairs, (*first.shape[:axis], -1, *first.shape[axis + 1 :]))
    return x


def _rotated(first: Array, second: Array, front: Front) -> tuple[Array, Array]:
    """Sum and difference, as long together as both were; its own inverse."""
    if front.kind == "haar":
        return (first + second) * 0.5**0.5, (first - second) * 0.5**0.5
    return first, second


def with_front(network: Network, front: Front) -> Network:
    """The same field on images, by a network that sees what `analyse` makes of images and masks."""
    if not front.halvings:
        return network

    def encode(params: Params, condition: Condition) -> Context:
        mask = condition.mask
        mask = None if mask is None else analyse(mask, front)
        return network.encode(params, condition._replace(mask=mask))

    def apply(params: Params, x: Array, *rest, **further) -> Array:
        return synthesise(network.apply(params, analyse(x, front), *rest, **further), front)

    return network._replace(encode=encode, apply=apply)
