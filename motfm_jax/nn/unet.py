"""The velocity UNet: an encoder, a middle and a decoder joined by skip connections.

Source: MONAI generative 0.2.3, `DiffusionModelUNet` with `resblock_updown=True`; module names
follow its state dict.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array, Condition
from motfm_jax.nn.attention import AttentionBlock, SpatialTransformer
from motfm_jax.nn.blocks import Remat, ResBlock, TimeEmbedding, UNetSettings, group_norm
from motfm_jax.nn.layers import Draws, conv, linear

_DEAR = ("conv_general_dilated", "dot_general", "dot_product_attention_fwd_wrapper")


class ClassValues(NamedTuple):
    """What the attention sites receive of a class; None for a site that ignores it.

    Attributes:
      down: for each level of the encoder, the value of each of its sites.
      middle: the value of the middle's site.
      up: as `down`, of the decoder; empty for an encoder alone.
      augment: [B, 4 channels[0]], what the augmentation adds to the time embedding, or None.
    """

    down: tuple[tuple, ...]
    middle: Any
    up: tuple[tuple, ...] = ()
    augment: Array | None = None


def _attention(level: int, settings: UNetSettings, rngs: Draws) -> Any:
    kind = SpatialTransformer if settings.num_classes else AttentionBlock
    return kind(level, settings, rngs)


def _recomputed(block: Callable, remat: Remat) -> Callable:
    """The block; what `remat` names is computed again in its backward pass, and not kept."""
    if remat == "none":
        return block
    policy = _is_dear if remat == "norms" else None
    return jax.checkpoint(lambda *arguments: block(*arguments), policy=policy)


def _is_dear(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a result is kept where normalisations and activations are computed again."""
    return primitive.name in _DEAR


class Level(nnx.Module):
    """The residual blocks of one resolution, each followed by attention if the level attends.

    Args:
      settings: of the UNet.
      level: 0 is the finest.
      inputs: channels that each block receives.
      resample: "up" or "down" with a resampling block at the end, None without.
      first: number of the first residual block, see `ResBlock`.
      rngs: initial values.
    """

    def __init__(
        self,
        settings: UNetSettings,
        level: int,
        inputs: list[int],
        resample: str | None,
        first: int,
        rngs: Draws,
    ):
        features, attends = settings.channels[level], settings.attention[level]
        self.resnets = nnx.List(
            ResBlock(width, features, settings, rngs, number=first + index)
            for index, width in enumerate(inputs)
        )
        self.attentions = nnx.List(
            _attention(level, settings, rngs) for _ in (inputs if attends else ())
        )
        last = first + len(inputs)
        self.resampler = (
            ResBlock(features, features, settings, rngs, number=last, resample=resample)
            if resample
            else None
        )
        self.remat: Remat = settings.remat

    def encode(self, label: Array | None) -> tuple:
        """The class's value at each attention site."""
        return tuple(site.encode(label) for site in self.attentions)

    def block(
        self,
        index: int,
        x: Array,
        embedding: Array,
        values: tuple,
        key: Any,
        skip: Array | None = None,
    ) -> Array:
        """One residual block, see there, and its attention: x [B, *S, C'] -> [B, *S, C]."""
        x = _recomputed(self.resnets[index], self.remat)(x, embedding, key, skip)
        if self.attentions:
            x = _recomputed(self.attentions[index], self.remat)(x, values[index])
        return x


class DownLevel(Level):
    """A level of the encoder."""

    def __call__(self, x: Array, embedding: Array, values: tuple, key: Any) -> list[Array]:
        """x [B, *S, C_in] -> the result of each block; the last is the level's output."""
        results = [x]
        for index in range(len(self.resnets)):
            results.append(self.block(index, results[-1], embedding, values, key))
        if self.resampler is not None:
            results.append(_recomputed(self.resampler, self.remat)(results[-1], embedding, key))
        return results[1:]


class UpLevel(Level):
    """A level of the decoder."""

    def __call__(
        self, x: Array, skips: list[Array], embedding: Array, values: tuple, key: Any
    ) -> Array:
        """x [B, *S, C_in] and a skip for each block, the last first -> [B, *S', C]."""
        for index, skip in enumerate(reversed(skips)):
            x = self.block(index, x, embedding, values, key, skip)
        if self.resampler is not None:
            x = _recomputed(self.resampler, self.remat)(x, embedding, key)
        return x


class Middle(nnx.Module):
    """Residual block, attention, residual block at the coarsest resolution."""

    def __init__(self, settings: UNetSettings, first: int, rngs: Draws):
        features = settings.channels[-1]
        self.resnet_1 = ResBlock(features, features, settings, rngs, number=first)
        self.attention = _attention(len(settings.channels) - 1, settings, rngs)
        self.resnet_2 = ResBlock(features, features, settings, rngs, number=first + 1)
        self.remat: Remat = settings.remat

    def __call__(self, x: Array, embedding: Array, value: Any, key: Any) -> Array:
        """[B, *S, C] -> [B, *S, C]."""
        x = _recomputed(self.resnet_1, self.remat)(x, embedding, key)
        x = _recomputed(self.attention, self.remat)(x, value)
        return _recomputed(self.resnet_2, self.remat)(x, embedding, key)


