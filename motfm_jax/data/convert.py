"""The original MOTFM's pickle, written from any source; `pickles` reads it."""

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.data.labels import to_values
from motfm_jax.data.pickles import SPLITS, PickleSet
from motfm_jax.data.source import Faults, NoSplit, Record, Source
from motfm_jax.io.folders import whole_file

log = logging.getLogger(__name__)


def to_pickle(
    open_split: Callable[[str], Source], path: Path, on_fault: str = "stop"
) -> dict[str, int]:
    """Writes train, valid and test; test stays empty if the data has none, which is logged.

    From a pickle, mask values, classes and metadata come back unchanged, and so do images and
    masks that have the requested size.

    Args:
      open_split: split name to its examples.
      path: of the .pkl file; its folder is created.
      on_fault: "stop", or "skip": examples that cannot be read are left out and logged.

    Returns:
      The number of examples by split.

    Raises:
      ValueError: the file exists, train or valid is missing, or the data of any split is broken;
        then nothing is written.
    """
    if path.exists():
        raise ValueError(f"{path}: exists already; remove it or choose another name")
    splits = {}
    for split in SPLITS:
        try:
            source = open_split(split)
        except NoSplit as reason:
            if split != "test":
                raise
            log.warning("test stays empty: %s", reason)
            splits[split] = []
            continue
        faults, splits[split] = Faults(on_fault), []
        for index in range(len(source)):
            with faults:
                splits[split].append(_entry(source, index))
        faults.check(len(source))
        for fault in faults.lines:
            log.warning("%s: left out: %s", split, fault)
    write_pickle(path, splits)
    return {split: len(entries) for split, entries in splits.items()}


def _entry(source: Source, index: int) -> dict[str, Any]:
    if isinstance(source, PickleSet):
        return source.entry(index)
    return to_entry(source[index], source.classes, getattr(source, "label_values", ()))


def to_entry(
    record: Record, classes: Sequence[str] | None, label_values: Sequence[int] = ()
) -> dict[str, Any]:
    """A record in the original's layout; classes that are all whole numbers become ints.

    Args:
      record: its mask holds label numbers.
      classes: names by index.
      label_values: the value to write for each label; () for its number.
    """
    entry = {"image": np.moveaxis(record.image, -1, 0), "metadata": record.meta}
    if record.mask is not None:
        entry["mask"] = to_values(record.mask, label_values)[None]
    if record.label is not None:
        name = classes[record.label] if classes else str(record.label)
        numbers = all(each.isdecimal() for each in classes or ())
        entry["class"] = int(name) if numbers else name
    return entry


def write_pickle(path: str | Path, splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Writes a file that the original reads; it is whole or absent.

    Args:
      splits: "train", "valid", "test" to entries, as `to_entry`, `PickleSet.entry` and
        `read_pickle` return them. Images become float32, masks int32; the rest is not changed.

    Raises:
      ValueError: another split name.
    """
    unknown = set(splits) - set(SPLITS)
    if unknown:
        raise ValueError(f"{path}: split {unknown.pop()!r}: use train, valid or test")
    contents = {
        split: [_with_types(entry) for entry in entries] for split, entries in splits.items()
    }
    with whole_file(Path(path)) as draft, open(draft, "wb") as file:
        pickle.dump(contents, file, protocol=4)


def _with_types(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry in the types that the original writes."""
    written = {**entry, "image": np.ascontiguousarray(entry["image"], np.float32)}
    if entry.get("mask") is not None:
        written["mask"] = np.ascontiguousarray(entry["mask"], np.int32)
    return written
