"""The original MOTFM's single-file data set: a pickle of {"train": [...], "valid": [...], ...}.

An entry is a dict: "image" (C, *S) or (*S); "mask" (1, *S) or (*S), labels; "class" an int, a
string or a one-hot vector; "metadata" a dict. Arrays are numpy's or torch's. All but "image" may
be missing. Read without executing anything (see unpickle.py).

Source: the README of github.com/milad1378yz/MOTFM.
"""

import math
import os
import pickle
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.data import files, geometry, unpickle
from motfm_jax.data.examination import Progress, Report
from motfm_jax.data.pickle_entries import numbers, read_entry, shown, write_entry
from motfm_jax.data.records import Record, refuse_many, tried

VERSION = 2  # of what this file makes of the data: raise it when records change
SPLITS = ("train", "valid", "test")
MOST_CHANNELS = 16
SPACINGS = (1e-6, 1e6)  # that metadata may state [mm]; entries of an affine are up to the second
MAX_LABELS = 64  # more distinct mask values are not labels


class PickleSet:
    """One split of a pickle, in the file's order.

    Class indices and mask labels are those of the whole file. Classes are numbered as sorted. A
    mask's label is its value divided by the greatest common divisor of all values (0, 85, 170, 255
    become 0, 1, 2, 3; 0, 1, 4 stay, and 2 and 3 have names too), so that labels, scaled to 1, are
    the values scaled to 1, as the original scales them. Only where MAX_LABELS would not be enough
    for that, labels number the values as sorted, and are spaced otherwise.

    Args:
      path: of the .pkl file.
      split: "train", "valid" or "test".
      size: S of the records; an image of another size is fitted to it.
      fit: "pad" or "stretch", see geometry.fit; spacing is "spacing_mm" of the metadata or equal.
      on_fault: "stop", or "skip": entries that are wrong are left out, and listed in `faults`.

    Records: image [*S, C], in the file's type where its size is S already, else float32; mask
    [*S] uint8; meta has name and patient (from the metadata, else the position in the split), and
    the metadata's numbers and strings, spacing_mm and affine.

    Raises:
      files.NoSplit: the file has no entry in this split.
      ValueError: what is missing or wrong in the file, with split and position.
    """

    dims = None
    needs_root = True

    def __init__(
        self,
        path: str | Path,
        split: str,
        size: Sequence[int],
        fit: str = "pad",
        on_fault: str = "stop",
    ):
        self.path = Path(path)
        self.settings = {"split": split, "size": list(size), "fit": fit}
        self.contents = _contents(self.path, on_fault)
        entries = self.contents.splits.get(split, [])
        self.positions = [index for index, entry in enumerate(entries) if entry is not None]
        self.entries = [entries[index] for index in self.positions]
        place = f"{self.path}: {split}["
        self.faults = [fault for fault in self.contents.faults if fault.startswith(place)]
        if not self.entries:
            if self.faults:
                refuse_many(self.faults, len(self.faults))
            found = ", ".join(
                f"{name} {len(entries)}" for name, entries in self.contents.splits.items()
            )
            raise files.NoSplit(
                f"{path}: the split {split!r} has no entries; the file has: {found}"
            )
        self.classes = tuple(str(name) for name in self.contents.classes)
        self.mask_labels = tuple(
            "background" if value == 0 else f"label {value}" for value in self.contents.mask_values
        )

    @classmethod
    def from_config(cls, data: Any, split: str) -> "PickleSet":
        """A split from the fields of config.data."""
        return cls(data.root, split, data.size, data.fit, data.on_fault)

    @staticmethod
    def check(root: str | Path, progress: Progress | None = None) -> Report:
        """Reads every entry; see `integrity.check_pickle`."""
        from motfm_jax.data.integrity import check_pickle

        return check_pickle(root, progress)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry, where = self.entries[index], self.where(index)
        size = tuple(self.settings["size"])
        image = _channels_last(entry["image"], len(size), where)
        mask = entry.get("mask")
        if mask is not None:
            mask = _drop_channel(mask, len(size), where)
            if mask.shape != image.shape[:-1]:
                raise ValueError(
                    f"{where}: mask {mask.shape} and image {image.shape[:-1]} differ in space; "
                    "resample one to the other's grid"
                )
            mask = np.searchsorted(self.contents.mask_values, mask).astype(np.uint8)
        meta = _meta(entry, where, where.removeprefix(f"{self.path}: "), len(size))
        if image.shape[:-1] != size:
            affine, spacing = meta.get("affine"), meta.get("spacing_mm")
            affine = None if affine is None else np.array(affine)
            image, mask, affine, spacing = geometry.fit(
                image, mask, affine, spacing, size, self.settings["fit"]
            )
            if spacing is not None:
                meta["spacing_mm"] = list(spacing)
            if affine is not None:
                meta["affine"] = affine.tolist()
        name = entry.get("class")
        label = None if name is None else self.contents.classes.index(name)
        return Record(image, mask, label, meta)

    def entry(self, index: int) -> dict[str, Any]:
        """The example as `write_pickle` takes it, with the file's own mask values and class.

        Where its size is S already it is what the file holds, else it is fitted, and spacing_mm
        and affine of its metadata with it.
        """
        record, entry = self[index], self.entries[index]
        size = tuple(self.settings["size"])
        if _channels_last(entry["image"], len(size), self.where(index)).shape[:-1] == size:
            return entry
        fitted = {**entry, "image": to_entry(record, self.classes)["image"]}
        if record.mask is not None:
            fitted["mask"] = np.take(self.contents.mask_values, record.mask)[None]
        if isinstance(entry.get("metadata"), dict):
            grid = {key: record.meta[key] for key in ("spacing_mm", "affine") if key in record.meta}
            fitted["metadata"] = {**entry["metadata"], **grid}
        return fitted

    def where(self, index: int) -> str:
        """The file and position of a record, for messages."""
        return f"{self.path}: {self.settings['split']}[{self.positions[index]}]"

    def fingerprint(self) -> dict[str, Any]:
        return {
            "source": "pickle",
            "version": VERSION,
            **self.settings,
            "files": files.content_hash(self.path),
        }


