"""One example as read from disk, and what networks and samplers must know of a data set."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

MOST_SKIPPED = 0.5  # of the examples of a split
T = TypeVar("T")


class Record(NamedTuple):
    """One example.

    Attributes:
      image: [*S, C], raw intensities in the file's own type.
      mask: [*S] uint8 labels, or None.
      label: class index, or None.
      meta: JSON-able facts: at least "name" and "patient"; where known "spacing_mm" (one number
        an axis of S, after resizing), "affine" (4 x 4 nested lists, after resizing), "quality".
      source: [*S, C], the image that `image` is to be made from, raw; None where there is no pair.
    """

    image: np.ndarray
    mask: np.ndarray | None
    label: int | None
    meta: dict[str, Any]
    source: np.ndarray | None = None


class Source(Protocol):
    """Random access to the examples of one split."""

    classes: tuple[str, ...]  # names by index; empty when the data has no classes
    mask_labels: tuple[str, ...]  # names by value, background first; empty when there are no masks

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def fingerprint(self) -> dict[str, Any]:
        """Everything an example depends on, JSON-able: settings, format version, file contents."""
        ...


def check_record(source: Source, index: int, record: Record, first: Record) -> None:
    """Raises ValueError, naming the record, where it does not fit the first or its own labels."""
    name, image, mask = _where(source, index, record), record.image, record.mask
    if image.shape != first.image.shape:
        raise ValueError(
            f"{name}: image {image.shape}, but {first.meta['name']} is {first.image.shape}; "
            "all must have one size: set config.data.size"
        )
    if any((record[part] is None) != (first[part] is None) for part in (1, 2, 4)):
        raise ValueError(
            f"{name}: masks, classes and source images must be there for all examples of a split "
            f"or for none; {first.meta['name']} differs"
        )
    if record.source is not None and record.source.shape != image.shape:
        raise ValueError(
            f"{name}: image {image.shape} and its source {record.source.shape} differ in shape; "
            "resample them to one grid first"
        )
    if mask is not None:
        if mask.shape != image.shape[:-1]:
            raise ValueError(
                f"{name}: mask {mask.shape} and image {image.shape[:-1]} differ in space; "
                "resample them to one grid first"
            )
        if mask.min() < 0 or mask.max() >= len(source.mask_labels):
            values = np.unique(mask)
            raise ValueError(
                f"{name}: mask values {values.tolist()[:8]}, but the declared labels are 0 to "
                f"{len(source.mask_labels) - 1} ({', '.join(source.mask_labels)}); remap them"
            )
    if record.label is not None and not 0 <= record.label < len(source.classes):
        raise ValueError(
            f"{name}: class {record.label}, but the declared classes are 0 to "
            f"{len(source.classes) - 1} ({', '.join(source.classes)})"
        )


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError where a field of config.data is none of the choices."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"config.data.{name}={value!r}: use one of {', '.join(choices)}{hint}")


def check_varied(source: Source, index: int, record: Record) -> None:
    """Raises ValueError for a constant image, which has no range of its own."""
    if record.image.min() == record.image.max():
        raise ValueError(
            f"{_where(source, index, record)}: the image is constant ({record.image.max():g}), "
            "which config.data.intensity.scope=sample cannot scale"
        )


def tried(faults: list[str] | None, read: Callable[..., T], *arguments: Any) -> T | None:
    """read(*arguments), or None where it raised ValueError, which is added to the faults.

    Args:
      faults: None where nothing is left out: then it is raised.
    """
    try:
        return read(*arguments)
    except ValueError as error:
        if faults is None:
            raise
        faults.append(str(error))
        return None


def refuse_many(faults: Sequence[str], total: int) -> None:
    """Raises ValueError where most of a split's examples would be left out."""
    if len(faults) > MOST_SKIPPED * total:
        raise ValueError(
            f"{len(faults)} of {total} examples cannot be used, with config.data.on_fault=skip at "
            f"most half may be left out; the first: {faults[0]}"
        )


def not_finite(source: Source, index: int, record: Record) -> str:
    """What to say of a record whose values are not finite as float32."""
    size = np.size(record.image)
    bad = int(size - np.isfinite(record.image).sum())
    what = (
        f"{bad} of {size} values are NaN or infinite"
        if bad
        else ("values beyond the range of float32")
    )
    return f"{_where(source, index, record)}: {what}; images must be finite: mend or remove it"


def _where(source: Source, index: int, record: Record) -> str:
    """A record's name for messages, with its file and position where the source knows them."""
    name = record.meta["name"]
    place = source.where(index) if hasattr(source, "where") else name
    return place if name in place else f"{place} ({name})"


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
      source_intensity: the same of the images a flow starts from, where they are another channel.
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
    source_intensity: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Facts":
        """Reads and checks the facts of a run, which may be a stranger's.

        Raises:
          ValueError: a field holds what it cannot.
          AttributeError, TypeError: these are no facts.
        """
        tuples = {
            name: tuple(values.get(name, ()))
            for name in ("size", "classes", "mask_labels", "unknown")
        }
        spacing = values.get("spacing_mm")
        facts = cls(**{**values, **tuples, "spacing_mm": tuple(spacing) if spacing else None})
        for name, is_right in facts._right().items():
            if not is_right:
                raise ValueError(f"{name} cannot be {getattr(facts, name)!s:.60}")
        return facts

    def _right(self) -> dict[str, bool]:
        """Whether each field holds what it can."""
        steps = self.spacing_mm or ()
        return {
            "size": len(self.size) in (2, 3)
            and all(_is_count(extent) for extent in self.size)
            and (all(self.size) or (not any(self.size) and "size" in self.unknown)),
            "channels": _is_count(self.channels) and self.channels > 0,
            "spacing_mm": len(steps) in (0, len(self.size))
            and all(is_number(step) and step > 0 for step in steps),
            "affine": self.affine is None
            or (
                [len(row) for row in self.affine] == [4] * 4
                and all(is_number(value) for row in self.affine for value in row)
            ),
        } | {
            name: all(isinstance(said, str) for said in getattr(self, name))
            for name in ("classes", "mask_labels", "unknown")
        }


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number in the range of float32."""
    return type(value) in (int, float) and abs(value) <= 1e38


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32
