"""Reads foreign pickles: plain containers, numpy arrays and torch tensors, nothing else.

A pickle names classes and functions and calls them. `ALLOWED` lists the only names that are
accepted; none of them runs code of the file. numpy's own classes are not among them:
ndarray((1,), "O", bytes) and the flags in a dtype's state make numpy follow pointers that the file
chose. Tensors are read without torch.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of a pickled torch storage
TORCH_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class Refused(pickle.UnpicklingError):
    """The pickle holds something that is neither a container nor an array."""


def load(path: Path) -> Any:
    """The object in a pickle file, with numpy arrays in place of torch tensors.

    Raises:
      ValueError: no such file, damaged, or it holds anything else, which is named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a .pkl file")
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise ValueError(
                f"{path}: a zip archive, as torch.save writes; write it with pickle.dump instead"
            )
        file.seek(0)
        try:
            return _Unpickler(file).load()
        except Refused as refusal:
            raise ValueError(
                f"{path}: {refusal}; only plain containers, numpy arrays and torch tensors are "
                "read: store numpy arrays"
            ) from refusal
        except Exception as error:  # damaged bytes make an unpickler raise any exception
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{path}: cannot be read as a pickle ({reason}); the file is damaged or "
                "incomplete, write it again"
            ) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if (module, name) not in ALLOWED:
            raise Refused(f"it refers to {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("it refers to objects outside the file")


class _StorageUnpickler(_Unpickler):
    """Reads the pickles inside a torch storage, which refer to the values that follow them."""

    def persistent_load(self, pid: Any) -> tuple[np.dtype, int]:
        kind, dtype, _, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise Refused("it holds a torch storage of an unknown kind")
        return dtype, count


def _storage(data: bytes) -> np.ndarray:
    """torch.storage._load_from_bytes: five pickles, the count in 8 bytes, the values."""
    stream = io.BytesIO(data)
    magic, _, system, (dtype, count), _ = (_StorageUnpickler(stream).load() for _ in range(5))
    if magic != TORCH_MAGIC or not system["little_endian"]:
        raise Refused("it holds a torch storage of an unknown format")
    return np.frombuffer(data, dtype, count, offset=stream.tell() + 8)


def _tensor(
    storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> np.ndarray:
    """torch._utils._rebuild_tensor_v2. numpy refuses a view that reaches beyond its storage."""
    steps = [stride * storage.itemsize for stride in strides]
    return np.ndarray(shape, storage.dtype, storage, offset * storage.itemsize, steps)


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


class _Dtype:
    """Stands for numpy.dtype: booleans, numbers and text; of its state only the byte order."""

    def __init__(self, code: str, *_: Any):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufSU":
            raise Refused(f"it holds an array of type {self.dtype}")

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands for numpy.ndarray between its creation and its state. It pickles as numpy's own."""

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, is_fortran, data = state
        array = _from_bytes(data, dtype, shape)
        super().__setstate__((1, array.shape, array.dtype, bool(is_fortran), array.tobytes()))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _reconstruct(*_: Any) -> _Array:
    return np.zeros(0).view(_Array)


def _from_bytes(
    data: bytes, dtype: _Dtype, shape: Sequence[int], order: Any = "C", axes: Any = None
) -> np.ndarray:
    """numpy._core.numeric._frombuffer, by which protocol 5 writes arrays."""
    if not isinstance(data, bytes | bytearray):
        raise Refused("it holds an array of objects")
    values = np.frombuffer(data, dtype.dtype) if data else np.zeros(0, dtype.dtype)
    if order == "K" and axes is not None:
        return values.reshape(shape).transpose(axes)
    return values.reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes = b"") -> np.generic:
    return _from_bytes(data, dtype, ())[()]


def _latin1(text: str, encoding: str) -> bytes:
    """codecs.encode, by which protocols below 3 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"it holds bytes encoded as {encoding!r}")
    return text.encode("latin1")


ALLOWED = {
    ("numpy", "ndarray"): "ndarray",  # only an argument
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_bytes,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, complex, bytes, bytearray)},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{("torch", name): np.dtype(code) for name, code in TORCH_DTYPES.items()},
}