def read_pickle(
    path: str | Path, faults: list[str] | None = None
) -> dict[str, list[dict[str, Any] | None]]:
    """The splits of a file as they are, with numpy arrays; see `read_entry`.

    Args:
      path: of the file.
      faults: what is wrong with an entry is added, and None stands in its place; where this is
        None, it is raised.

    Raises:
      ValueError: see `unpickle.load`, or not the layout above; the message says where.
    """
    values = unpickle.load(Path(path))
    if not isinstance(values, dict) or not any(name in values for name in SPLITS):
        came = f"a {type(values).__name__}"
        if isinstance(values, dict):
            came += f" with the keys {', '.join(map(shown, list(values)[:5]))}"
        raise ValueError(f"{path}: holds {came}, a dict with lists train, valid, test needed")
    return {
        split: [
            tried(faults, read_entry, entry, f"{path}: {split}[{index}]")
            for index, entry in enumerate(_as_list(values[split], f"{path}: {split}"))
        ]
        for split in SPLITS
        if split in values
    }


def write_pickle(path: str | Path, splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Writes a file that the original reads; it is either whole or not there.

    Args:
      splits: "train", "valid", "test" to entries, as `to_entry`, `PickleSet.entry` and
        `read_pickle` give them. Images are written as float32, masks as int32, all else as it is.

    Raises:
      ValueError: another split name.
    """
    path = Path(path)
    unknown = set(splits) - set(SPLITS)
    if unknown:
        raise ValueError(f"{path}: split {unknown.pop()!r}: use train, valid or test")
    contents = {
        split: [write_entry(entry) for entry in entries] for split, entries in splits.items()
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            pickle.dump(contents, file, protocol=4)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def to_entry(record: Record, classes: Sequence[str]) -> dict[str, Any]:
    """A record in the original's layout; classes that are all whole numbers become ints."""
    entry = {"image": np.moveaxis(record.image, -1, 0), "metadata": record.meta}
    if record.mask is not None:
        entry["mask"] = record.mask[None]
    if record.label is not None:
        numbers = all(name.isdecimal() for name in classes)
        entry["class"] = int(classes[record.label]) if numbers else classes[record.label]
    return entry


class _Contents:
    """A file in memory, with its classes by index and its mask values by label, of all splits."""

    def __init__(self, path: Path, on_fault: str):
        self.faults: list[str] = []
        self.splits = read_pickle(path, self.faults if on_fault == "skip" else None)
        entries = [entry for split in self.splits.values() for entry in split if entry]
        self.classes = self._classes(path, {entry.get("class") for entry in entries} - {None})
        self.mask_values = self._mask_values(
            path, [entry["mask"] for entry in entries if "mask" in entry]
        )

    @staticmethod
    def _mask_values(path: Path, masks: Sequence[np.ndarray]) -> list[int]:
        values = {0} if masks else set()
        for mask in masks:
            values.update(np.unique(mask).astype(int).tolist())
            if len(values) > MAX_LABELS:
                raise ValueError(
                    f"{path}: masks have more than {MAX_LABELS} distinct values, labels needed; "
                    "is the mask an image?"
                )
        spaced = range(0, max(values, default=-1) + 1, math.gcd(*values) or 1)
        return list(spaced) if len(spaced) <= MAX_LABELS else sorted(values)

    @staticmethod
    def _classes(path: Path, names: set[int | str]) -> list[int | str]:
        if len({isinstance(name, str) for name in names}) > 1:
            raise ValueError(f"{path}: classes are partly numbers, partly strings; use one kind")
        return sorted(names)


_in_use: weakref.WeakValueDictionary[tuple, _Contents] = weakref.WeakValueDictionary()


def _contents(path: Path, on_fault: str) -> _Contents:
    """The file's contents, read once for the sources of its splits."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; set config.data.root to the .pkl file")
    status = path.stat()
    key = path.resolve(), status.st_mtime_ns, status.st_size, on_fault
    contents = _in_use.get(key)
    if contents is None:
        contents = _in_use[key] = _Contents(path, on_fault)
    return contents


def _as_list(values: Any, where: str) -> list:
    if not isinstance(values, list | tuple):
        raise ValueError(f"{where} is a {type(values).__name__}, a list of dicts needed")
    return list(values)


def _channels_last(image: np.ndarray, num_dims: int, where: str) -> np.ndarray:
    if image.ndim == num_dims:
        return image[..., None]
    if image.ndim == num_dims + 1 and len(image) > MOST_CHANNELS:
        raise ValueError(
            f"{where}: image {image.shape}, {len(image)} channels, at most {MOST_CHANNELS} needed: "
            "channels come first; of a stack of images make entries of their own"
        )
    if image.ndim == num_dims + 1:
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))
    axes = "(H, W)" if num_dims == 2 else "(D, H, W)"
    raise ValueError(
        f"{where}: image {image.shape}, but config.data.size has {num_dims} numbers, so "
        f"{axes} or (C, {axes[1:]} is needed"
    )


def _drop_channel(mask: np.ndarray, num_dims: int, where: str) -> np.ndarray:
    if mask.ndim == num_dims + 1 and mask.shape[0] == 1:
        return mask[0]
    if mask.ndim != num_dims:
        raise ValueError(
            f"{where}: mask {mask.shape}, one channel of labels in {num_dims} dimensions needed"
        )
    return mask


def _meta(entry: Mapping[str, Any], where: str, place: str, num_dims: int) -> dict[str, Any]:
    """The JSON-able part of an entry's metadata, with a name and a patient."""
    given = entry.get("metadata", {})
    given = {"metadata": given} if isinstance(given, str | int | float) else given
    given = {"name": entry.get("name"), **(given if isinstance(given, dict) else {})}
    meta = {}
    for key, value in given.items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(key, str) and isinstance(value, str | int | float):
            meta[key] = value
    name = str(meta.get("name", place))
    meta |= {"name": name, "patient": str(meta.get("patient", name))}
    for key, shape in (("spacing_mm", (num_dims,)), ("affine", (4, 4))):
        value = numbers(given.get(key))
        if value is not None and value.shape == shape:
            lowest = SPACINGS[0] if key == "spacing_mm" else -SPACINGS[1]
            if not ((lowest <= value) & (value <= SPACINGS[1])).all():
                raise ValueError(
                    f"{where}: {key} {value.tolist()} in its metadata, numbers from {lowest:g} to "
                    f"{SPACINGS[1]:g} needed; correct it or leave it out"
                )
            meta[key] = value.astype(np.float64).tolist()
    return meta