class Encoder(nnx.Module):
    """First convolution, the way down and the middle; shared by the UNet and the mask UNet."""

    def __init__(self, settings: UNetSettings, rngs: Draws):
        channels = settings.channels
        self.conv_in = conv(settings.image_channels, channels[0], settings.compute, rngs)
        self.time_embed = TimeEmbedding(
            channels[0], floor=settings.floor_time, dtype=settings.dtype, rngs=rngs
        )
        # Starts at zero and has no bias: an example as it is adds nothing, trained or not.
        self.augment_embed = (
            linear(
                settings.told,
                4 * channels[0],
                dtype=settings.dtype,
                rngs=rngs,
                use_bias=False,
                zero=True,
            )
            if settings.told
            else None
        )
        self.down_blocks = nnx.List()
        width, first = channels[0], 0
        for level, (features, blocks) in enumerate(zip(channels, settings.blocks)):
            inputs = [width] + [features] * (blocks - 1)
            resample = "down" if level < len(channels) - 1 else None
            self.down_blocks.append(DownLevel(settings, level, inputs, resample, first, rngs))
            width, first = features, first + blocks + 1
        self.middle_block = Middle(settings, first - 1, rngs)

    def encode(self, condition: Condition) -> ClassValues:
        """The class's value at each attention site, and the embedded augmentation.

        Source of the latter: Karras et al. 2022 (EDM), appendix F.2.
        """
        label, augment = condition.label, condition.augment
        return ClassValues(
            down=tuple(level.encode(label) for level in self.down_blocks),
            middle=self.middle_block.attention.encode(label),
            augment=(
                None
                if augment is None or self.augment_embed is None
                else self.augment_embed(augment)
            ),
        )

    def embed(self, t: Array, values: ClassValues) -> Array:
        """Time [B] and augmentation -> [B, 4 channels[0]]."""
        embedding = self.time_embed(t)
        return embedding if values.augment is None else embedding + values.augment

    def __call__(
        self,
        x: Array,
        t: Array,
        values: ClassValues,
        key: Array | None,
        added: Array | None = None,
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
        embedding = self.embed(t, values)
        h = self.conv_in(x)
        if added is not None:
            h = h + added
        skips = [h]
        for level, of_level in zip(self.down_blocks, values.down, strict=True):
            skips += level(skips[-1], embedding, of_level, key)
        return skips, self.middle_block(skips[-1], embedding, values.middle, key), embedding


def skip_features(settings: UNetSettings) -> list[int]:
    """Channels of the skips that an encoder returns, in its order."""
    features = [settings.channels[0]]
    for level, (width, blocks) in enumerate(zip(settings.channels, settings.blocks)):
        last = level == len(settings.channels) - 1
        features += [width] * (blocks + (not last))
    return features


class UNet(nnx.Module):
    """Encoder and decoder with a final convolution that starts at zero."""

    def __init__(self, settings: UNetSettings, rngs: Draws):
        self.encoder = Encoder(settings, rngs)
        channels = settings.channels
        skips = skip_features(settings)
        self.up_blocks = nnx.List()
        width, first = channels[-1], 0
        for level in reversed(range(len(channels))):
            inputs = []
            for _ in range(settings.blocks[level] + 1):
                inputs.append(width + skips.pop())
                width = channels[level]
            resample = "up" if level else None
            self.up_blocks.append(UpLevel(settings, level, inputs, resample, first, rngs))
            first += len(inputs) + 1
        self.norm_out = group_norm(channels[0], settings)
        self.conv_out = conv(
            channels[0], settings.image_channels, settings.compute, rngs, zero=True
        )

    def encode(self, condition: Condition) -> ClassValues:
        """The class's value at each attention site of encoder and decoder; the augmentation."""
        up = tuple(level.encode(condition.label) for level in self.up_blocks)
        return self.encoder.encode(condition)._replace(up=up)

    def __call__(
        self,
        x: Array,
        t: Array,
        values: ClassValues,
        key: Array | None,
        residuals: tuple[list[Array], Array] | None = None,
        s: Array | None = None,
    ) -> Array:
        """The velocity, or the mean velocity on the way from t to s.

        Args:
          x: [B, *S, C].
          t: [B].
          values: from `encode`.
          key: dropout key, or None.
          residuals: added to the skips and to the middle's output (from the mask UNet).
          s: [B], given to the decoder in place of t; None for t. The encoder, and so the mask UNet,
            knows t alone: at s = t this is the velocity, with the same weights (Lee et al. 2025,
            Decoupled MeanFlow).

        Returns:
          [B, *S, C] float32.
        """
        key_down, key_up = (None, None) if key is None else jax.random.split(key)
        skips, h, embedding = self.encoder(x, t, values, key_down)
        if residuals is not None:
            skips = [skip + residual for skip, residual in zip(skips, residuals[0], strict=True)]
            h = h + residuals[1]
        if s is not None:
            embedding = self.encoder.embed(s, values)
        for level, of_level in zip(self.up_blocks, values.up, strict=True):
            count = len(level.resnets)
            h = level(h, skips[-count:], embedding, of_level, key_up)
            del skips[-count:]
        return self.conv_out(nnx.silu(self.norm_out(h))).astype(jnp.float32)
