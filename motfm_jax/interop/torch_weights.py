"""Parameters of the PyTorch original to ours and back, by name, and its weight files.

The original is a MergedModel of MONAI generative 0.2.3: `unet`, a DiffusionModelUNet, and with
masks `controlnet`, a ControlNet. Its names are dotted, "unet.conv_in.conv.weight" for our
"unet/encoder/conv_in/kernel"; its kernels are (out, in, *space), ours (*space, in, out).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from motfm_jax.io import torch_files
from motfm_jax.io.checkpoints import check_parameters

# Our names to the original's, applied in this order; other parts are equal.
_RENAMED = [
    (r"^(unet|controlnet)/encoder/", r"\1/"),
    (r"^unet/norm_out/", "unet/out/0/"),
    (r"^unet/conv_out/", "unet/out/2/conv/"),
    (r"/time_embed/linear1/", "/time_embed/0/"),
    (r"/time_embed/linear2/", "/time_embed/2/"),
    (r"/(down|up)_blocks/(\d+)/resampler/", r"/\1_blocks/\2/\1sampler/"),
    (r"/(conv1|conv2|skip_connection|proj_in|proj_out|conv_in|conv_out)/", r"/\1/conv/"),
    (r"/to_out/", "/to_out/0/"),
    (r"/mask_embedding/", "/controlnet_cond_embedding/"),
    (r"/skip_convs/0/", "/controlnet_down_blocks/0/"),  # the one without a .conv
    (r"/skip_convs/(\d+)/", r"/controlnet_down_blocks/\1/conv/"),
    (r"/middle_conv/", "/controlnet_mid_block/conv/"),
    (r"/(kernel|scale)$", "/weight"),
]

# DataParallel and torch.compile put these before the names of what they wrap.
_WRAPPERS = ("module", "_orig_mod")
# Checkpoints: the keys of the weights and of the config, and the kind in words.
LAYOUTS = (
    ("state_dict", "hyper_parameters", "Lightning checkpoint"),
    ("model_state_dict", "config", "checkpoint of the original"),
)


class TorchWeights(NamedTuple):
    """The contents of a file of the original.

    Attributes:
      state: name -> float32 array, as MergedModel names them: "unet.…", "controlnet.…".
      config: the original's config in plain containers, if the file holds one.
      step: optimiser updates so far, if the file holds it.
      origin: in words: "Lightning checkpoint, epoch 12, step 1600".
    """

    state: dict[str, np.ndarray]
    config: dict | None
    step: int | None
    origin: str


def read_torch_weights(path: Path) -> TorchWeights:
    """Reads a Lightning .ckpt, the older original's checkpoint.pth, a state dict or .safetensors.

    A state dict of the UNet alone counts as a MergedModel without masks. Nothing in the file is
    executed.

    Raises:
      ValueError: no such file, unreadable, torch or safetensors missing, anything in it but
        tensors and plain containers, or entries that are not weights: they are named.
    """
    path = Path(path)
    if not path.is_file():
        came = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {came}; give a .ckpt, .pt, .pth or .safetensors file")
    if path.suffix == ".safetensors":
        state = _unwrapped(torch_files.load_safetensors(path), path)
        return TorchWeights(state, None, None, "safetensors file")
    contents = torch_files.load(path)
    if not isinstance(contents, Mapping):
        raise ValueError(
            f"{path}: holds a {type(contents).__name__}, a state dict or a checkpoint needed"
        )
    for key, config_key, origin in LAYOUTS:
        if isinstance(contents.get(key), Mapping):
            state = _unwrapped(torch_files.to_arrays(contents[key], path), path)
            epoch, step = contents.get("epoch"), contents.get("global_step")
            origin += f", epoch {epoch}" * isinstance(epoch, int)
            origin += f", step {step}" * isinstance(step, int)
            config = _plain_config(contents.get(config_key))
            return TorchWeights(state, config, step if isinstance(step, int) else None, origin)
    state = _unwrapped(torch_files.to_arrays(contents, path), path)
    return TorchWeights(state, None, None, "PyTorch state dict")


def write_torch_weights(
    path: Path, state: Mapping[str, np.ndarray], config: Mapping | None = None, step: int = 0
) -> None:
    """Writes a file that PyTorch reads; it is whole or absent.

    Args:
      path: the suffix decides: .ckpt as Lightning saves the original's module, .pt and .pth
        MergedModel's state dict, .safetensors the same without PyTorch.
      state: from `to_torch`.
      config: the original's, for a .ckpt, as hyper_parameters.
      step: optimiser updates so far, for a .ckpt.

    Raises:
      ValueError: another suffix, or torch or safetensors missing.
    """
    path = Path(path)
    state = {name: np.asarray(array, np.float32) for name, array in state.items()}
    if path.suffix == ".safetensors":
        torch_files.save_safetensors(path, state)
    elif path.suffix in (".pt", ".pth"):
        torch_files.save(path, state)
    elif path.suffix == ".ckpt":
        checkpoint = {
            "state_dict": {f"model.{name}": array for name, array in state.items()},
            "hyper_parameters": _plain_config(config or {}),
            "hparams_name": "config",  # the argument of the original's module that takes them
            "epoch": 0,
            "global_step": step,
            "pytorch-lightning_version": "2.5.0",  # newer ones migrate it
            # Lightning needs these to train further; its Adam starts afresh.
            "callbacks": {},
            "optimizer_states": [],
            "lr_schedulers": [],
        }
        torch_files.save(path, checkpoint)
    else:
        raise ValueError(f"{path}: use the suffix .ckpt, .pt, .pth or .safetensors")


def from_torch(
    state: Mapping[str, np.ndarray], expected: Mapping[str, Any], where: str
) -> dict[str, np.ndarray]:
    """The original's weights as our parameters, all of them or none.

    Args:
      state: name -> array, as `read_torch_weights` gives them.
      expected: name -> an array or its shape, as `init` of the network returns them.
      where: the file, for messages.

    Raises:
      ValueError: naming, as the original does, the first ten that are missing, extra, of another
        shape, or not finite.
    """
    names = {name: _original_name(name) for name in expected}
    check_parameters(
        state,
        {
            names[name]: jax.ShapeDtypeStruct(_original_shape(name, leaf.shape), np.float32)
            for name, leaf in expected.items()
        },
        where,
    )
    broken = [name for name, leaf in state.items() if not np.isfinite(leaf).all()]
    if broken:
        raise ValueError(
            f"{where}: NaN or infinite values in {', '.join(broken[:10])} ({len(broken)} of "
            f"{len(state)} parameters); take an earlier checkpoint"
        )
    params = {}
    for name in expected:
        leaf = np.asarray(state[names[name]], np.float32)
        if _is_kernel(name):
            leaf = np.moveaxis(leaf, (0, 1), (-1, -2))
        params[name] = np.ascontiguousarray(leaf)
    return params


def to_torch(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters under the original's names and in its layout, float32.

    Raises:
      ValueError: a name that is not the velocity network's.
    """
    state = {}
    for name, leaf in params.items():
        leaf = np.asarray(leaf, np.float32)
        if _is_kernel(name):
            leaf = np.moveaxis(leaf, (-1, -2), (0, 1))
        state[_original_name(name)] = np.ascontiguousarray(leaf)
    return state


