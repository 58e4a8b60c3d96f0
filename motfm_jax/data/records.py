"""What networks and samplers must know of a data set."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a checkpoint must remember of its data set: enough to sample without the data.

    Attributes:
      size: spatial size S.
      channels: image channels C.
      classes: class names by index.
      mask_labels: mask label names by value, background first.
      intensity: the fitted scaling, `Intensity.to_json()`.
      source_intensity: the same of the images a flow starts from, where they are another channel.
      spacing_mm: of the first training example, or None.
      affine: of the first training example, or None.
    """

    size: tuple[int, ...]
    channels: int
    classes: tuple[str, ...]
    mask_labels: tuple[str, ...]
    intensity: dict[str, Any]
    spacing_mm: tuple[float, ...] | None = None
    affine: list[list[float]] | None = None
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
        tuples = {name: tuple(values.get(name, ())) for name in ("size", "classes", "mask_labels")}
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
            and all(_is_count(extent) and extent > 0 for extent in self.size),
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
            for name in ("classes", "mask_labels")
        }


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number in the range of float32."""
    return type(value) in (int, float) and abs(value) <= 1e38


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32
