"""Pictures out of volumes: one plane, every so many slices, without margins and empty slices.

A named plane is shown as radiologists look at it, from a volume whose affine tells where the
patient's sides are: axial rows run from front to back, columns from the patient's right to left;
coronal rows from top to bottom, columns from right to left; sagittal rows from top to bottom,
columns from front to back. "0", "1" and "2" cut across an axis of the array (turned to RAS if it
has an affine); the other axes in order are rows and columns.
"""

from typing import NamedTuple

import numpy as np

from motfm_jax.data import geometry

# Axes of a RAS volume: rows, columns, across; rows and columns run against the axes.
PLANES = {"axial": (1, 0, 2), "coronal": (2, 0, 1), "sagittal": (2, 1, 0)}
AXES = {"0": (1, 2, 0), "1": (0, 2, 1), "2": (0, 1, 2)}
FOREGROUND = 0.1  # see `foreground`


class Stack(NamedTuple):
    """A picture, a volume, or a volume as a pile of pictures.

    Attributes:
      image: [*S, C]; of a pile [H, W, slices, C].
      mask: [*S] or None.
      affine: [4, 4], array index to RAS+ millimetres, or None.
      spacing_mm: one number an axis, or None.
      channels: how many of C are the image's; the others are what it is to be made from.
    """

    image: np.ndarray
    mask: np.ndarray | None
    affine: np.ndarray | None
    spacing_mm: tuple[float, ...] | None
    channels: int

    def cut(self, index: int) -> "Stack":
        """A picture of a pile."""
        affine, spacing = self.affine, self.spacing_mm
        if affine is not None:
            affine = affine.copy()
            affine[:3, 3] += index * affine[:3, 2]
        mask = None if self.mask is None else self.mask[:, :, index]
        spacing = None if spacing is None else spacing[:2]
        return Stack(self.image[:, :, index], mask, affine, spacing, self.channels)


class Cut(NamedTuple):
    """Which slices of a volume are used.

    Attributes:
      plane: one of PLANES or AXES.
      step: every so many, from the first inside the margin.
      margin: slices left out at either end.
      share: the least share of foreground, see `foreground`.
    """

    plane: str
    step: int = 1
    margin: int = 0
    share: float = 0.0

    @property
    def axes(self) -> tuple[int, int, int]:
        """Of the volume: rows, columns, across."""
        return PLANES.get(self.plane) or AXES[self.plane]

    def stack(self, volume: Stack) -> Stack:
        """The pictures of a volume [I, J, K, C]; one with an affine has RAS axes.

        Raises:
          ValueError: a named plane of a volume without an affine.
        """
        image, mask, affine, spacing, channels = volume
        axes, step = self.axes, 1 if self.plane in AXES else -1
        if affine is None and self.plane in PLANES:
            raise ValueError(
                f"config.data.slices={self.plane!r} of a volume without an affine; cut across an "
                f"axis of the array: {', '.join(AXES)}"
            )
        turned = (slice(None, None, step),) * 2
        if affine is not None:
            to_old = np.zeros((4, 4))
            to_old[3, 3] = 1
            for new, (old, sign) in enumerate(zip(axes, (step, step, 1))):
                to_old[old, new] = sign
                to_old[old, 3] = image.shape[old] - 1 if sign < 0 else 0
            affine = affine @ to_old
        return Stack(
            image.transpose(*axes, 3)[turned],
            None if mask is None else mask.transpose(axes)[turned],
            affine,
            None if spacing is None else tuple(spacing[axis] for axis in axes),
            channels,
        )

    def choose(self, pile: Stack) -> list[int]:
        """The slices to use, by position.

        Raises:
          ValueError: a margin that leaves none.
        """
        count = pile.image.shape[2]
        if count <= 2 * self.margin:
            raise ValueError(
                f"no slices left: config.data.slice_margin={self.margin} at either end of {count} "
                "slices; lower it"
            )
        chosen = list(range(self.margin, count - self.margin, self.step))
        if not self.share:
            return chosen
        shares = foreground(pile.image[..., : pile.channels])
        return [index for index in chosen if shares[index] >= self.share]


def foreground(image: np.ndarray) -> np.ndarray:
    """The share of each slice's pixels in the foreground, [H, W, slices, C] -> [slices].

    Foreground is what exceeds the background (the volume's corners, see `geometry.background`) by a
    tenth of the distance to the volume's 99.5th percentile, in any channel.
    """
    values = np.nan_to_num(image.astype(np.float32), posinf=0, neginf=0)
    low = geometry.background(values)
    high = np.percentile(values.reshape(-1, values.shape[-1]), 99.5, axis=0)
    return (values > low + FOREGROUND * (high - low)).any(axis=-1).mean(axis=(0, 1))
