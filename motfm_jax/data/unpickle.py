"""Reading pickles from strangers: plain containers, numpy arrays and torch tensors, nothing else.

A pickle names functions and has them called. Here every name leads to a stand-in of this file or
to a refusal: no name is imported and no foreign function is called, neither numpy's own
(its C code trusts the state it is given) nor torch's (which need not be installed).
"""

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first value of what torch.storage pickles itself as
TORCH_TYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def load(path: Path) -> Any:
    """The one object in a pickle file, with numpy arrays where it holds arrays or torch tensors.

    Raises:
      ValueError: no such file, damaged or incomplete, or it holds anything else: its name is given.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a .pkl file")
    with open(path, "rb") as stream:
        if stream.read(4) == b"PK\x03\x04":
            raise ValueError(
                f"{path}: a zip archive, as torch.save writes; write it with pickle.dump instead"
            )
        stream.seek(0)
        try:
            return _load(stream, _Unpickler)
        except Refused as refusal:
            raise ValueError(
                f"{path}: {refusal}; only plain containers, numpy arrays and torch tensors are "
                "read: store numpy arrays"
            ) from refusal
        except Exception as error:  # foreign bytes may make an unpickler raise anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{path}: cannot be read as a pickle ({reason}); the file is damaged or "
                "incomplete, write it again"
            ) from error


class Refused(pickle.UnpicklingError):
    """The pickle holds something that is neither a container nor an array."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in TORCH_TYPES:
            return _StorageType(name)
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise Refused(f"it refers to {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("it refers to objects outside the file")


class _Type:
    """Stands for numpy.dtype: booleans, integers, floats and text of a fixed width."""

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or code[:1] not in tuple("biufSU") or not code[1:].isdigit():
            raise Refused(f"it holds an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Sequence[Any]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise Refused(f"it holds an array of byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands for numpy.ndarray while its state is still to come."""

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, is_fortran, data = state
        array = _from_bytes(data, kind, shape)
        super().__setstate__((1, array.shape, array.dtype, bool(is_fortran), array.tobytes()))

    def __reduce_ex__(self, protocol: int) -> Any:
        # Pickled again it is numpy's own, readable without this program.
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _reconstruct(*_: Any) -> _Array:
    return np.zeros(0).view(_Array)


def _from_bytes(data: bytes, kind: _Type, shape: Sequence[int], order: str = "C", axes=None):
    """numpy's `_frombuffer`; the bytes must fill the shape exactly. Order "K" comes with axes."""
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray):
        raise Refused("it holds an array of objects")
    _check_counts(shape)
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    values = np.frombuffer(data, kind.dtype)
    if order == "K" and axes is not None:
        return values.reshape(shape).transpose(axes)
    return values.reshape(shape, order=order)


def _scalar(kind: _Type, data: bytes = b"") -> np.generic:
    return _from_bytes(data, kind, ())[()]


def _encode(text: str, encoding: str) -> bytes:
    """How protocols below 3 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"it holds bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _bytes(data: bytes | str = b"", *encoding: str) -> bytes:
    """bytes and bytearray where the protocol has no sign for them; never of a mere count."""
    return _encode(data, *encoding) if encoding else b"".join([data])


class _StorageType(str):
    """Stands for torch.FloatStorage and its like."""


class _StorageUnpickler(_Unpickler):
    """Reads torch's own format inside the pickle, where the storage is given by reference."""

    def persistent_load(self, pid: Any) -> Any:
        kind, storage_type, _, _, count, view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
            raise Refused("it holds a torch storage of an unknown kind")
        return np.dtype(TORCH_TYPES[storage_type]), count


def _load(stream: BinaryIO, unpickler: type[_Unpickler]) -> Any:
    """The next pickle of a stream, once no sign in it asks for more memory than it has bytes."""
    start, size = stream.tell(), stream.seek(0, io.SEEK_END)
    stream.seek(start)
    for count, (sign, argument, _) in enumerate(pickletools.genops(_Honest(stream, size))):
        # The C code makes room for as many objects as the highest number it meets.
        if sign.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise ValueError(f"it numbers an object {argument} after {count} signs")
        if sign.name == "FRAME" and argument > size - stream.tell():
            raise ValueError("it announces more bytes than there are")
    stream.seek(start)
    return unpickler(stream).load()


class _Honest(NamedTuple):
    """A stream that is not asked for more than it has."""

    stream: BinaryIO
    size: int

    def read(self, count: int) -> bytes:
        if count > self.size - self.stream.tell():
            raise ValueError("it announces more bytes than there are")
        return self.stream.read(count)

    def readline(self) -> bytes:
        return self.stream.readline()

    def tell(self) -> int:
        return self.stream.tell()


def _load_storage(data: bytes) -> np.ndarray:
    """torch.storage._load_from_bytes: five pickles, the count as 8 bytes, and the values."""
    stream = io.BytesIO(data)
    magic, _, system, (dtype, count), _ = (_load(stream, _StorageUnpickler) for _ in range(5))
    if magic != TORCH_MAGIC or not system["little_endian"]:
        raise Refused("it holds a torch storage of an unknown format")
    written = int.from_bytes(stream.read(8), "little")
    if written != count:
        raise ValueError(f"a torch storage of {count} values says it has {written}")
    return np.frombuffer(data, dtype.newbyteorder("<"), count, offset=stream.tell())


def _load_tensor(storage: np.ndarray, offset: int, shape, strides, *_: Any) -> np.ndarray:
    """torch._utils._rebuild_tensor_v2: a view that must lie inside its storage."""
    if not isinstance(storage, np.ndarray):
        raise Refused("it holds a torch tensor without a storage")
    _check_counts((offset, *shape, *strides))
    if len(shape) != len(strides):
        raise ValueError(f"a torch tensor of shape {shape} has strides {strides}")
    if math.prod(shape) > len(storage):
        raise Refused(f"it holds a torch tensor expanded to {shape}")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides))
    if last >= len(storage):
        raise ValueError(f"a torch tensor of shape {shape} reaches beyond its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _load_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


def _check_counts(counts: Sequence[int]) -> None:
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"sizes {counts} where whole numbers from 0 were needed")


class _Name(NamedTuple):
    """A name that is only ever an argument."""

    name: str


def _numpy_names() -> dict[tuple[str, str], Callable | _Name]:
    """The same under numpy 1's and numpy 2's module names."""
    names = {("numpy", "ndarray"): _Name("ndarray"), ("numpy", "dtype"): _Type}
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        names[f"{core}.multiarray", "scalar"] = _scalar
        names[f"{core}.numeric", "_frombuffer"] = _from_bytes
    return names


_STAND_INS = {
    **_numpy_names(),
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")  # protocol 2's name
        for kind in (set, frozenset, complex)
    },
    **{
        (module, name): _bytes
        for module in ("builtins", "__builtin__")
        for name in ("bytes", "bytearray")
    },
    ("torch._utils", "_rebuild_tensor_v2"): _load_tensor,
    ("torch._utils", "_rebuild_tensor"): _load_tensor,
    ("torch._utils", "_rebuild_parameter"): _load_parameter,
    ("torch.storage", "_load_from_bytes"): _load_storage,
}
