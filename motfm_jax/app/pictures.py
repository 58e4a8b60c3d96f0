"""What the page shows and the brush sends: images as HTML, label maps as text."""

import base64
import html
from collections.abc import Sequence

import numpy as np

from motfm_jax.io.tiles import View, data_uri, image_tile, outline_tile

SHOWN_PIXELS = 384  # the width of a single frame on the page


def encode(mask: np.ndarray) -> str:
    """A label map [*S] as text: one byte a voxel in base64, which `decode` reads."""
    return base64.b64encode(np.ascontiguousarray(mask, np.uint8).tobytes()).decode()


def decode(text: str, size: Sequence[int], num_labels: int) -> np.ndarray:
    """The label map [*S] uint8 of a text.

    Raises:
      ValueError: not a map of this size, or a label that there is not.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(size)
    except ValueError as error:
        raise ValueError(f"the page's mask cannot be read ({error}); load it anew") from error
    if values.max(initial=0) >= num_labels:
        raise ValueError(
            f"the page's mask has label {values.max()}, labels below {num_labels} needed"
        )
    return values


def tile(image: np.ndarray, mask: np.ndarray | None, view: View) -> np.ndarray:
    """A frame [H, W, C], with the outlines of its mask [H, W] where there is one."""
    return image_tile(image, view) if mask is None else outline_tile(image, mask, view)


def planes(volume: np.ndarray, at: Sequence[float]) -> list[np.ndarray]:
    """The planes of a volume [I, J, K, ..] across each axis, K first, as the axial plane is.

    Args:
      volume: axes to the right, front and top.
      at: where each of the axes I, J, K is cut, from 0 to 1.

    Returns:
      Three arrays [height, width, ..], upright.
    """
    found = []
    for axis in (2, 1, 0):
        index = round(at[axis] * (volume.shape[axis] - 1))
        found.append(np.take(volume, index, axis).swapaxes(0, 1)[::-1])
    return found


def figure(tiles: Sequence[np.ndarray], caption: str, width: int = SHOWN_PIXELS) -> str:
    """Tiles [h, w, 3] uint8 side by side over a caption, as HTML without links."""
    images = "".join(
        f'<img alt="generated image, synthetic" width="{width}" src="{data_uri(each)}">'
        for each in tiles
    )
    return f"<figure>{images}<figcaption>{html.escape(caption)}</figcaption></figure>"
