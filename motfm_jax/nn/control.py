"""Mask conditioning by a second UNet with zero convolutions, and the whole velocity network.

MOTFM trains both jointly, the encoder of the mask UNet starting as a copy of the UNet's. ControlNet
proper freezes a trained UNet; see `attach`.

Source: Zhang et al. 2023 (ControlNet); MONAI generative 0.2.3, `ControlNet`.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array, Condition, Network, Params
from motfm_jax.nn.blocks import UNetSettings
from motfm_jax.nn.functional import functional
from motfm_jax.nn.layers import Draws, conv
from motfm_jax.nn.unet import ClassValues, Encoder, UNet, skip_features

# Normalisations compute in float32, and so does what adds the bias of a block's first convolution.
_IN_FLOAT32 = re.compile(r"/norm\w*/|/conv1/bias$")


class Context(NamedTuple):
    """An encoded condition: the part of the network's work that depends on neither x nor t."""

    unet: ClassValues
    control: Any  # ClassValues of the mask UNet, or None
    mask: Any  # embedded, [B, *S, channels[0]], or None


class MaskEmbedding(nnx.Module):
    """Mask to the width of the first level; starts at zero."""

    def __init__(self, mask_channels: int, width: int, settings: UNetSettings, rngs: Draws):
        self.conv_in = conv(mask_channels, width, settings.compute, rngs)
        self.conv_out = conv(width, settings.channels[0], settings.compute, rngs, zero=True)

    def __call__(self, mask: Array) -> Array:
        """[B, *S, C_mask] -> [B, *S, channels[0]]."""
        return self.conv_out(nnx.silu(self.conv_in(mask)))


class ControlNet(nnx.Module):
    """The mask UNet: an encoder whose features reach the UNet through zero convolutions."""

    def __init__(self, mask_channels: int, width: int, settings: UNetSettings, rngs: Draws):
        self.encoder = Encoder(settings, rngs)
        self.mask_embedding = MaskEmbedding(mask_channels, width, settings, rngs)
        convs = [
            conv(features, features, settings.compute, rngs, kernel=1, zero=True)
            for features in (*skip_features(settings), settings.channels[-1])
        ]
        self.skip_convs = nnx.List(convs[:-1])
        self.middle_conv = convs[-1]

    def __call__(
        self, x: Array, t: Array, values: ClassValues, mask: Array, key: Array | None
    ) -> tuple[list[Array], Array]:
        """Residuals for the UNet's skips and middle; `mask` is already embedded."""
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
            return Context(self.unet.encode(condition), None, None)
        return Context(
            self.unet.encode(condition),
            self.controlnet.encoder.encode(condition),
            self.controlnet.mask_embedding(cast(Array, condition.mask)),
        )

    def __call__(
        self, x: Array, t: Array, context: Context, key: Array | None, s: Array | None = None
    ) -> Array:
        if self.controlnet is None:
            return self.unet(x, t, context.unet, key, s=s)
        key_unet, key_control = (None, None) if key is None else jax.random.split(key)
        residuals = self.controlnet(x, t, context.control, context.mask, key_control)
        return self.unet(x, t, context.unet, key_unet, residuals, s)


def velocity_network(
    settings: UNetSettings, mask_channels: int = 0, mask_width: int = 16
) -> tuple[Network, Callable[[Array], Params]]:
    """The network as pure functions of a flat parameter dict.

    Args:
      settings: of the UNet and of the mask UNet's encoder.
      mask_channels: channels of the mask; 0 for no mask UNet.
      mask_width: channels of the first convolution on the mask.

    Returns:
      The Network, and `init(key) -> params`, {"unet/encoder/conv_in/kernel": float32, ...}.
    """

    module, draw = functional(lambda draws: VelocityNet(settings, mask_channels, mask_width, draws))

    @jax.jit
    def init(key: Array) -> Params:
        return _copy_encoder(draw(key))

    network = Network(
        encode=lambda params, condition: module(params).encode(condition),
        apply=lambda params, x, t, context, key, s=None: module(params)(x, t, context, key, s),
        prepare=lambda params: in_dtype(params, settings.dtype),
    )
    return network, init


def in_dtype(params: Params, dtype: Any) -> Params:
    """The weights in the type that their layers compute in, to which each call would cast them
    again."""
    return {
        name: leaf if _IN_FLOAT32.search(name) else leaf.astype(dtype)
        for name, leaf in params.items()
    }


def attach(params: Params, unet: Params) -> Params:
    """Fresh parameters with a trained UNet, whose encoder the mask UNet starts as a copy of.

    The zero convolutions between them make the network equal to the UNet before training.

    Args:
      params: of `velocity_network`'s init, with a mask UNet.
      unet: all of the names "unet/...".
    """
    return _copy_encoder(params | unet)


def _copy_encoder(params: Params) -> Params:
    """Sets the mask UNet's encoder, if any, to a copy of the UNet's."""
    return params | {
        name: jnp.copy(params["unet/" + name.removeprefix("controlnet/")])
        for name in params
        if name.startswith("controlnet/encoder/")
    }
