"""VGG19 up to the first layer of its last stage, for the perceptual loss.

Source: Simonyan and Zisserman 2015; torchvision's vgg19. The loss is that of Wang et al. 2018
(pix2pixHD) and Park et al. 2019 (SPADE), whose code leaves the images in [-1, 1]; here they are
normalised as in the training of the network.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.features.layers import Conv, to_rgb

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
SPREAD = np.array((0.229, 0.224, 0.225), np.float32)
# Channels of each stage, and its convolutions by their numbers in torchvision's `features`.
STAGES = (
    (64, ("0", "2")),
    (128, ("5", "7")),
    (256, ("10", "12", "14", "16")),
    (512, ("19", "21", "23", "25")),
    (512, ("28",)),
)
SMALLEST = 2 ** (len(STAGES) - 1)  # pixels a side


class VGG19(nnx.Module):
    """Images to what the first layer of each stage makes of them."""

    def __init__(self):
        layers, features = {}, 3
        for width, numbers in STAGES:
            for number in numbers:
                layers[number] = Conv(features, width, (3, 3), padding=1)
                features = width
        self.features = nnx.Dict(layers)

    def __call__(self, images: Array) -> dict[str, Array]:
        """Images [B, H, W, 1 or 3] from 0 to 1 -> {"relu1_1": [B, H, W, 64], .. "relu5_1":
        [B, H // 16, W // 16, 512]}."""
        if images.ndim != 4 or min(images.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"images {images.shape}: VGG19 takes 2-D images of {SMALLEST} pixels a side and "
                "more, [B, H, W, C]"
            )
        x, seen = (to_rgb(images) - MEAN.reshape(1, 1, 1, 3)) / SPREAD.reshape(1, 1, 1, 3), {}
        for stage, (_, numbers) in enumerate(STAGES, start=1):
            x = x if stage == 1 else nnx.max_pool(x, (2, 2), (2, 2))
            for number in numbers:
                x = jnp.maximum(self.features[number](x), 0)
                seen.setdefault(f"relu{stage}_1", x)
        return seen
