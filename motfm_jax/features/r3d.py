"""R3D-18, a 3-D ResNet trained on the videos of Kinetics-400: 512 features of a volume.

Source: Tran et al. 2018; torchvision's r3d_18.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.features.layers import Conv, to_rgb

MEAN = np.array((0.43216, 0.394666, 0.37645), np.float32)
SPREAD = np.array((0.22803, 0.22145, 0.216989), np.float32)


class Block(nnx.Module):
    def __init__(self, features_in: int, features_out: int, stride: int):
        self.conv1 = Conv(features_in, features_out, (3, 3, 3), stride, padding=1)
        self.conv2 = Conv(features_out, features_out, (3, 3, 3), padding=1)
        self.downsample = Conv(features_in, features_out, (1, 1, 1), stride) if stride > 1 else None

    def __call__(self, x: Array) -> Array:
        skip = x if self.downsample is None else self.downsample(x)
        return nnx.relu(skip + self.conv2(nnx.relu(self.conv1(x))))


class R3D18(nnx.Module):
    """Volumes to features."""

    def __init__(self):
        self.stem = Conv(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3))
        self.layer1 = nnx.List([Block(64, 64, 1), Block(64, 64, 1)])
        self.layer2 = nnx.List([Block(64, 128, 2), Block(128, 128, 1)])
        self.layer3 = nnx.List([Block(128, 256, 2), Block(256, 256, 1)])
        self.layer4 = nnx.List([Block(256, 512, 2), Block(512, 512, 1)])

    def __call__(self, volumes: Array) -> dict[str, Array]:
        """Volumes [B, D, H, W, 1 or 3] from 0 to 1, slices as frames -> {"512": [B, 512]}."""
        with jax.default_matmul_precision("highest"):
            scale = (1, 1, 1, 1, 3)
            x = (to_rgb(volumes) - MEAN.reshape(scale)) / SPREAD.reshape(scale)
            x = nnx.relu(self.stem(x))
            for blocks in (self.layer1, self.layer2, self.layer3, self.layer4):
                for block in blocks:
                    x = block(x)
            return {"512": jnp.mean(x, axis=(1, 2, 3))}
