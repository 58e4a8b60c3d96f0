"""Published weights of the feature extractors: converted once, stored, read back.

A network without its published file cannot be used; nothing here draws weights.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from motfm_jax.core import Array, Params
from motfm_jax.features.clip import ClipImageTower
from motfm_jax.features.inception import Inception
from motfm_jax.features.r3d import R3D18
from motfm_jax.features.vgg import VGG19
from motfm_jax.io.folders import whole_file
from motfm_jax.io.npz import open_npz
from motfm_jax.io.torch_files import load, load_safetensors, to_arrays
from motfm_jax.nn.functional import functional


class Published(NamedTuple):
    """A network whose weights others have published.

    Attributes:
      make: the module, its weights not yet those.
      file: the published file.
      source: where it is published.
      sha256: what the hash of the file begins with.
      convolution, norm: what follows a layer's name in the names of its convolution and of the
        normalisation behind it.
      norm_epsilon: of that normalisation.
      name: our name of a layer -> the published one, without what follows.
      alone: published names of parameters that belong to no layer.
    """

    make: Callable[[], nnx.Module]
    file: str
    source: str
    sha256: str
    convolution: str = ""
    norm: str = ""
    norm_epsilon: float = 0.0
    name: Callable[[str], str] = lambda layer: layer.replace("/", ".")
    alone: Mapping[str, str] = {}


def _name_in_clip(layer: str) -> str:
    name = layer.replace("/", ".")
    if name == "visual_projection":
        return name
    if name.startswith("layers."):
        return f"vision_model.encoder.{name}"
    return f"vision_model.{'embeddings.' * name.startswith('patch')}{name}"


NETWORKS = {
    "inception": Published(
        Inception,
        "pt_inception-2015-12-05-6726825d.pth",
        "github.com/mseitzer/pytorch-fid, release fid_weights",
        "6726825d",
        ".conv",
        ".bn",
        1e-3,
    ),
    "clip": Published(
        ClipImageTower,
        "pytorch_model.bin",
        "huggingface.co/openai/clip-vit-large-patch14-336",
        "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
        name=_name_in_clip,
        alone={
            "class_embedding": "vision_model.embeddings.class_embedding",
            "position_embedding": "vision_model.embeddings.position_embedding.weight",
        },
    ),
    "r3d": Published(
        R3D18, "r3d_18-b3b3357e.pth", "download.pytorch.org/models", "b3b3357e", ".0", ".1", 1e-5
    ),
    "vgg": Published(VGG19, "vgg19-dcbb9e9d.pth", "download.pytorch.org/models", "dcbb9e9d"),
}


@functools.cache
def network(name: str) -> Callable[[Params, Array], dict[str, Array]]:
    """(params, images from 0 to 1) -> features by name, of one of NETWORKS."""
    module, _ = functional(lambda draws: NETWORKS[name].make())
    return lambda params, images: module(params)(images)


def shapes(make: Callable[[], nnx.Module]) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's parameters by name."""
    _, init = functional(lambda draws: make())
    return {name: leaf.shape for name, leaf in jax.eval_shape(init, jax.random.key(0)).items()}


