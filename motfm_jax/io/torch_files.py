"""Files of PyTorch and of safetensors, with numpy arrays; the only file that imports either.

Nothing that a file says is executed: PyTorch's are read by torch.load(weights_only=True).
"""

import contextlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax  # noqa: F401  it teaches numpy bfloat16, by name
import numpy as np

from motfm_jax.io.files import check_archive
from motfm_jax.io.folders import whole_file

# Older ones can be made to run code even with weights_only: CVE-2025-32434, CVE-2026-24747.
OLDEST_TORCH = (2, 10)
FLOATS = ("F64", "F32", "F16", "BF16")


def load(path: Path) -> Any:
    """What torch.save wrote: plain containers and tensors.

    Raises:
      ValueError: unreadable, torch missing, or anything else in it: its name is given.
    """
    if zipfile.is_zipfile(path):
        check_archive(path)
    torch = _torch(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes may make a reader raise anything
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise _unreadable(path, error) from error
        raise ValueError(
            f"{path}: it refers to {named[1]}; only tensors and plain containers are read, "
            "anything else could run code. If you trust who made it: torch.load(..., "
            "weights_only=False), which executes whatever the file says, and torch.save of its "
            "state_dict alone"
        ) from error


def to_arrays(entries: Mapping[Any, Any], path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict as float32 arrays.

    Raises:
      ValueError: entries that are none, or not of floating point, by name.
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
      ValueError: unreadable, safetensors missing, or tensors not of floating point, by name.
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
    except Exception as error:  # foreign bytes may make a reader raise anything
        raise _unreadable(path, error) from error
    _refuse(wrong, path)
    return arrays


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Writes nested dicts for torch.load, arrays as tensors; the file is whole or not there.

    Raises:
      ValueError: torch missing.
    """
    torch = _torch(path)

    def with_tensors(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: with_tensors(item) for name, item in value.items()}
        return torch.tensor(value) if isinstance(value, np.ndarray) else value

    with _draft(path) as file:
        torch.save(with_tensors(contents), file)


def save_safetensors(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as .safetensors; the file is whole or not there.

    Raises:
      ValueError: safetensors missing.
    """
    safetensors = _safetensors(path)
    # It writes an array's memory as it lies, whatever its strides.
    state = {name: np.ascontiguousarray(array) for name, array in state.items()}
    with _draft(path) as file:
        file.write(safetensors.numpy.save(state, metadata={"format": "pt"}))


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[BinaryIO]:
    try:
        with whole_file(path) as draft, open(draft, "wb") as file:
            yield file
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written ({error.strerror}); give another --out"
        ) from error


def _refuse(wrong: list[str], path: Path) -> None:
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(
            f"{path}: not the weights of a network, tensors of floating point needed: "
            f"{'; '.join(wrong[:10])}{more}; save the model's state_dict() alone"
        )


def _unreadable(path: Path, error: Exception) -> ValueError:
    told = str(error).split("WeightsUnpickler error:")[-1].strip()  # after torch's advice
    reason = told.splitlines()[0][:200] if told else type(error).__name__
    return ValueError(
        f"{path}: cannot be read as weights ({reason}); the file is damaged, incomplete or of "
        "another kind, copy it again"
    )


def _torch(path: Path) -> Any:
    try:
        import torch  # optional, and slow to import
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: needs PyTorch, which is not installed; pip install -e '.[torch]', or use "
            "a .safetensors file"
        ) from error
    if torch.__version__ < OLDEST_TORCH:
        raise ValueError(
            f"{path}: PyTorch {torch.__version__} may execute what a crafted file says; "
            f"pip install -U 'torch>={'.'.join(map(str, OLDEST_TORCH))}'"
        )
    return torch


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy  # optional
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: needs safetensors, which is not installed; pip install -e '.[torch]'"
        ) from error
    return safetensors
