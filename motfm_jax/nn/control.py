"""Mask conditioning by a second UNet with zero convolutions, and the whole velocity network.

Source: Zhang et al. 2023 (ControlNet); MONAI generative 0.2.3, `ControlNet`, as MOTFM trains it:
jointly with the UNet, its encoder starting as a copy of the UNet's. ControlNet proper keeps a UNet
that was trained before as it is; see `attach`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array, Condition, Network, Params
from motfm_jax.nn.functional import functional
from motfm_jax.nn.layers import Draws, conv
from motfm_jax.nn.unet import Encoder, UNet, UNetSettings, skip_features


class Context(NamedTuple):
    """What the velocity network keeps of a condition: nothing of it depends on x or t."""

    unet: tuple[tuple, tuple]
    control: tuple | None
    mask: Array | None  # embedded, [B, *S, channels[0]]


class MaskEmbedding(nnx.Module):
    """Mask to the width of the first level; starts at zero."""

    def __init__(self, mask_channels: int, width: int, settings: UNetSettings, rngs: Draws):
        common = dict(dims=settings.dims, dtype=settings.dtype, rngs=rngs, on_cpu=settings.on_cpu)
        self.conv_in = conv(mask_channels, width, **common)
        self.conv_out = conv(width, settings.channels[0], zero=True, **common)

    def __call__(self, mask: Array) -> Array:
        """[B, *S, C_mask] -> [B, *S, channels[0]]."""
        return self.conv_out(nnx.silu(self.conv_in(mask)))


class ControlNet(nnx.Module):
    """The mask UNet: an encoder whose features reach the UNet through zero convolutions."""

    def __init__(self, mask_channels: int, width: int, settings: UNetSettings, rngs: Draws):
        self.encoder = Encoder(settings, rngs)
        self.mask_embedding = MaskEmbedding(mask_channels, width, settings, rngs)
        zero = lambda features: conv(  # noqa: E731
            features,
            features,
            dims=settings.dims,
            kernel=1,
            dtype=settings.dtype,
            rngs=rngs,
            zero=True,
            on_cpu=settings.on_cpu,
        )
        self.skip_convs = nnx.List(zero(features) for features in skip_features(settings))
        self.middle_conv = zero(settings.channels[-1])

    def __call__(
        self, x: Array, t: Array, values: tuple, mask: Array, key: Array | None
    ) -> tuple[list[Array], Array]:
        """Residuals for the UNet's skips and middle; `mask` is embedded already."""
        skips, middle, _ = self.encoder(x, t, values, key, added=mask)
        skips = [zero(skip) for zero, skip in zip(self.skip_convs, skips, strict=True)]
        return skips, self.middle_conv(middle)


class VelocityNet(nnx.Module):
    """v(x, t, condition): the UNet, and with `mask_channels` the mask UNet beside it."""

    def __init__(self, settings: UNetSettings, mask_channels: int, mask_width: int, rngs: Draws):
        self.unet = UNet(settings, rngs)
        self.controlnet = (
            ControlNet(mask_channels, mask_width, settings, rngs) if mask_channels else None
        )

    def encode(self, condition: Condition) -> Context:
        if self.controlnet is None:
            return Context(self.unet.encode(condition.label), None, None)
        return Context(
            self.unet.encode(condition.label),
            self.controlnet.encoder.encode(condition.label),
            self.controlnet.mask_embedding(condition.mask),
        )

    def __call__(self, x: Array, t: Array, context: Context, key: Array | None) -> Array:
        if self.controlnet is None:
            return self.unet(x, t, context.unet, key)
        key_unet, key_control = (None, None) if key is None else jax.random.split(key)
        residuals = self.controlnet(x, t, context.control, context.mask, key_control)
        return self.unet(x, t, context.unet, key_unet, residuals)


def velocity_network(
    settings: UNetSettings, mask_channels: int = 0, mask_width: int = 16
) -> tuple[Network, Callable[[Array], Params]]:
    """The network as pure functions of a flat parameter dict.

    Args:
      settings: of the UNet, and of the mask UNet's encoder.
      mask_channels: channels of the mask; 0 for no mask UNet.
      mask_width: of the first convolution the mask passes.

    Returns:
      The Network, and `init(key) -> params`, {"unet/encoder/conv_in/kernel": float32, ...}.
    """

    module, draw = functional(lambda draws: VelocityNet(settings, mask_channels, mask_width, draws))

    @jax.jit
    def init(key: Array) -> Params:
        return _copy_encoder(draw(key))

    network = Network(
        encode=lambda params, condition: module(params).encode(condition),
        apply=lambda params, x, t, context, key: module(params)(x, t, context, key),
    )
    return network, init


def attach(params: Params, unet: Params) -> Params:
    """Fresh parameters with a trained UNet, the mask UNet's encoder a copy of that one's.

    The zero convolutions between them make the whole, before it is trained, equal to the UNet.

    Args:
      params: of `velocity_network`'s init, with a mask UNet.
      unet: all of the names "unet/...".
    """
    return _copy_encoder(params | unet)


def _copy_encoder(params: Params) -> Params:
    """The mask UNet's encoder, where there is one, as a copy of the UNet's."""
    return params | {
        name: jnp.copy(params["unet/" + name.removeprefix("controlnet/")])
        for name in params
        if name.startswith("controlnet/encoder/")
    }