def translate(
    published: Published,
    state: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """A state dict of the published network as our parameters, normalisation folded in float64.

    Args:
      published: one of NETWORKS.
      state: arrays by their published names; others than the network's are ignored.
      expected: `shapes` of the network.

    Raises:
      ValueError: an array that is missing or of another shape.
    """
    params = {}
    for name in expected:
        layer, _, kind = name.rpartition("/")
        if kind == "bias" and f"{layer}/kernel" in expected:
            continue  # together with its kernel
        params |= _layer(published, state, layer, kind, biased=f"{layer}/bias" in expected)
    for name, shape in expected.items():
        if params[name].shape != tuple(shape):
            raise ValueError(f"{name}: {params[name].shape} in the file, {tuple(shape)} needed")
    return params


def _layer(
    published: Published, state: Mapping[str, np.ndarray], layer: str, kind: str, biased: bool
) -> dict[str, np.ndarray]:
    """One layer's parameters."""
    if kind in published.alone:
        return {kind: _take(state, published.alone[kind])}
    prefix = published.name(layer)
    if kind != "kernel":
        suffix = {"scale": ".weight", "bias": ".bias"}[kind]
        return {f"{layer}/{kind}": _take(state, prefix + suffix)}
    # A dense layer has no normalisation behind it and no name between.
    folded = bool(published.norm) and f"{prefix}{published.convolution}.weight" in state
    weight = _take(state, f"{prefix}{published.convolution * folded}.weight")
    bias = np.zeros(len(weight))
    if folded:
        norm = {
            part: _take(state, f"{prefix}{published.norm}.{part}").astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        slope = norm["weight"] / np.sqrt(norm["running_var"] + published.norm_epsilon)
        weight = weight * slope.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = norm["bias"] - norm["running_mean"] * slope
    elif prefix + ".bias" in state:
        bias = _take(state, prefix + ".bias")
    # [out, in, *S] -> [*S, in, out]
    kernel = np.moveaxis(weight, (0, 1), (-1, -2))
    params = {f"{layer}/kernel": np.ascontiguousarray(kernel, np.float32)}
    return params | ({f"{layer}/bias": np.asarray(bias, np.float32)} if biased else {})


def _take(state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in state:
        raise ValueError(f"{name} is missing: another network's weights")
    return state[name]


def convert(name: str, source: Path, folder: Path) -> Path:
    """Converts a published file.

    Args:
      name: of NETWORKS.
      source: the published file.
      folder: where to store the weights.

    Returns:
      The file written.

    Raises:
      ValueError: no such file, another file than the published one, or one of another network.
    """
    published = NETWORKS[name]
    if not source.is_file():
        raise ValueError(
            f"{source}: no such file; {name} needs {published.file} of {published.source}"
        )
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(published.sha256):
        raise ValueError(
            f"{source}: its SHA-256 is {digest}, that of {published.file} of {published.source} "
            f"begins with {published.sha256}: another or a damaged file, download it again"
        )
    if source.suffix == ".safetensors":
        state = load_safetensors(source)
    else:
        entries = {
            key: value
            for key, value in load(source).items()
            if not key.endswith(("num_batches_tracked", "position_ids"))
            and not key.startswith(("text_model", "text_projection", "logit_scale"))
        }
        state = to_arrays(entries, source)
    params = translate(published, state, shapes(published.make))
    return write(folder, name, params, digest)


def default_folder() -> Path:
    """Where published networks are stored: below $MOTFM_CACHE, by default ~/.cache/motfm_jax."""
    return Path(os.environ.get("MOTFM_CACHE") or Path.home() / ".cache" / "motfm_jax") / "features"


def path_of(folder: Path, name: str) -> Path:
    """Where `convert` stores a network."""
    return folder / f"{name}.npz"


def write(folder: Path, name: str, params: Params, source: str) -> Path:
    """Stores weights with the SHA-256 of the file they came from."""
    path = path_of(folder, name)
    with whole_file(path) as draft:
        np.savez(draft, **params, source_sha256=np.array(source))
    return path


def read(folder: Path, name: str) -> tuple[dict[str, np.ndarray], str]:
    """Weights that `convert` stored, and the SHA-256 of the published file they came from.

    Raises:
      ValueError: no weights, or a damaged file.
    """
    path = path_of(folder, name)
    if not path.is_file():
        published = NETWORKS[name]
        raise ValueError(
            f"{path}: no weights of {name}; download {published.file} from {published.source} and "
            f"run motfm convert features --network={name} --weights=FILE"
        )
    try:
        with open_npz(path) as saved:
            params = {key: saved[key] for key in saved.files}
        if "note" in params:  # as the first version stored it
            return params, json.loads(str(params.pop("note")))["source_sha256"]
        return params, str(params.pop("source_sha256"))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}); run motfm convert features again") from error
