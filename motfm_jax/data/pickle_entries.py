"""One entry of the original's pickle: its fields checked, with numpy arrays; see pickles.py."""

import reprlib
from typing import Any

import numpy as np

LARGEST_LABEL = np.iinfo(np.int32).max  # masks are written as int32


def read_entry(entry: Any, where: str) -> dict[str, Any]:
    """The entry without fields that are None; "class" as an int (also numpy's) or a string.

    Raises:
      ValueError: what is missing or wrong in it.
    """
    if not isinstance(entry, dict) or entry.get("image") is None:
        keys = f"keys {reprlib.repr(list(entry))}" if isinstance(entry, dict) else None
        came = keys or type(entry).__name__
        raise ValueError(f"{where}: {came}, a dict with an 'image' needed")
    entry = {name: value for name, value in entry.items() if value is not None}
    entry["image"] = _array(entry["image"], f"{where}: image")
    if "mask" in entry:
        entry["mask"] = _labels(_array(entry["mask"], f"{where}: mask"), f"{where}: mask")
    if "class" in entry:
        entry["class"] = _class(entry["class"], where)
    return entry


def _array(values: Any, where: str) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "buif" and values.size:
        return values.view(np.ndarray)
    is_array = isinstance(values, np.ndarray)
    came = f"{values.dtype} {values.shape}" if is_array else f"a {type(values).__name__}"
    raise ValueError(f"{where} is {came}, an array of numbers needed")


def _labels(values: np.ndarray, where: str) -> np.ndarray:
    """Whole numbers from 0; floats must hold them exactly."""
    if values.dtype.kind == "f":
        wrong = values[~np.isfinite(values) | (values != np.rint(values))]
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
    if type(value) is int or isinstance(value, np.integer | str):
        return value
    array = numbers(value)
    if array is not None and array.size == 1 and float(array.item()).is_integer():
        return int(array.item())
    if array is not None and array.size > 1 and np.count_nonzero(array) == 1 == array.max():
        return int(array.argmax())
    raise ValueError(
        f"{where}: class {reprlib.repr(value)}, a whole number, a string or a one-hot vector needed"
    )


def numbers(value: Any) -> np.ndarray | None:
    """A number, a list or an array of numbers as an array; None for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    return array.view(np.ndarray) if array.dtype.kind in "buif" else None
