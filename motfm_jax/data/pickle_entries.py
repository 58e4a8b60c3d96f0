"""One entry of the original's pickle: what it must hold, and in which types it is written."""

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST_LABEL = np.iinfo(np.int32).max  # masks are written as int32
MOST_LISTED = 1000  # entries of a list of numbers


def read_entry(entry: Any, where: str) -> dict[str, Any]:
    """The entry as it is, without what is None; "class" as an int (also numpy's) or a str.

    Raises:
      ValueError: what is missing or wrong in it.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {type(entry).__name__}, a dict with an 'image' needed")
    entry = {name: value for name, value in entry.items() if value is not None}
    if "image" not in entry:
        raise ValueError(f"{where}: keys {shown(list(entry)[:5])}, a dict with an 'image' needed")
    entry["image"] = _array(entry["image"], f"{where}: image")
    if "mask" in entry:
        entry["mask"] = _whole(_array(entry["mask"], f"{where}: mask"), f"{where}: mask")
    if "class" in entry:
        entry["class"] = _class(entry["class"], where)
    return entry


def _array(values: Any, where: str) -> np.ndarray:
    array = np.array(values, copy=None, subok=False) if isinstance(values, np.ndarray) else None
    if array is None or array.dtype.kind not in "buif" or array.size == 0:
        came = f"a {type(values).__name__}" if array is None else f"{array.dtype} {array.shape}"
        raise ValueError(f"{where} is {came}, an array of numbers needed")
    return array


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    """Labels; floats must hold whole numbers exactly."""
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        wrong = values[~finite | (values != np.rint(np.where(finite, values, 0)))]
        if wrong.size:
            raise ValueError(
                f"{where} has values such as {wrong[0]:g}, whole numbers needed; store labels, "
                "not their scaled form"
            )
    for value in (values.min(), values.max()):
        if not 0 <= value <= LARGEST_LABEL:
            raise ValueError(f"{where} has the value {value}, labels 0 to {LARGEST_LABEL} needed")
    return values.astype(np.int64) if values.dtype.kind == "f" else values


def _class(value: Any, where: str) -> int | np.integer | str:
    """An int, a string, or the position in a one-hot vector."""
    if type(value) is int or isinstance(value, np.integer):
        return value
    if isinstance(value, str):
        return str(value)
    array = numbers(value)
    if array is not None and array.size:
        array = array.ravel()
        if array.size == 1 and np.isfinite(array[0]) and array[0] == np.rint(array[0]):
            return int(array[0])
        if array.size > 1 and np.count_nonzero(array) == 1 and array.max() == 1:
            return int(array.argmax())
    raise ValueError(
        f"{where}: class {shown(value)}, a whole number, a string or a one-hot vector needed"
    )


def numbers(value: Any, depth: int = 2) -> np.ndarray | None:
    """A number, an array, or short lists of such in `depth` levels as an array; None for anything
    else, which is not looked through: lists may hold one another many times over."""
    if isinstance(value, list | tuple) and depth and 0 < len(value) <= MOST_LISTED:
        rows = [numbers(entry, depth - 1) for entry in value]
        if any(row is None for row in rows) or len({row.shape for row in rows}) > 1:
            return None
        return np.array(rows)
    if not isinstance(value, int | float | np.generic | np.ndarray):
        return None
    array = np.asarray(value)
    return array if array.dtype.kind in "buif" else None


def shown(value: Any) -> str:
    """A value in a message: no more of it than fits."""
    return reprlib.repr(value)[:80]


def write_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with its image in float32 and its mask, where it has one, in int32."""
    written = {**entry, "image": np.ascontiguousarray(entry["image"], np.float32)}
    if entry.get("mask") is not None:
        written["mask"] = np.ascontiguousarray(entry["mask"], np.int32)
    return written
