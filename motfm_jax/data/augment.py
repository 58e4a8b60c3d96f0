"""Random flips, small affine maps and gamma on one example, drawn from a given generator."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from scipy.spatial.transform import Rotation


@dataclasses.dataclass(frozen=True)
class Augment:
    """One random change of an example; calling it is pure given the generator.

    Attributes:
      flip_axis: axis of S mirrored every other time, or None: only where a mirrored patient is
        still a plausible one (see `left_right_axis`).
      affine: largest rotation [rad]. The scale lies within exp(-affine) .. exp(affine), the shift
        along each axis within affine x a quarter of the extent: each moves the points half way to
        the edge by about the same distance.
      gamma: largest |log gamma|; u -> u^gamma with u in [0, 1] between the image's own smallest
        and largest value, which stay.
      spacing_mm: of the voxels, so that a rotation does not shear where they are not cubes.
    """

    flip_axis: int | None = None
    affine: float = 0.0
    gamma: float = 0.0
    spacing_mm: tuple[float, ...] | None = None

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Image [*S, C] float32, scaled, and mask [*S] labels or None: changed alike in space."""
        if self.flip_axis is not None and rng.random() < 0.5:
            image = np.flip(image, self.flip_axis)
            mask = None if mask is None else np.flip(mask, self.flip_axis)
        if self.affine:
            matrix, offset = self._draw_affine(image.shape[:-1], rng)
            image = _resample_image(image, matrix, offset)
            mask = None if mask is None else _resample_mask(mask, matrix, offset)
        if self.gamma:
            image = _apply_gamma(image, np.exp(rng.uniform(-self.gamma, self.gamma)))
        image = np.ascontiguousarray(image)
        return image, None if mask is None else np.ascontiguousarray(mask)

    def _draw_affine(
        self, shape: Sequence[int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matrix and offset from output to input indices: rotate, scale about the centre, shift."""
        num_dims = len(shape)
        angles = rng.uniform(-self.affine, self.affine, 1 if num_dims == 2 else 3)
        scale = np.exp(rng.uniform(-self.affine, self.affine))
        extent = np.array(shape, np.float64)
        shift = rng.uniform(-self.affine, self.affine, num_dims) * extent / 4
        if num_dims == 2:
            sine, cosine = np.sin(angles[0]), np.cos(angles[0])
            rotation = np.array([[cosine, -sine], [sine, cosine]])
        else:
            rotation = Rotation.from_euler("xyz", angles).as_matrix()
        spacing = np.array(self.spacing_mm or (1.0,) * num_dims)
        matrix = scale * rotation * spacing[None, :] / spacing[:, None]
        centre = (extent - 1) / 2
        return matrix, centre + shift - matrix @ centre


def left_right_axis(num_dims: int, affine: Sequence[Sequence[float]] | None = None) -> int:
    """The axis of S along which a patient's left and right lie.

    In 2-D the columns. In 3-D the axis whose step moves most along the world's x (NIfTI: left to
    right), by the 4 x 4 affine; without one, the first.
    """
    if num_dims == 2:
        return 1
    return 0 if affine is None else int(np.argmax(np.abs(np.asarray(affine)[0, :3])))


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
