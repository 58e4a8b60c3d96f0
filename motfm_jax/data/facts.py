"""The facts of a data set that networks and samplers need."""

import dataclasses
from typing import Any

from motfm_jax.data.intensity import Bound


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a checkpoint must remember of its data set: enough to sample without the data.

    Attributes:
      size: spatial size S.
      channels: image channels C.
      classes: class names by index.
      mask_labels: mask label names by number, background first.
      intensity: the fitted scaling, `Intensity.to_json()`.
      source_intensity: likewise for the images a flow starts from, if they are another channel.
      label_values: the files' value of each mask label; () where it is the number.
      channel_names: of the image's channels; () if the data names none.
      bounds: black and white of scores: the least and the greatest intensity of the training images
        (once scaled and restored), of several channels one each; None in runs of 0.1.0.
      spacing_mm: of the first training example, or None.
      affine: of the first training example, or None.
      label_channels: L, of the label map that a network makes with the image, see `data.joint`; 0
        where it makes images alone.
    """

    size: tuple[int, ...]
    channels: int
    classes: tuple[str, ...]
    mask_labels: tuple[str, ...]
    intensity: dict[str, Any]
    spacing_mm: tuple[float, ...] | None = None
    affine: list[list[float]] | None = None
    source_intensity: dict[str, Any] | None = None
    label_values: tuple[int, ...] = ()
    channel_names: tuple[str, ...] = ()
    bounds: tuple[Bound, Bound] | None = None
    label_channels: int = 0

    @property
    def network_channels(self) -> int:
        """C + L, of what a network makes."""
        return self.channels + self.label_channels

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Facts":
        """The facts of a run.

        Raises:
          AttributeError, KeyError, TypeError: these are not facts.
        """
        values = {name: value for name, value in values.items() if name != "unknown"}  # in 0.1.0
        tuples = {name: tuple(values[name]) for name in ("size", "classes", "mask_labels")}
        added = ("label_values", "channel_names")  # since 0.1.0
        tuples |= {name: tuple(values.get(name, ())) for name in added}
        spacing, bounds = values.get("spacing_mm"), values.get("bounds")
        tuples["bounds"] = bounds and tuple(
            tuple(bound) if isinstance(bound, list) else bound for bound in bounds
        )
        return cls(**{**values, **tuples, "spacing_mm": tuple(spacing) if spacing else None})
