"""ResNet-18 and ResNet-50: classifiers of images [B, H, W, C].

They differ from the published networks in the normalisation: groups of channels of one image (Wu
and He 2018) instead of the batch. Group normalisation keeps no running statistics, so `apply` is a
pure function of the parameters; an image's logits do not depend on its batch; and it trains as well
at 16 images as at 256, where batch statistics grow noisy. The number of parameters is the same.
Each block starts as its skip connection (Goyal et al. 2017).

Source: He et al. 2016; strides as torchvision has them, on the 3 x 3 convolution.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array, Params
from motfm_jax.nn.functional import functional
from motfm_jax.nn.layers import Draws, GroupNorm, linear

# Convolutions of a block, as (kernel, widening); the stride is on the first 3 x 3.
_BASIC = ((3, 1), (3, 1))
_BOTTLENECK = ((1, 1), (3, 1), (1, 4))
# Depth: convolutions of a block, blocks of each stage.
LAYOUTS = {18: (_BASIC, (2, 2, 2, 2)), 50: (_BOTTLENECK, (3, 4, 6, 3))}


@dataclasses.dataclass(frozen=True)
class ResNetSettings:
    """What a ResNet is built from.

    Attributes:
      depth: 18 or 50.
      num_classes: logits K, 2 or more.
      image_channels: C.
      small_images: begin with one 3 x 3 convolution at full resolution instead of a 7 x 7 one and
        a pooling that leave a quarter of each side: for images of 64 pixels and less.
      width: channels of the first stage; the published networks have 64.
      norm_groups: groups of a normalisation; divides the width.
      dtype: what convolutions compute in.
    """

    depth: int
    num_classes: int
    image_channels: int = 1
    small_images: bool = False
    width: int = 64
    norm_groups: int = 32
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.depth not in LAYOUTS:
            raise ValueError(f"ResNet depth {self.depth}: use {' or '.join(map(str, LAYOUTS))}")
        if self.num_classes < 2:
            raise ValueError(f"ResNet of {self.num_classes} classes: a classifier needs 2 or more")
        if self.width % self.norm_groups:
            raise ValueError(
                f"ResNet width {self.width} does not divide into {self.norm_groups} groups"
            )


class Classifier(NamedTuple):
    """A classifier in two pure functions.

    Attributes:
      apply: (params, x [B, H, W, C]) -> logits [B, K] float32.
      features: the same arguments -> what the last layer sees, [B, F] float32.
    """

    apply: Callable[[Params, Array], Array]
    features: Callable[[Params, Array], Array]


def _conv(
    features_in: int, features_out: int, kernel: int, stride: int, dtype: Any, rngs: Draws
) -> nnx.Conv:
    """A convolution without bias; uniform with He et al.'s variance 2 / (outputs of a pixel)."""
    bound = math.sqrt(6 / (features_out * kernel**2))
    return nnx.Conv(
        features_in,
        features_out,
        (kernel, kernel),
        stride,
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        rngs=cast(nnx.Rngs, rngs),
        kernel_init=lambda take, shape, dtype: (take(shape) * bound).astype(dtype),
    )


class Block(nnx.Module):
    """Convolutions, each normalised, with a skip connection around them."""

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        layout: tuple,
        settings: ResNetSettings,
        rngs: Draws,
    ):
        norm = lambda features: GroupNorm(  # noqa: E731
            features, groups=settings.norm_groups, dtype=settings.dtype
        )
        convs, norms, features, remaining = [], [], features_in, stride
        for kernel, widening in layout:
            here, remaining = (remaining, 1) if kernel == 3 else (1, remaining)
            convs.append(_conv(features, width * widening, kernel, here, settings.dtype, rngs))
            features = width * widening
            norms.append(norm(features))
        norms[-1].scale = nnx.Param(jnp.zeros(features))
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        changes = stride > 1 or features != features_in
        self.shortcut = (
            _conv(features_in, features, 1, stride, settings.dtype, rngs) if changes else None
        )
        self.shortcut_norm = norm(features) if changes else None

    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, C']."""
        h = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(conv(h if number == 0 else nnx.relu(h)))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return nnx.relu(x + h)


class Trunk(nnx.Module):
    """Everything but the last layer; each stage ends with its `stage_features` channels."""

    def __init__(self, settings: ResNetSettings, rngs: Draws):
        layout, depths = LAYOUTS[settings.depth]
        kernel, stride = (3, 1) if settings.small_images else (7, 2)
        self.small_images = settings.small_images
        self.stem = _conv(
            settings.image_channels, settings.width, kernel, stride, settings.dtype, rngs
        )
        self.stem_norm = GroupNorm(
            settings.width, groups=settings.norm_groups, dtype=settings.dtype
        )
        stages, features, stage_features = [], settings.width, []
        for stage, depth in enumerate(depths):
            width, blocks = settings.width * 2**stage, []
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(features, width, stride, layout, settings, rngs))
                features = width * layout[-1][1]
            stages.append(nnx.List(blocks))
            stage_features.append(features)
        self.stages = nnx.List(stages)
        self.stage_features = tuple(stage_features)

    def __call__(self, x: Array) -> list[Array]:
        """[B, H, W, C] -> each stage's result, [B, H / s, W / s, C_s]: s = 4, 8, 16, 32 (1, 2, 4,
        8 with `small_images`)."""
        x = nnx.relu(self.stem_norm(self.stem(x)))
        if not self.small_images:
            around: Any = ((1, 1), (1, 1))
            x = nnx.max_pool(x, (3, 3), (2, 2), padding=around)
        results = []
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
            results.append(x)
        return results


class ResNet(nnx.Module):
    """The trunk, the mean over space, and one dense layer, which starts at PyTorch's default."""

    def __init__(self, settings: ResNetSettings, rngs: Draws):
        self.trunk = Trunk(settings, rngs)
        self.head = linear(
            self.trunk.stage_features[-1], settings.num_classes, dtype=jnp.float32, rngs=rngs
        )

    def features(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, F] float32."""
        return self.trunk(x)[-1].astype(jnp.float32).mean(axis=(1, 2))

    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> logits [B, K] float32."""
        return self.head(self.features(x))


def resnet(settings: ResNetSettings) -> tuple[Classifier, Callable[[Array], Params]]:
    """A classifier as pure functions of a flat parameter dict.

    Returns:
      The Classifier, and `init(key) -> params`, {"trunk/stem/kernel": float32, ...}.
    """

    module, init = functional(lambda draws: ResNet(settings, draws))
    classifier = Classifier(
        apply=lambda params, x: module(params)(x),
        features=lambda params, x: module(params).features(x),
    )
    return classifier, init
