"""The image tower of CLIP ViT-L/14 at 336 pixels, as CMMD uses it.

Source: Radford et al. 2021; Jayasumana et al. 2024 (CMMD) and google-research/cmmd, which resizes
with PyTorch's bicubic interpolation; `CLIPVisionModelWithProjection` of transformers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from motfm_jax.core import Array
from motfm_jax.features.layers import Conv, dense, layer_norm, resize, to_rgb

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
SPREAD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """Sizes; those of ViT-L/14 at 336 pixels."""

    side: int = 336
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    projection: int = 768


class SelfAttention(nnx.Module):
    def __init__(self, width: int, heads: int):
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            dense(width, width) for _ in range(4)
        )
        self.heads = heads

    def __call__(self, x: Array) -> Array:
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)  # noqa: E731
        attended = jax.nn.dot_product_attention(
            split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        )
        return self.out_proj(attended.reshape(x.shape))


class Perceptron(nnx.Module):
    def __init__(self, width: int, hidden: int):
        self.fc1, self.fc2 = dense(width, hidden), dense(hidden, width)

    def __call__(self, x: Array) -> Array:
        x = self.fc1(x)
        return self.fc2(x * jax.nn.sigmoid(1.702 * x))  # OpenAI's quick GELU


class Layer(nnx.Module):
    def __init__(self, settings: ClipSettings):
        self.layer_norm1 = layer_norm(settings.width)
        self.self_attn = SelfAttention(settings.width, settings.heads)
        self.layer_norm2 = layer_norm(settings.width)
        self.mlp = Perceptron(settings.width, settings.hidden)

    def __call__(self, x: Array) -> Array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipImageTower(nnx.Module):
    """Images to embeddings of length one."""

    def __init__(self, settings: ClipSettings | None = None):
        settings = settings or ClipSettings()
        tokens = (settings.side // settings.patch) ** 2 + 1
        self.class_embedding = nnx.Param(jnp.zeros(settings.width))
        self.position_embedding = nnx.Param(jnp.zeros((tokens, settings.width)))
        self.patch_embedding = Conv(3, settings.width, (settings.patch,) * 2, settings.patch)
        self.pre_layrnorm = layer_norm(settings.width)  # spelt as it is published
        self.layers = nnx.List(Layer(settings) for _ in range(settings.layers))
        self.post_layernorm = layer_norm(settings.width)
        self.visual_projection = dense(settings.width, settings.projection, use_bias=False)
        self.side = settings.side

    def __call__(self, images: Array) -> dict[str, Array]:
        """Images [B, H, W, 1 or 3] from 0 to 1 -> {"clip": [B, 768]}."""
        with jax.default_matmul_precision("highest"):
            scale = (1, 1, 1, 3)
            x = resize(to_rgb(images), self.side, cubic=True)
            x = self.patch_embedding((x - MEAN.reshape(scale)) / SPREAD.reshape(scale))
            batch, *_, width = x.shape
            first = jnp.broadcast_to(self.class_embedding[...].reshape(1, 1, -1), (batch, 1, width))
            x = jnp.concatenate([first, x.reshape(batch, -1, width)], axis=1)
            x = self.pre_layrnorm(x + self.position_embedding[...][None])
            for layer in self.layers:
                x = layer(x)
            x = self.visual_projection(self.post_layernorm(x[:, 0]))
            return {"clip": x / jnp.linalg.norm(x, axis=-1, keepdims=True)}
