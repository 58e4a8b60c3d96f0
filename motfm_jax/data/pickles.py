"""The original MOTFM's single-file data set: a pickle of {"train": [...], "valid": [...], ...}.

An entry is a dict: "image" (C, *S) or (*S); "mask" (1, *S) or (*S), labels; "class" an int, a
string or a one-hot vector; "metadata" a dict. Arrays are numpy's or torch's. Only "image" is
required. Nothing in the file is executed, see unpickle.py.

Source: the README of github.com/milad1378yz/MOTFM.
"""

import reprlib
import weakref
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data import geometry, unpickle
from motfm_jax.data.examination import Report
from motfm_jax.data.nifti import finite
from motfm_jax.data.pickle_entries import numbers, read_entry
from motfm_jax.data.source import NoSplit, Record

VERSION = 3  # of the records made from a file; raise it when they change
SPLITS = ("train", "valid", "test")
MOST_CHANNELS = 16
COLOURS = 4  # channels that an axis without a name may have: RGB with alpha
MAX_LABELS = 64  # more distinct values are an image, not labels


class PickleSet:
    """One split of a pickle, in the file's order.

    Class indices and mask labels are those of the whole file. Classes are numbered as sorted. A
    mask's labels are 0 and the values found, sorted.

    Args:
      path: of the .pkl file.
      split: "train", "valid" or "test".
      size: S of the records; an image of another size is fitted to it.
      fit: "pad" or "stretch", see geometry.fit. The spacing is "spacing_mm" of the metadata, else
        equal on all axes.
      nan: what NaN and infinite values become, see `nifti.finite`.

    Records: image [*S, C], in the file's type if its size is S, else float32; mask [*S], the file's
    values; meta has name and patient (from the metadata, else the position in the split), and the
    metadata's numbers and strings, spacing_mm and affine.

    Raises:
      NoSplit: the file has no entry in this split.
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
        nan: str = "",
    ):
        self.path = Path(path)
        self.settings = {"split": split, "size": list(size), "fit": fit, "nan": nan}
        self.contents = _contents(self.path)
        self.entries = self.contents.splits.get(split, [])
        if not self.entries:
            sizes = ", ".join(f"{name} {len(each)}" for name, each in self.contents.splits.items())
            raise NoSplit(f"{path}: the split {split!r} has no entries; the file has: {sizes}")
        self.classes = tuple(str(name) for name in self.contents.classes)
        self.label_values = tuple(self.contents.mask_values)
        self.mask_labels = tuple(
            "background" if value == 0 else f"label {value}" for value in self.label_values
        )

    @classmethod
    def from_config(cls, data: Any, split: str) -> "PickleSet":
        """A split from the fields of config.data."""
        return cls(data.root, split, data.size, data.fit, data.intensity.nan)

    @staticmethod
    def check(root: str | Path, progress: Progress | None = None, data: Any = None) -> Report:
        """Reads every entry; see `integrity.check_pickle`."""
        from motfm_jax.data.integrity import check_pickle

        return check_pickle(root, progress, data)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry, where = self._entry(index), self.where(index)
        size = tuple(self.settings["size"])
        image = _channels_last(entry["image"], len(size), where)
        try:
            image, filled = finite(image, self.settings["nan"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        mask = entry.get("mask")
        if mask is not None:
            mask = _drop_channel(mask, len(size), where)
            if mask.shape != image.shape[:-1]:
                raise ValueError(
                    f"{where}: mask {mask.shape} and image {image.shape[:-1]} differ in space; "
                    "resample one to the other's grid"
                )
        meta = _meta(entry, where, where.removeprefix(f"{self.path}: "), len(size))
        affine, spacing = meta.pop("affine", None), meta.pop("spacing_mm", None)
        lost = ()
        if image.shape[:-1] != size:
            affine = None if affine is None else np.array(affine)
            image, mask, affine, spacing, lost, _ = geometry.fit(
                image, mask, affine, spacing, size, self.settings["fit"]
            )
        name = entry.get("class")
        label = None if name is None else self.contents.classes.index(name)
        names = {key: meta.pop(key) for key in ("patient", "name")}
        facts = {"spacing_mm": spacing, "affine": affine, "filled": filled, "lost": lost}
        return Record(image, mask, label, **names, **facts, extra=meta)

    def _entry(self, index: int) -> dict[str, Any]:
        if isinstance(entry := self.entries[index], ValueError):
            raise entry
        return entry

    def entry(self, index: int) -> dict[str, Any]:
        """The example as `write_pickle` takes it, with the file's own mask values and class.

        It equals the file's entry if that has the size S. Otherwise the arrays and the metadata's
        spacing_mm and affine are fitted.
        """
        record, entry = self[index], self._entry(index)
        size = tuple(self.settings["size"])
        if _channels_last(entry["image"], len(size), self.where(index)).shape[:-1] == size:
            return entry
        fitted = {**entry, "image": np.moveaxis(record.image, -1, 0)}
        if record.mask is not None:
            fitted["mask"] = record.mask[None]
        if isinstance(entry.get("metadata"), dict):
            grid = {key: record.meta[key] for key in ("spacing_mm", "affine") if key in record.meta}
            fitted["metadata"] = {**entry["metadata"], **grid}
        return fitted

    def where(self, index: int) -> str:
        """The file and position of a record, for messages."""
        return f"{self.path}: {self.settings['split']}[{index}]"

    def fingerprint(self) -> dict[str, Any]:
        return {"source": "pickle", "version": VERSION, **self.settings}

    def source_files(self) -> list[Path]:
        """The file that the records depend on."""
        return [self.path]


def read_pickle(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """The splits of a file, with numpy arrays; see `read_entry`.

    Raises:
      ValueError: see `unpickle.load`, or not the layout above; the message names the place.
    """
    splits = _read_splits(Path(path))
    for entry in chain(*splits.values()):
        if isinstance(entry, ValueError):
            raise entry
    return splits


def _read_splits(path: Path) -> dict[str, list[dict[str, Any] | ValueError]]:
    """`read_pickle`, with the error in the place of an entry that cannot be used."""
    values = unpickle.load(path)
    if not isinstance(values, dict) or not any(name in values for name in SPLITS):
        keys = f" with the keys {reprlib.repr(list(values))}" if isinstance(values, dict) else ""
        raise ValueError(
            f"{path}: holds a {type(values).__name__}{keys}, a dict with lists train, valid, test "
            "needed"
        )
    splits = {split: values[split] for split in SPLITS if split in values}
    for split, entries in splits.items():
        if not isinstance(entries, list | tuple):
            came = type(entries).__name__
            raise ValueError(f"{path}: {split} is a {came}, a list of dicts needed")
        splits[split] = [
            _entry_or_error(entry, f"{path}: {split}[{index}]")
            for index, entry in enumerate(entries)
        ]
    return splits


def _entry_or_error(entry: Any, where: str) -> dict[str, Any] | ValueError:
    try:
        return read_entry(entry, where)
    except ValueError as error:
        return error


class _Contents:
    """A file in memory, with its classes by index and its mask values by label, of all splits."""

    def __init__(self, path: Path):
        self.splits = _read_splits(path)
        entries = [each for each in chain(*self.splits.values()) if isinstance(each, dict)]
        self.classes = list({entry["class"] for entry in entries if "class" in entry})
        if len({isinstance(name, str) for name in self.classes}) > 1:
            raise ValueError(f"{path}: classes are partly numbers, partly strings; use one kind")
        self.classes.sort()
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
        return sorted(values)


_in_use: weakref.WeakValueDictionary[tuple, _Contents] = weakref.WeakValueDictionary()


def _contents(path: Path) -> _Contents:
    """The file's contents, read once for the sources of its splits."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; set config.data.root to the .pkl file")
    status = path.stat()
    key = path.resolve(), status.st_mtime_ns, status.st_size
    contents = _in_use.get(key)
    if contents is None:
        contents = _in_use[key] = _Contents(path)
    return contents


