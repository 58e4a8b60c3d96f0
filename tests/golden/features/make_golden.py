"""Writes what the published feature networks compute with drawn weights, to this folder.

    python tests/golden/features/make_golden.py

in an environment with torch 2.13.0 (CPU), torchvision, transformers and pytorch-fid 0.3.0. Weights
are drawn by `draw` from the parameters' names alone, so that a test can draw them again; no network
is downloaded.
"""

import sys
import types
import zlib
from pathlib import Path

import numpy as np

VGG = {1: "relu1_1", 6: "relu2_1", 11: "relu3_1", 20: "relu4_1", 29: "relu5_1"}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a parameter by its published name, of a size that keeps activations near 1."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = 0.5 + np.abs(values)
    elif len(shape) > 1 and "position" not in name:
        values *= np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("weight") and len(shape) == 1:
        values = 1 + 0.2 * values
    else:
        values *= 0.1
    return values.astype(np.float32)


def images(*shape: int) -> np.ndarray:
    """Inputs from 0 to 1, channels last."""
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def fill(model):
    """Draws every parameter and statistic of a torch module."""
    import torch

    state = model.state_dict()
    model.load_state_dict(
        {
            name: torch.from_numpy(draw(name, tuple(value.shape)))
            if value.is_floating_point()
            else value
            for name, value in state.items()
        }
    )
    return model.eval()


def main() -> None:
    import torch

    # Compiled operators, which these networks don't use and torchvision's wheel may lack.
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")
    import pytorch_fid.inception as fid
    from torchvision.models import vgg
    from torchvision.models.video import r3d_18
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.set_grad_enabled(False)
    folder = Path(__file__).parent
    first = lambda x: torch.from_numpy(np.moveaxis(x, -1, 1).copy())  # noqa: E731

    holder = {}
    fid.load_state_dict_from_url = lambda *_, **__: holder["model"].state_dict()
    made = fid._inception_v3

    def remember(*args, **kwargs):
        holder["model"] = made(*args, **kwargs)
        return holder["model"]

    fid._inception_v3 = remember
    features = fid.InceptionV3(output_blocks=(0, 1, 2, 3))
    inception = fill(holder["model"])
    rgb = np.repeat(images(2, 40, 56, 1), 3, axis=-1)
    seen = [x.mean(dim=(2, 3)).numpy() for x in features.eval()(first(rgb))]
    logits = inception.fc(torch.from_numpy(seen[-1])).numpy()
    np.savez_compressed(
        folder / "inception.npz", **dict(zip(("64", "192", "768", "2048"), seen)), logits=logits
    )

    volume = np.repeat(images(2, 8, 24, 20, 1), 3, axis=-1)
    mean, spread = (
        np.array(v, np.float32)
        for v in ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
    )
    r3d = fill(r3d_18(weights=None))
    r3d.fc = torch.nn.Identity()
    np.savez_compressed(folder / "r3d.npz", **{"512": r3d(first((volume - mean) / spread)).numpy()})

    clip = fill(
        CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=48,
                projection_dim=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=28,
                patch_size=7,
            )
        )
    )
    resized = torch.nn.functional.interpolate(first(rgb), size=(28, 28), mode="bicubic").numpy()
    mean, spread = (
        np.array(v, np.float32).reshape(1, 3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    embedded = clip(torch.from_numpy((resized - mean) / spread)).image_embeds.numpy()
    embedded = embedded / np.linalg.norm(embedded, axis=-1, keepdims=True)
    np.savez_compressed(folder / "clip.npz", resized=np.moveaxis(resized, 1, -1), clip=embedded)

    np.savez_compressed(folder / "vgg.npz", **vgg_layers(vgg, 2, 36, 21))


def vgg_layers(vgg, *shape: int) -> dict[str, np.ndarray]:
    """Of torchvision's module: {"relu1_1": every eighth channel [B, H, W, 8], ..}."""
    import torch

    x = np.repeat(images(*shape, 1), 3, axis=-1)
    mean, spread = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    network = torch.nn.Module()
    network.features = vgg.make_layers(vgg.cfgs["E"], batch_norm=False)
    fill(network)
    x, seen = torch.from_numpy(np.moveaxis((x - mean) / spread, -1, 1).copy()), {}
    for number, layer in enumerate(network.features[:30]):
        x = layer(x)
        if number in VGG:
            seen[VGG[number]] = np.moveaxis(x.detach().numpy(), 1, -1)[..., ::8].copy()
    return seen


if __name__ == "__main__":
    sys.exit(main())
