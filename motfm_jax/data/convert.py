"""Any source to the original's pickle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from motfm_jax.data.files import NoSplit
from motfm_jax.data.pickles import SPLITS, PickleSet, to_entry, write_pickle
from motfm_jax.data.records import Source, refuse_many, tried


def to_pickle(
    open_split: Callable[[str], Source],
    path: Path,
    say: Callable[[str], None],
    on_fault: str = "stop",
) -> dict[str, int]:
    """Writes train, valid and test; where the data has no test split, it stays empty.

    From a pickle, mask values, classes and metadata come back as they were, and so do images and
    masks that have the size asked for.

    Args:
      open_split: split name -> its examples.
      path: of the .pkl file; its folder is made.
      say: called with a line where something is worth a person's notice.
      on_fault: "stop", or "skip": examples that cannot be read are left out and said.

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
            say(f"test stays empty: {reason}")
            splits[split] = []
            continue
        faults = list(getattr(source, "faults", ()))
        total, listed = len(source) + len(faults), faults if on_fault == "skip" else None
        entries = [tried(listed, _entry, source, index) for index in range(len(source))]
        splits[split] = [entry for entry in entries if entry is not None]
        refuse_many(faults, total)
        for fault in faults:
            say(f"{split}: left out: {fault}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pickle(path, splits)
    return {split: len(entries) for split, entries in splits.items()}


def _entry(source: Source, index: int) -> dict[str, Any]:
    if isinstance(source, PickleSet):
        return source.entry(index)
    return to_entry(source[index], source.classes)
