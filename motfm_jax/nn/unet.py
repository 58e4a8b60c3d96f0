"""The velocity UNet: an encoder, a middle and a decoder joined by skip connections.

Source: MONAI generative 0.2.3, `DiffusionModelUNet` with `resblock_updown=True`; module names
follow its state dict.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.nn.attention import AttentionBlock, SpatialTransformer
from motfm_jax.nn.dispatch import Choice
from motfm_jax.nn.layers import Draws, GroupNorm, ResBlock, TimeEmbedding, conv


@dataclasses.dataclass(frozen=True)
class UNetSettings:
    """What a UNet is built from.

    Attributes:
      dims: 2 or 3 spatial axes.
      image_channels: of x and of the velocity.
      channels: features of each level, the finest first.
      res_blocks: residual blocks a level (the decoder has one more).
      attention: for each level, whether its blocks attend.
      head_dim: channels a head; 0 for one head.
      num_classes: width of the class token; 0 without class conditioning.
      transformer_layers: blocks of each transformer, with class conditioning.
      norm_groups: groups of the group normalisation.
      floor_time: round time to 1,000 levels (the original).
      dropout: rate inside residual blocks.
      dtype: of convolutions and products.
      remat: recompute blocks in the backward pass.
      choose_attention: head_dim -> kernel, see `dispatch.resolve`.
      on_cpu: whether convolutions take the forms of a CPU, see `dispatch.on_cpu`.
    """

    dims: int
    image_channels: int
    channels: tuple[int, ...]
    res_blocks: int
    attention: tuple[bool, ...]
    head_dim: int
    num_classes: int
    transformer_layers: int
    norm_groups: int
    floor_time: bool
    dropout: float
    dtype: Any
    remat: bool
    choose_attention: Callable[[int], Choice]
    on_cpu: bool = False

    def heads(self, features: int) -> int:
        return features // self.head_dim if self.head_dim else 1


def _res_block(settings: UNetSettings, features_in, features_out, rngs, resample=None) -> ResBlock:
    return ResBlock(
        features_in,
        features_out,
        4 * settings.channels[0],
        dims=settings.dims,
        groups=settings.norm_groups,
        dropout=settings.dropout,
        dtype=settings.dtype,
        rngs=rngs,
        resample=resample,
        on_cpu=settings.on_cpu,
    )


def _attention(settings: UNetSettings, features: int, rngs: Draws):
    heads = settings.heads(features)
    common = dict(
        heads=heads,
        implementation=settings.choose_attention(features // heads).implementation,
        groups=settings.norm_groups,
        dtype=settings.dtype,
        rngs=rngs,
    )
    if not settings.num_classes:
        return AttentionBlock(features, **common)
    return SpatialTransformer(
        features,
        settings.num_classes,
        layers=settings.transformer_layers,
        dims=settings.dims,
        on_cpu=settings.on_cpu,
        **common,
    )


class Level(nnx.Module):
    """The blocks of one resolution, each followed by attention where the level has it."""

    def __init__(
        self,
        settings: UNetSettings,
        inputs: list[int],
        features: int,
        attends: bool,
        resample: str | None,
        rngs: Draws,
    ):
        self.resnets = nnx.List(_res_block(settings, width, features, rngs) for width in inputs)
        self.attentions = nnx.List(
            _attention(settings, features, rngs) for _ in (inputs if attends else ())
        )
        self.resampler = (
            _res_block(settings, features, features, rngs, resample) if resample else None
        )


class Middle(nnx.Module):
    """Residual block, attention, residual block at the coarsest resolution."""

    def __init__(self, settings: UNetSettings, rngs: Draws):
        features = settings.channels[-1]
        self.resnet_1 = _res_block(settings, features, features, rngs)
        self.attention = _attention(settings, features, rngs)
        self.resnet_2 = _res_block(settings, features, features, rngs)


class Run:
    """One pass through the blocks: hands out class values and dropout keys in calling order.

    Args:
      values: the class values of the attention sites, in the order they are called.
      embedding: time embedding [B, E].
      key: dropout key, or None.
      remat: recompute each block in the backward pass.
    """

    def __init__(self, values: tuple, embedding: Array, key: Array | None, remat: bool):
        self.values: Iterator = iter(values)
        self.embedding = embedding
        self.key = key
        self.block = 0
        self.remat = jax.checkpoint if remat else lambda function: function

    def resnet(self, block: ResBlock, x: Array) -> Array:
        key = None if self.key is None else jax.random.fold_in(self.key, self.block)
        self.block += 1
        return self.remat(lambda x, embedding: block(x, embedding, key))(x, self.embedding)

    def attention(self, block, x: Array) -> Array:
        return self.remat(lambda x, values: block(x, values))(x, next(self.values))


class Encoder(nnx.Module):
    """First convolution, the way down and the middle; shared by the UNet and the mask UNet."""

    def __init__(self, settings: UNetSettings, rngs: Draws):
        channels = settings.channels
        self.conv_in = conv(
            settings.image_channels,
            channels[0],
            dims=settings.dims,
            dtype=settings.dtype,
            rngs=rngs,
            on_cpu=settings.on_cpu,
        )
        self.time_embed = TimeEmbedding(
            channels[0], floor=settings.floor_time, dtype=settings.dtype, rngs=rngs
        )
        self.down_blocks = nnx.List()
        width = channels[0]
        for level, features in enumerate(channels):
            inputs = [width] + [features] * (settings.res_blocks - 1)
            resample = "down" if level < len(channels) - 1 else None
            self.down_blocks.append(
                Level(settings, inputs, features, settings.attention[level], resample, rngs)
            )
            width = features
        self.middle_block = Middle(settings, rngs)
        self.remat = settings.remat

    def encode(self, label: Array | None) -> tuple:
        """Class values of every attention site, in calling order."""
        sites = [site for level in self.down_blocks for site in level.attentions]
        return tuple(site.encode(label) for site in (*sites, self.middle_block.attention))

    def __call__(
        self, x: Array, t: Array, values: tuple, key: Array | None, added: Array | None = None
    ) -> tuple[list[Array], Array, Array]:
        """Features of every resolution.

        Args:
          x: [B, *S, C].
          t: [B].
          values: from `encode`.
          key: dropout key, or None.
          added: [B, *S, channels[0]], added to the first convolution (the embedded mask).

        Returns:
          The skips from fine to coarse, the middle's output, and the time embedding.
        """
        run = Run(values, self.time_embed(t), key, self.remat)
        h = self.conv_in(x)
        if added is not None:
            h = h + added
        skips = [h]
        for level in self.down_blocks:
            for index, resnet in enumerate(level.resnets):
                h = run.resnet(resnet, h)
                if level.attentions:
                    h = run.attention(level.attentions[index], h)
                skips.append(h)
            if level.resampler is not None:
                h = run.resnet(level.resampler, h)
                skips.append(h)
        h = run.resnet(self.middle_block.resnet_1, h)
        h = run.attention(self.middle_block.attention, h)
        return skips, run.resnet(self.middle_block.resnet_2, h), run.embedding


def skip_features(settings: UNetSettings) -> list[int]:
    """Channels of the skips that an encoder returns, in its order."""
    features = [settings.channels[0]]
    for level, width in enumerate(settings.channels):
        last = level == len(settings.channels) - 1
        features += [width] * (settings.res_blocks + (not last))
    return features


class UNet(nnx.Module):
    """Encoder and decoder with a final convolution that starts at zero."""

    def __init__(self, settings: UNetSettings, rngs: Draws):
        self.encoder = Encoder(settings, rngs)
        channels = settings.channels
        skips = skip_features(settings)
        self.up_blocks = nnx.List()
        width = channels[-1]
        for level in reversed(range(len(channels))):
            features = channels[level]
            inputs = []
            for _ in range(settings.res_blocks + 1):
                inputs.append(width + skips.pop())
                width = features
            resample = "up" if level else None
            self.up_blocks.append(
                Level(settings, inputs, features, settings.attention[level], resample, rngs)
            )
        self.norm_out = GroupNorm(channels[0], groups=settings.norm_groups, dtype=settings.dtype)
        self.conv_out = conv(
            channels[0],
            settings.image_channels,
            dims=settings.dims,
            dtype=settings.dtype,
            rngs=rngs,
            zero=True,
            on_cpu=settings.on_cpu,
        )
        self.remat = settings.remat

    def encode(self, label: Array | None) -> tuple[tuple, tuple]:
        """Class values of the encoder's and the decoder's attention sites."""
        sites = [site for level in self.up_blocks for site in level.attentions]
        return self.encoder.encode(label), tuple(site.encode(label) for site in sites)

    def __call__(
        self,
        x: Array,
        t: Array,
        values: tuple[tuple, tuple],
        key: Array | None,
        residuals: tuple[list[Array], Array] | None = None,
    ) -> Array:
        """The velocity.

        Args:
          x: [B, *S, C].
          t: [B].
          values: from `encode`.
          key: dropout key, or None.
          residuals: added to the skips and to the middle's output (from the mask UNet).

        Returns:
          [B, *S, C] float32.
        """
        key_down, key_up = (None, None) if key is None else jax.random.split(key)
        skips, h, embedding = self.encoder(x, t, values[0], key_down)
        if residuals is not None:
            skips = [skip + residual for skip, residual in zip(skips, residuals[0], strict=True)]
            h = h + residuals[1]
        run = Run(values[1], embedding, key_up, self.remat)
        for level in self.up_blocks:
            for index, resnet in enumerate(level.resnets):
                h = run.resnet(resnet, jnp.concatenate([h, skips.pop()], axis=-1))
                if level.attentions:
                    h = run.attention(level.attentions[index], h)
            if level.resampler is not None:
                h = run.resnet(level.resampler, h)
        return self.conv_out(nnx.silu(self.norm_out(h))).astype(jnp.float32)
