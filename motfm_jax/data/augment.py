"""Random flips, small affine maps and gamma on one example, drawn from a given generator."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from scipy.spatial.transform import Rotation


class Changed(NamedTuple):
    """An example after its change.

    Attributes:
      image: [*S, C] float32.
      mask: [*S] labels, or None.
      numbers: what was done, [count_numbers(dims)] float32: whether it was mirrored, then rotation
        (one angle, of volumes three), log scale, shift of each axis, and log gamma, each over its
        largest value, so that all lie in [-1, 1].
    """

    image: np.ndarray
    mask: np.ndarray | None
    numbers: np.ndarray


def count_numbers(dims: int) -> int:
    """How many numbers describe a change of an image with 2 or 3 axes."""
    return 3 + dims + (1 if dims == 2 else 3)


@dataclasses.dataclass(frozen=True)
class Augment:
    """One random change of an example; calling it is pure given the generator.

    Attributes:
      flip: mirror left and right every other time: only where a mirrored patient is still a
        plausible one.
      affine: largest rotation [rad]. The scale lies within exp(-affine) .. exp(affine), the shift
        along each axis within affine x a quarter of the extent: each moves the points half way to
        the edge by about the same distance.
      gamma: largest |log gamma|; u -> u^gamma with u in [0, 1] between the image's own smallest
        and largest value, which stay.
      told: the network is given the numbers of each change, see `Changed`.
    """

    flip: bool = False
    affine: float = 0.0
    gamma: float = 0.0
    told: bool = False

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray | None,
        rng: np.random.Generator,
        left_right: int,
        spacing_mm: np.ndarray,
    ) -> Changed:
        """Changes image and mask alike in space.

        Args:
          image: [*S, C] float32, scaled.
          mask: [*S] labels, or None.
          rng: of this change.
          left_right: axis of S from one side of the patient to the other; -1 for none.
          spacing_mm: one number an axis, so that a rotation does not shear where voxels are not
            cubes.
        """
        numbers = np.zeros(count_numbers(image.ndim - 1), np.float32)
        if self.flip and left_right >= 0 and rng.random() < 0.5:
            numbers[0] = 1
            image = np.flip(image, left_right)
            mask = None if mask is None else np.flip(mask, left_right)
        if self.affine:
            matrix, offset, drawn = self._draw_affine(image.shape[:-1], spacing_mm, rng)
            numbers[1:-1] = drawn / self.affine
            image = _resample_image(image, matrix, offset)
            mask = None if mask is None else _resample_mask(mask, matrix, offset)
        if self.gamma:
            log_gamma = rng.uniform(-self.gamma, self.gamma)
            image = _apply_gamma(image, np.exp(log_gamma))
            numbers[-1] = log_gamma / self.gamma
        mask = None if mask is None else np.ascontiguousarray(mask)
        return Changed(np.ascontiguousarray(image), mask, numbers)

    def _draw_affine(
        self, shape: Sequence[int], spacing: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Matrix and offset from output to input indices: rotate, scale about the centre, shift;
        and the numbers drawn, each within affine."""
        num_dims = len(shape)
        angles = rng.uniform(-self.affine, self.affine, 1 if num_dims == 2 else 3)
        log_scale = rng.uniform(-self.affine, self.affine)
        extent = np.array(shape, np.float64)
        shifts = rng.uniform(-self.affine, self.affine, num_dims)
        if num_dims == 2:
            sine, cosine = np.sin(angles[0]), np.cos(angles[0])
            rotation = np.array([[cosine, -sine], [sine, cosine]])
        else:
            rotation = Rotation.from_euler("xyz", angles).as_matrix()
        matrix = np.exp(log_scale) * rotation * spacing[None, :] / spacing[:, None]
        centre = (extent - 1) / 2
        offset = centre + shifts * extent / 4 - matrix @ centre
        return matrix, offset, np.array([*angles, log_scale, *shifts])


def layout(meta: Mapping[str, Any], num_dims: int) -> dict[str, Any]:
    """`left_right` and `spacing_mm` of an example, as `Augment` takes them, from its meta.

    Left and right lie along the axis of a volume whose step moves most along the world's x, and
    along the columns of a frame, unless that axis leads out of it (a sagittal slice). Without an
    affine they lie along the first axis of a volume and the columns of a frame.
    """
    axis = int(np.abs(np.asarray(meta.get("affine", np.eye(4)))[0, :3]).argmax())
    if num_dims == 2:
        axis = -1 if axis == 2 else 1
    return {"left_right": axis, "spacing_mm": np.array(meta.get("spacing_mm", [1.0] * num_dims))}


def _resample_image(image: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Linear; what comes from outside is the image's smallest value (background)."""
    channels = [
        scipy.ndimage.affine_transform(
            image[..., channel],
            matrix,
            offset,
            order=1,
            mode="constant",
            cval=float(image[..., channel].min()),
        )
        for channel in range(image.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def _resample_mask(mask: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Nearest; what comes from outside is label 0."""
    return scipy.ndimage.affine_transform(mask, matrix, offset, order=0, mode="constant", cval=0)


def _apply_gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    low, high = image.min(), image.max()
    if not high > low:
        return image
    return (((image - low) / (high - low)) ** gamma * (high - low) + low).astype(image.dtype)
