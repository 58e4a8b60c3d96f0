"""SPADE: a generator that reads the mask at every normalisation, and its discriminators.

Differences from the published network: normalisation by instance instead of by batch, so that an
image does not depend on its batch and the only state are parameters; and a latent of spatial noise
of the size of the image. The published latent of 256 numbers passes a dense layer, whose parameters
grow with the image (200 million for a volume of 96 x 96 x 96).

Source: Park et al. 2019; Wang et al. 2018 (the discriminators).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Adversaries, Array, Condition, Network, Params
from motfm_jax.nn.functional import functional
from motfm_jax.nn.layers import Compute, Draws, conv, downsample, upsample
from motfm_jax.nn.spectral import SpectralConv, settle

_EPSILON = 1e-5
_LAYERS = 4  # convolutions of a discriminator before its last
_WIDEST = 8  # times a discriminator's first layer


@dataclasses.dataclass(frozen=True)
class SpadeSettings:
    """What generator and discriminators are built from.

    Attributes:
      dims: 2 or 3.
      image_channels: C.
      mask_channels: channels of the mask.
      num_classes: number of classes; 0 without class conditioning.
      channels: of the generator's levels, the finest first, each half the size of the one before.
      blocks: residual blocks of each level.
      hidden: channels of the convolution by which a normalisation reads the mask.
      width: channels of a discriminator's first layer.
      discriminators: how many, each seeing the image at half the size of the one before.
      dtype: what convolutions compute in.
      platform: see `layers.Compute`.
    """

    dims: int
    image_channels: int
    mask_channels: int
    num_classes: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    hidden: int
    width: int
    discriminators: int
    dtype: Any = jnp.float32
    platform: str = "any"

    @property
    def map_channels(self) -> int:
        """Of what the networks are conditioned on: mask, and classes spread over space."""
        return self.mask_channels + self.num_classes

    @property
    def compute(self) -> Compute:
        """How the layers compute."""
        return Compute(self.dims, self.dtype, self.platform)


def leaky(x: Array) -> Array:
    return nnx.leaky_relu(x, 0.2)


def instance_norm(x: Array) -> Array:
    """Each channel of each image to mean 0 and variance 1 over space: [B, *S, C] float32."""
    x = x.astype(jnp.float32)
    space = tuple(range(1, x.ndim - 1))
    centred = x - x.mean(axis=space, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=space, keepdims=True) + _EPSILON)


class Spade(nnx.Module):
    """Instance normalisation with a scale and an offset computed from the mask at every pixel."""

    def __init__(self, features: int, settings: SpadeSettings, rngs: Draws):
        self.shared = conv(settings.map_channels, settings.hidden, settings.compute, rngs)
        self.modulation = conv(settings.hidden, 2 * features, settings.compute, rngs)
        self.dtype = settings.dtype

    def __call__(self, x: Array, mask: Array) -> Array:
        """x [B, *S, C], mask [B, *S, M] -> [B, *S, C]."""
        scale, offset = jnp.split(self.modulation(nnx.relu(self.shared(mask))), 2, axis=-1)
        return instance_norm(x).astype(self.dtype) * (1 + scale) + offset


class SpadeBlock(nnx.Module):
    """Two normalised convolutions with a skip connection around them."""

    def __init__(self, features_in: int, features_out: int, settings: SpadeSettings, rngs: Draws):
        between = min(features_in, features_out)
        self.norm1 = Spade(features_in, settings, rngs)
        self.conv1 = SpectralConv(features_in, between, settings.compute, rngs)
        self.norm2 = Spade(between, settings, rngs)
        self.conv2 = SpectralConv(between, features_out, settings.compute, rngs)
        changes = features_in != features_out
        self.skip_norm = Spade(features_in, settings, rngs) if changes else None
        self.skip_conv = (
            SpectralConv(features_in, features_out, settings.compute, rngs, kernel=1)
            if changes
            else None
        )

    def __call__(self, x: Array, mask: Array) -> Array:
        """x [B, *S, C], mask [B, *S, M] -> [B, *S, C']."""
        h = self.conv1(leaky(self.norm1(x, mask)))
        h = self.conv2(leaky(self.norm2(h, mask)))
        if self.skip_conv is not None and self.skip_norm is not None:
            x = self.skip_conv(self.skip_norm(x, mask))
        return h + x


class Generator(nnx.Module):
    """Noise at the coarsest level to an image, level by level."""

    def __init__(self, settings: SpadeSettings, rngs: Draws):
        channels = settings.channels
        self.factor = 2 ** (len(channels) - 1)
        noise = self.factor**settings.dims * settings.image_channels
        self.conv_in = conv(noise + settings.map_channels, channels[-1], settings.compute, rngs)
        levels, features = [], channels[-1]
        for width, count in zip(reversed(channels), reversed(settings.blocks)):
            blocks = []
            for _ in range(count):
                blocks.append(SpadeBlock(features, width, settings, rngs))
                features = width
            levels.append(nnx.List(blocks))
        self.levels = nnx.List(levels)
        self.conv_out = conv(features, settings.image_channels, settings.compute, rngs)
        self.dtype = settings.dtype

    def __call__(self, x0: Array, mask: Array) -> Array:
        """x0 [B, *S, C] standard normal, mask [B, *S, M] -> images [B, *S, C] in [-1, 1]."""
        noise, coarse = space_to_depth(x0, self.factor), every(mask, self.factor)
        x = self.conv_in(jnp.concatenate([noise, coarse], axis=-1).astype(self.dtype))
        for number, blocks in enumerate(self.levels):
            here = every(mask, self.factor // 2**number)
            x = x if number == 0 else upsample(x)
            for block in blocks:
                x = block(x, here)
        return jnp.tanh(self.conv_out(leaky(x)).astype(jnp.float32))


def every(x: Array, factor: int) -> Array:
    """Each `factor`-th place along every axis of space: [B, *S, C] -> [B, *S / factor, C]."""
    return x[:, *(slice(None, None, factor),) * (x.ndim - 2)]


def space_to_depth(x: Array, factor: int) -> Array:
    """Blocks of space to channels: [B, *S, C] -> [B, *S / factor, factor^dims C]."""
    batch, *space, features = x.shape
    dims = len(space)
    split = [extent for size in space for extent in (size // factor, factor)]
    places, within = range(1, 2 * dims, 2), range(2, 2 * dims + 1, 2)
    return (
        x.reshape(batch, *split, features)
        .transpose(0, *places, *within, 2 * dims + 1)
        .reshape(batch, *(size // factor for size in space), -1)
    )


class Discriminator(nnx.Module):
    """Judges patches of an image with its mask; most convolutions are of spectral norm one."""

    def __init__(self, settings: SpadeSettings, rngs: Draws):
        compute, features = settings.compute, settings.width
        channels = settings.image_channels + settings.map_channels
        self.conv_in = conv(channels, features, compute, rngs, kernel=4, stride=2)
        convs = []
        for number in range(1, _LAYERS):
            wider = min(2 * features, _WIDEST * settings.width)
            stride = 1 if number == _LAYERS - 1 else 2
            convs.append(SpectralConv(features, wider, compute, rngs, kernel=4, stride=stride))
            features = wider
        self.convs = nnx.List(convs)
        self.conv_out = conv(features, 1, compute, rngs, kernel=4)
        self.dtype = settings.dtype

    def __call__(self, x: Array) -> list[Array]:
        """Image and mask [B, *S, C + M] -> the result of each layer; the verdict last."""
        results = [leaky(self.conv_in(x.astype(self.dtype)))]
        for each in self.convs:
            results.append(leaky(instance_norm(each(results[-1])).astype(self.dtype)))
        return [*results, self.conv_out(results[-1]).astype(jnp.float32)]


class _Both(nnx.Module):
    def __init__(self, settings: SpadeSettings, rngs: Draws):
        self.generator = Generator(settings, rngs)
        self.discriminator = nnx.List(
            Discriminator(settings, rngs) for _ in range(settings.discriminators)
        )

    def discriminate(self, image: Array, mask: Array) -> list[list[Array]]:
        x, results = jnp.concatenate([image, mask], axis=-1), []
        for number, discriminator in enumerate(self.discriminator):
            x = x if number == 0 else downsample(x)
            results.append(discriminator(x))
        return results


def spade_networks(settings: SpadeSettings) -> tuple[Adversaries, Callable[[Array], Params]]:
    """The networks as pure functions of one flat parameter dict.

    Returns:
      The Adversaries, and `init(key) -> params`, {"generator/conv_in/kernel": float32, ..,
      "discriminator/0/conv_in/kernel": .., ..}.
    """
    module, draw = functional(lambda draws: _Both(settings, draws))

    def encode(params: Params, condition: Condition) -> Array:
        mask = cast(Array, condition.mask)
        if condition.label is None:
            return mask
        label = jnp.expand_dims(condition.label, tuple(range(1, mask.ndim - 1)))
        label = jnp.broadcast_to(label, (*mask.shape[:-1], label.shape[-1]))
        return jnp.concatenate([mask, label], axis=-1)

    generator = Network(
        encode=encode, apply=lambda params, x0, t, mask, key: module(params).generator(x0, mask)
    )
    discriminate = lambda params, image, mask: module(params).discriminate(image, mask)  # noqa: E731
    return Adversaries(generator, discriminate), jax.jit(lambda key: settle(draw(key)))
