"""One example as read from disk, and what the networks and samplers must know of a data set."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np


class Record(NamedTuple):
    """One example.

    Attributes:
      image: [*S, C], raw intensities in the file's own type.
      mask: [*S] uint8 labels, or None.
      label: class index, or None.
      meta: JSON-able facts: at least "name" and "patient"; where known "spacing_mm" (one number
        an axis of S, after resizing), "affine" (4 x 4 nested lists, after resizing), "quality".
    """

    image: np.ndarray
    mask: np.ndarray | None
    label: int | None
    meta: dict[str, Any]


class Source(Protocol):
    """Random access to the examples of one split."""

    classes: tuple[str, ...]  # names by index; empty when the data has no classes
    mask_labels: tuple[str, ...]  # names by value, background first; empty when there are no masks

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def fingerprint(self) -> dict[str, Any]:
        """Everything an example depends on, JSON-able: settings, format version, file contents."""
        ...


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a checkpoint must remember of its data set: enough to sample without the data.

    Attributes:
      size: spatial size S; zeros where a converted checkpoint does not say it.
      channels: image channels C.
      classes: class names by index.
      mask_labels: mask label names by value, background first.
      intensity: the fitted scaling, `Intensity.to_json()`; None where a converted checkpoint does
        not say it.
      spacing_mm: of the first training example, or None.
      affine: of the first training example, or None.
      unknown: the fields that a converted checkpoint does not say and that stand here empty, as
        zeros or as numbers for names, until training goes on with data.
    """

    size: tuple[int, ...]
    channels: int
    classes: tuple[str, ...]
    mask_labels: tuple[str, ...]
    intensity: dict[str, Any] | None
    spacing_mm: tuple[float, ...] | None = None
    affine: list[list[float]] | None = None
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Facts":
        tuples = {
            name: tuple(values.get(name, ()))
            for name in ("size", "classes", "mask_labels", "unknown")
        }
        spacing = values.get("spacing_mm")
        return cls(**{**values, **tuples, "spacing_mm": tuple(spacing) if spacing else None})
