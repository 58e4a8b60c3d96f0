"""What networks and samplers must know of a data set."""

import dataclasses
from typing import Any

NO_SCALING = {
    "mode": "none",
    "scope": "dataset",
    "range": (0.0, 1.0),
    "percentiles": (0.5, 99.5),
    "low": 0.0,
    "high": 1.0,
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a checkpoint must remember of its data set: enough to sample without the data.

    Attributes:
      size: spatial size S.
      channels: image channels C.
      classes: class names by index.
      mask_labels: mask label names by value, background first.
      intensity: the fitted scaling, `Intensity.to_json()`.
      source_intensity: likewise for the images a flow starts from, if they are another channel.
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
        """Reads and checks the facts of a run.

        Raises:
          ValueError: a value that a field cannot have.
          AttributeError, TypeError: these are not facts.
        """
        values = dict(values)
        if "intensity" in values.pop("unknown", ()):  # converted by an older version, without data
            values["intensity"] = NO_SCALING
        tuples = {name: tuple(values.get(name, ())) for name in ("size", "classes", "mask_labels")}
        spacing = values.get("spacing_mm")
        facts = cls(**{**values, **tuples, "spacing_mm": tuple(spacing) if spacing else None})
        for name, is_valid in facts._valid().items():
            if not is_valid:
                raise ValueError(f"{name} cannot be {getattr(facts, name)!s:.60}")
        return facts

    def _valid(self) -> dict[str, bool]:
        """Whether each field has a possible value."""
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
            name: all(isinstance(label, str) for label in getattr(self, name))
            for name in ("classes", "mask_labels")
        }


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number in the range of float32."""
    return type(value) in (int, float) and abs(value) <= 1e38


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32