def _channels_last(image: np.ndarray, num_dims: int, where: str) -> np.ndarray:
    if image.ndim == num_dims:
        return image[..., None]
    if image.ndim == num_dims + 1:
        refuse_channels_last(image, where)
    if image.ndim == num_dims + 1 and len(image) > MOST_CHANNELS:
        raise ValueError(
            f"{where}: image {image.shape}, {len(image)} channels, at most {MOST_CHANNELS} needed: "
            "channels come first; store a stack of images as one entry per image"
        )
    if image.ndim == num_dims + 1:
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))
    axes = "(H, W)" if num_dims == 2 else "(D, H, W)"
    raise ValueError(
        f"{where}: image {image.shape}, but config.data.size has {num_dims} numbers, so "
        f"{axes} or (C, {axes[1:]} is needed"
    )


def refuse_channels_last(image: np.ndarray, where: str) -> None:
    """Raises ValueError for H x W x C, told by a last axis of at most 4, shorter than the first."""
    if image.shape[-1] <= COLOURS < len(image):
        first = (image.shape[-1], *image.shape[:-1])
        raise ValueError(
            f"{where}: image {image.shape}, with its {image.shape[-1]} channels last; they come "
            f"first in this layout, {first}: move that axis"
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
    """The numbers and strings of an entry's metadata, with a name and a patient."""
    metadata = entry.get("metadata", {})
    metadata = {"metadata": metadata} if isinstance(metadata, str | int | float) else metadata
    metadata = {"name": entry.get("name"), **(metadata if isinstance(metadata, dict) else {})}
    meta = {}
    for key, value in metadata.items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(key, str) and isinstance(value, str | int | float):
            meta[key] = value
    name = str(meta.get("name", place))
    meta |= {"name": name, "patient": str(meta.get("patient", name))}
    for key, shape in (("spacing_mm", (num_dims,)), ("affine", (4, 4))):
        if (values := numbers(metadata.get(key))) is None or values.shape != shape:
            continue
        if not np.isfinite(values).all() or (key == "spacing_mm" and values.min() <= 0):
            raise ValueError(
                f"{where}: {key} {values.tolist()} in its metadata, finite numbers (of a spacing "
                "above 0) needed; correct it or leave it out"
            )
        meta[key] = values.astype(np.float64).tolist()
    return meta
