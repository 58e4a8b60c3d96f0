"""Mask labels: their names, the value that stands for each in the files, and their numbers.

Networks see consecutive numbers from 0, the background first. Files may hold any values, such as 0
and 255. Masks are numbered when they are read, and what is written for a user holds the files'
values again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data import nifti

MOST = 256  # numbers are stored as uint8
LARGEST_VALUE = np.iinfo(np.int32).max
NOT_THERE = -1  # the value of a label that the files do not have


class Labels(NamedTuple):
    """The labels of masks.

    Attributes:
      names: by number, background first.
      values: of the files, by number; NOT_THERE for a label that they do not have.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]

    @property
    def gaps(self) -> tuple[int, ...]:
        """The values; () where they are the numbers."""
        return () if self.values == tuple(range(len(self.values))) else self.values

    def number(self, mask: np.ndarray, where: str) -> np.ndarray:
        """A file's mask [*S] as numbers, uint8.

        Raises:
          ValueError: a value that is not declared; see `nifti.to_labels`.
        """
        if not self.gaps and mask.dtype == np.uint8 and mask.max(initial=0) < len(self.names):
            return mask
        declared = [value for value in self.values if value != NOT_THERE]
        mask = nifti.to_labels(Path(where), mask, declared)
        if not self.gaps:
            return mask.astype(np.uint8)
        order = np.argsort(self.values)
        return order[np.searchsorted(np.array(self.values)[order], mask)].astype(np.uint8)

    def of(self, declared: "Labels | None") -> "Labels | None":
        """These labels for other files: those with the same names, whatever values those have.

        Args:
          declared: by the other files; None if they declare nothing, so that the values are these.

        Returns:
          `declared` itself if it names a label that these do not have, or one name twice; None if
          there are no labels at all.
        """
        if declared is None:
            return self if self.names else None
        values = dict(zip(declared.names, declared.values))
        if not values.keys() <= set(self.names) or len(values) < len(declared.names):
            return declared
        return Labels(self.names, tuple(values.get(name, NOT_THERE) for name in self.names))


def known(facts: Any) -> Labels:
    """The labels of a run's facts, or of decoded arrays: `mask_labels` and `label_values`."""
    values = facts.label_values or tuple(range(len(facts.mask_labels)))
    return Labels(tuple(facts.mask_labels), tuple(values))


def declared(source: Any, text: str = "") -> Labels | None:
    """What a source declares, or config.data.labels in its place; None for neither.

    Raises:
      ValueError: names and values that do not fit together.
    """
    if text:
        return parse(text)
    names = getattr(source, "mask_labels", None)
    if names is None:
        return None
    values = getattr(source, "label_values", ()) or range(len(names))
    return _checked(tuple(map(str, names)), tuple(map(int, values)))


def of_values(values: Sequence[int]) -> Labels:
    """Labels that are named by their values in the files; 0 is the background."""
    values = tuple(sorted({0, *map(int, values)}))
    return Labels(tuple(map(str, values)), values)


def parse(text: str) -> Labels:
    """ "background,lesion", for values 0 and 1, or "0:background,255:lesion".

    >>> parse("0:background,255:lesion").values
    (0, 255)

    Raises:
      ValueError: another form, or a value that is there twice.
    """
    parts = [part.strip() for part in text.split(",")]
    pairs = [(value.strip(), name.strip()) for value, _, name in (p.partition(":") for p in parts)]
    with_values = [value.isdecimal() and bool(name) for value, name in pairs]
    if all(with_values):
        return _checked(tuple(name for _, name in pairs), tuple(int(value) for value, _ in pairs))
    if any(with_values) or not all(parts):
        raise ValueError(
            'give names, "background,lesion", or the value of each in the files, '
            '"0:background,255:lesion"'
        )
    return _checked(tuple(parts), tuple(range(len(parts))))


def fault(text: str) -> str:
    """What is wrong with config.data.labels; "" for nothing."""
    try:
        parse(text or "background")
    except ValueError as error:
        return str(error)
    return ""


def _checked(names: tuple[str, ...], values: tuple[int, ...]) -> Labels:
    if len(names) != len(values) or len(set(values)) < len(values):
        raise ValueError(
            f"mask labels {', '.join(names)} with the values {', '.join(map(str, values))}: each "
            "name needs a value of its own"
        )
    if len(names) > MOST or not all(0 <= value <= LARGEST_VALUE for value in values):
        raise ValueError(
            f"{len(names)} mask labels with values from {min(values)} to {max(values)}: at most "
            f"{MOST} labels with values from 0 to {LARGEST_VALUE} needed"
        )
    return Labels(names, values)


def to_numbers(mask: np.ndarray, where: str) -> np.ndarray:
    """A mask of the values 0 to 255 as uint8; ValueError for others."""
    if mask.dtype == np.uint8:
        return mask
    return nifti.to_labels(Path(where), mask, range(MOST)).astype(np.uint8)


def to_values(mask: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Numbers [*S] as the files' values; unchanged where `values` is empty."""
    return np.array(values, np.int32)[mask] if len(values) else mask


def vanished(before: np.ndarray, after: np.ndarray) -> tuple[int, ...]:
    """The values of a mask that another size of it does not have."""
    return tuple(np.setdiff1d(_values(before), _values(after)).tolist())


def _values(mask: np.ndarray) -> np.ndarray:
    is_small = mask.dtype == np.uint8  # counting is faster than sorting
    return np.flatnonzero(np.bincount(mask.ravel())) if is_small else np.unique(mask)