def _original_name(name: str) -> str:
    if not re.fullmatch(r"(unet|controlnet)/.+/(kernel|scale|bias)", name):
        raise ValueError(
            f"parameter {name}: unet/... or controlnet/... needed; of our networks only the "
            "velocity network has a counterpart in PyTorch"
        )
    for ours, theirs in _RENAMED:
        name = re.sub(ours, theirs, name)
    return name.replace("/", ".")


def _original_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[-1], shape[-2], *shape[:-2]) if _is_kernel(name) else tuple(shape)


def _is_kernel(name: str) -> bool:
    return name.endswith("/kernel")


def _unwrapped(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The arrays by MergedModel's names, without the prefixes of wrappers."""
    state = {}
    for name, array in arrays.items():
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        bare = ".".join(parts[1:] if parts[:1] == ["model"] else parts)
        if bare in state:
            raise ValueError(
                f"{path}: {bare} occurs twice, under two prefixes; keep one model's state_dict()"
            )
        state[bare] = array
    if any(name.startswith(("unet.", "controlnet.")) for name in state):
        return state
    return {f"unet.{name}": array for name, array in state.items()}


def _plain_config(config: Any) -> dict | None:
    """The config in plain containers; None if there is none."""
    if not isinstance(config, Mapping):
        return None
    plain = _plain(config)
    nested = plain.get("config")  # save_hyperparameters() without the config as its argument
    return nested if isinstance(nested, dict) else plain


def _plain(value: Any) -> Any:
    """Dicts, lists, numbers and strings; anything else becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)
