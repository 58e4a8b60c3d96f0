"""UNet-Res18 and UNet-Res50: segmenters of images [B, H, W, C] whose encoder is a ResNet.

The decoder doubles the resolution stage by stage: upsample, join the encoder's map of that
resolution, two normalised convolutions. Its widths halve from stage to stage.

Source: Ronneberger et al. 2015 with the encoders of He et al. 2016; normalisation as in `resnet`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array, Params
from motfm_jax.nn.functional import functional
from motfm_jax.nn.layers import Compute, Draws, GroupNorm, conv, upsample
from motfm_jax.nn.resnet import ResNetSettings, Trunk


class Segmenter(NamedTuple):
    """A segmenter in two pure functions.

    Attributes:
      apply: (params, x [B, H, W, C]) -> logits [B, H, W, K] float32.
      features: the same arguments -> the mean over space of what the decoder starts from,
        [B, F] float32.
    """

    apply: Callable[[Params, Array], Array]
    features: Callable[[Params, Array], Array]


class DecoderStage(nnx.Module):
    """Twice the resolution: [B, H, W, C] and, if any, a skip [B, 2H, 2W, C']."""

    def __init__(
        self,
        features_in: int,
        features_skip: int,
        features: int,
        settings: ResNetSettings,
        rngs: Draws,
    ):
        widths, dtype = (features_in + features_skip, features), settings.dtype
        self.convs = nnx.List(conv(width, features, Compute(2, dtype), rngs) for width in widths)
        self.norms = nnx.List(
            GroupNorm(features, groups=settings.norm_groups, dtype=dtype) for _ in widths
        )

    def __call__(self, x: Array, skip: Array | None) -> Array:
        x = upsample(x)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
        for layer, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return x


class UNetRes(nnx.Module):
    """The trunk, the decoder, and a convolution to the labels' logits."""

    def __init__(self, settings: ResNetSettings, rngs: Draws):
        self.trunk = Trunk(settings, rngs)
        *skips, features = self.trunk.stage_features
        # A first stage at a quarter of the resolution leaves two doublings without a skip.
        skips = [*reversed(skips), *([] if settings.small_images else [0, 0])]
        width, stages = 4 * settings.width, []
        for skip in skips:
            stages.append(DecoderStage(features, skip, width, settings, rngs))
            features, width = width, max(width // 2, settings.norm_groups)
        self.stages = nnx.List(stages)
        self.head = conv(features, settings.num_classes, Compute(2), rngs)

    def features(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, F] float32."""
        return self.trunk(x)[-1].astype(jnp.float32).mean(axis=(1, 2))

    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> logits [B, H, W, K] float32."""
        *maps, x = self.trunk(x)
        for stage in self.stages:
            x = stage(x, maps.pop() if maps else None)
        return self.head(x.astype(jnp.float32))


def unet_resnet(settings: ResNetSettings) -> tuple[Segmenter, Callable[[Array], Params]]:
    """A segmenter as pure functions of a flat parameter dict.

    Args:
      settings: of the encoder; `num_classes` are the labels K, background included. Sides of the
        images must be multiples of 32, with `small_images` of 8.

    Returns:
      The Segmenter, and `init(key) -> params`, {"trunk/stem/kernel": float32, ...}.
    """

    module, init = functional(lambda draws: UNetRes(settings, draws))
    segmenter = Segmenter(
        apply=lambda params, x: module(params)(x),
        features=lambda params, x: module(params).features(x),
    )
    return segmenter, init
