"""InceptionV3 as FID uses it: the TensorFlow network of 2015-12-05, in its port to PyTorch.

Source: Szegedy et al. 2016; pytorch-fid 0.3.0, which differs from torchvision's network in the
average pools (padding does not count) and in a maximum pool in the last block.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.features.layers import Conv, dense, resize, to_rgb

SIDE = 299


class Basic(Conv):
    """Convolution, folded normalisation, ReLU."""

    def __call__(self, x: Array) -> Array:
        return nnx.relu(super().__call__(x))


def _square(features_in: int, features_out: int, side: int, **settings) -> Basic:
    return Basic(features_in, features_out, (side, side), **settings)


def _wide(features_in: int, features_out: int, length: int) -> Basic:
    return Basic(features_in, features_out, (1, length), padding=(0, length // 2))


def _tall(features_in: int, features_out: int, length: int) -> Basic:
    return Basic(features_in, features_out, (length, 1), padding=(length // 2, 0))


def _max_pool(x: Array, stride: int, padding: int = 0) -> Array:
    return nnx.max_pool(x, (3, 3), (stride, stride), [(padding, padding)] * 2)


def _mean_around(x: Array) -> Array:
    """Means over 3 x 3 places, of those that lie in the image."""
    return nnx.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _chain(x: Array, *layers: Conv) -> Array:
    for layer in layers:
        x = layer(x)
    return x


class BlockA(nnx.Module):
    def __init__(self, features: int, pooled: int):
        self.branch1x1 = _square(features, 64, 1)
        self.branch5x5_1 = _square(features, 48, 1)
        self.branch5x5_2 = _square(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _square(features, 64, 1)
        self.branch3x3dbl_2 = _square(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _square(96, 96, 3, padding=1)
        self.branch_pool = _square(features, pooled, 1)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(
            [
                self.branch1x1(x),
                _chain(x, self.branch5x5_1, self.branch5x5_2),
                _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
                self.branch_pool(_mean_around(x)),
            ],
            axis=-1,
        )


class BlockB(nnx.Module):
    def __init__(self, features: int):
        self.branch3x3 = _square(features, 384, 3, stride=2)
        self.branch3x3dbl_1 = _square(features, 64, 1)
        self.branch3x3dbl_2 = _square(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _square(96, 96, 3, stride=2)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(
            [
                self.branch3x3(x),
                _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
                _max_pool(x, 2),
            ],
            axis=-1,
        )


class BlockC(nnx.Module):
    def __init__(self, features: int, width: int):
        self.branch1x1 = _square(features, 192, 1)
        self.branch7x7_1 = _square(features, width, 1)
        self.branch7x7_2 = _wide(width, width, 7)
        self.branch7x7_3 = _tall(width, 192, 7)
        self.branch7x7dbl_1 = _square(features, width, 1)
        self.branch7x7dbl_2 = _tall(width, width, 7)
        self.branch7x7dbl_3 = _wide(width, width, 7)
        self.branch7x7dbl_4 = _tall(width, width, 7)
        self.branch7x7dbl_5 = _wide(width, 192, 7)
        self.branch_pool = _square(features, 192, 1)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(
            [
                self.branch1x1(x),
                _chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
                _chain(
                    x,
                    self.branch7x7dbl_1,
                    self.branch7x7dbl_2,
                    self.branch7x7dbl_3,
                    self.branch7x7dbl_4,
                    self.branch7x7dbl_5,
                ),
                self.branch_pool(_mean_around(x)),
            ],
            axis=-1,
        )


class BlockD(nnx.Module):
    def __init__(self, features: int):
        self.branch3x3_1 = _square(features, 192, 1)
        self.branch3x3_2 = _square(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _square(features, 192, 1)
        self.branch7x7x3_2 = _wide(192, 192, 7)
        self.branch7x7x3_3 = _tall(192, 192, 7)
        self.branch7x7x3_4 = _square(192, 192, 3, stride=2)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(
            [
                _chain(x, self.branch3x3_1, self.branch3x3_2),
                _chain(
                    x,
                    self.branch7x7x3_1,
                    self.branch7x7x3_2,
                    self.branch7x7x3_3,
                    self.branch7x7x3_4,
                ),
                _max_pool(x, 2),
            ],
            axis=-1,
        )


class BlockE(nnx.Module):
    def __init__(self, features: int, pools_maximum: bool):
        self.branch1x1 = _square(features, 320, 1)
        self.branch3x3_1 = _square(features, 384, 1)
        self.branch3x3_2a = _wide(384, 384, 3)
        self.branch3x3_2b = _tall(384, 384, 3)
        self.branch3x3dbl_1 = _square(features, 448, 1)
        self.branch3x3dbl_2 = _square(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _wide(384, 384, 3)
        self.branch3x3dbl_3b = _tall(384, 384, 3)
        self.branch_pool = _square(features, 192, 1)
        self.pools_maximum = pools_maximum

    def __call__(self, x: Array) -> Array:
        single = self.branch3x3_1(x)
        double = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        pooled = _max_pool(x, 1, padding=1) if self.pools_maximum else _mean_around(x)
        return jnp.concatenate(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            axis=-1,
        )


class Inception(nnx.Module):
    """Images to features of four depths, and the logits of 1,008 classes."""

    def __init__(self):
        self.Conv2d_1a_3x3 = _square(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _square(32, 32, 3)
        self.Conv2d_2b_3x3 = _square(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _square(64, 80, 1)
        self.Conv2d_4a_3x3 = _square(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, pools_maximum=False)
        self.Mixed_7c = BlockE(2048, pools_maximum=True)
        self.fc = dense(2048, 1008)

    def __call__(self, images: Array) -> dict[str, Array]:
        """Images [B, H, W, 1 or 3] from 0 to 1 -> {"64", "192", "768", "2048", "logits": [B, F]},
        the features' means over space."""
        with jax.default_matmul_precision("highest"):
            x = 2 * resize(to_rgb(images), SIDE) - 1
            x = _chain(x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)
            x = _max_pool(x, 2)
            seen = {"64": x}
            x = _max_pool(_chain(x, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3), 2)
            seen["192"] = x
            x = _chain(
                x,
                self.Mixed_5b,
                self.Mixed_5c,
                self.Mixed_5d,
                self.Mixed_6a,
                self.Mixed_6b,
                self.Mixed_6c,
                self.Mixed_6d,
                self.Mixed_6e,
            )
            seen["768"] = x
            seen["2048"] = _chain(x, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c)
            means = {name: x.mean(axis=(1, 2)) for name, x in seen.items()}
            return means | {"logits": self.fc(means["2048"])}
