"""Reads and writes files of PyTorch and of safetensors, as numpy arrays.

Only this module imports torch and safetensors. Nothing in a file is executed: PyTorch's are read by
torch.load(weights_only=True).
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax  # noqa: F401  registers bfloat16 with numpy, by name
import numpy as np

from motfm_jax.io.folders import whole_file

# Older ones can be made to run code even with weights_only: CVE-2025-32434, CVE-2026-24747.
OLDEST_TORCH = (2, 10)
FLOATS = ("F64", "F32", "F16", "BF16")


def load(path: Path) -> Any:
    """Reads what torch.save wrote: plain containers and tensors.

    Raises:
      ValueError: unreadable, torch missing, or the file refers to anything else, which is named.
    """
    torch = _torch(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # the errors below have what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch raise any exception
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise _unreadable(path, error) from error
        raise ValueError(
            f"{path}: it refers to {named[1]}; only tensors and plain containers are read, "
            "anything else could run code. If you trust its author: torch.load(..., "
            "weights_only=False), which executes the file, and torch.save of its state_dict alone"
        ) from error


def to_arrays(entries: Mapping[Any, Any], path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict as float32 arrays.

    Raises:
      ValueError: names the entries that are not dense floating-point tensors.
    """
    torch = _torch(path)
    arrays, wrong = {}, []
    for name, value in entries.items():
        if not isinstance(value, torch.Tensor):
            wrong.append(f"{name} is {type(value).__name__}")
        elif not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            wrong.append(f"{name} is {value.dtype}, {value.layout}, {value.device}")
        else:
            arrays[str(name)] = value.detach().to(torch.float32).numpy()
    _refuse(wrong, path)
    return arrays


def load_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file as float32 arrays.

    Raises:
      ValueError: unreadable, safetensors missing; names the tensors that are not floating-point.
    """
    safetensors = _safetensors(path)
    arrays, wrong = {}, []
    try:
        with safetensors.safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  the file is no mapping
                kind = file.get_slice(name).get_dtype()
                if kind in FLOATS:
                    arrays[name] = np.array(file.get_tensor(name), np.float32)
                else:
                    wrong.append(f"{name} is {kind}")
    except Exception as error:  # damaged bytes make safetensors raise any exception
        raise _unreadable(path, error) from error
    _refuse(wrong, path)
    return arrays


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Writes nested dicts for torch.load, arrays as tensors; the file is whole or absent.

    Raises:
      ValueError: torch missing.
    """
    torch = _torch(path)
    with whole_file(path) as draft, open(draft, "wb") as file:
        torch.save(_with_tensors(contents, torch), file)


def _with_tensors(value: Any, torch: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_tensors(item, torch) for name, item in value.items()}
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


def save_safetensors(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as .safetensors; the file is whole or absent.

    Raises:
      ValueError: safetensors missing.
    """
    safetensors = _safetensors(path)
    # It writes an array's memory, whatever its strides.
    state = {name: np.ascontiguousarray(array) for name, array in state.items()}
    with whole_file(path) as draft:
        draft.write_bytes(safetensors.numpy.save(state, metadata={"format": "pt"}))


def _refuse(wrong: list[str], path: Path) -> None:
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(
            f"{path}: not the weights of a network, tensors of floating point needed: "
            f"{'; '.join(wrong[:10])}{more}; save the model's state_dict() alone"
        )


def _unreadable(path: Path, error: Exception) -> ValueError:
    text = str(error).split("WeightsUnpickler error:")[-1].strip()  # torch's advice precedes it
    reason = text.splitlines()[0][:200] if text else type(error).__name__
    return ValueError(
        f"{path}: cannot be read as weights ({reason}); the file is damaged, incomplete or of "
        "another kind, copy it again"
    )


def _torch(path: Path) -> Any:
    try:
        import torch  # optional, and slow to import
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: needs PyTorch, which is not installed; pip install 'motfm_jax[torch]', or "
            "use a .safetensors file"
        ) from error
    if torch.__version__ < OLDEST_TORCH:
        raise ValueError(
            f"{path}: PyTorch {torch.__version__} may execute a crafted file; "
            f"pip install -U 'torch>={'.'.join(map(str, OLDEST_TORCH))}'"
        )
    return torch


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy  # optional
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: needs safetensors, which is not installed; pip install 'motfm_jax[torch]'"
        ) from error
    return safetensors
