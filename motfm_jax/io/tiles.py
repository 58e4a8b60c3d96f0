"""Images and masks as tiles, uint8 RGB arrays [h, w, 3], from which pictures are assembled."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

RGB = ("red", "green", "blue")
# Background first. Colour-blind readers can tell them apart, too (Okabe and Ito 2008).
_COLOURS = "000000 56b4e9 e69f00 009e73 cc79a7 f0e442 0072b2 d55e00"
MASK_COLOURS = np.frombuffer(bytes.fromhex(_COLOURS), np.uint8).reshape(-1, 3)
OPACITY = 0.35  # of masks over images
SEAM = 1  # white pixels between the channels of an image

Bound = float | Sequence[float]  # of all channels, or one each


class View(NamedTuple):
    """How the images of a picture are shown: all alike, so that they can be compared.

    Three channels that are red, green and blue, or have no names, are shown in colour, in one
    window, so that hues are true; several others side by side, each with its own window.

    Attributes:
      low, high: the intensities that become black and white.
      names: of the channels; () if they have none.
    """

    low: Bound
    high: Bound
    names: tuple[str, ...] = ()

    def in_colour(self, channels: int) -> bool:
        """Whether so many channels are one picture in colour."""
        return channels == 3 and tuple(map(str.lower, self.names)) in ((), RGB, tuple("rgb"))

    def across(self, channels: int) -> int:
        """How many planes an image of so many channels becomes, side by side."""
        return 1 if self.in_colour(channels) else channels

    def windows(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Black and white of each channel, [C] each; in colour one black and one white for all."""
        if self.in_colour(channels):
            return np.full(channels, np.min(self.low)), np.full(channels, np.max(self.high))
        return np.broadcast_to(self.low, channels), np.broadcast_to(self.high, channels)

    def caption(self, channels: int) -> str:
        """The line that states windows, and channels from left to right."""
        lows, highs = self.windows(channels)
        spans = [f"{low:.4g} to {high:.4g}" for low, high in zip(lows, highs)]
        if self.in_colour(channels):
            return f"colours {spans[0]}, the same for all images"
        if channels == 1:
            return f"grey window {spans[0]}, the same for all images"
        names = self.names or [f"channel {number}" for number in range(1, channels + 1)]
        return "from left to right, each in its grey window, the same for all images: " + ", ".join(
            f"{name} {span}" for name, span in zip(names, spans)
        )


def shared_view(images: np.ndarray, names: Sequence[str] = ()) -> View:
    """The view of many images [.., C]: from the 0.5 to the 99.5 percentile of all their values, of
    channels that are shown side by side one each."""
    images = np.asarray(images, np.float32)
    channels, names = images.shape[-1], tuple(names)
    parts = [images]
    if View(0, 1, names).across(channels) > 1:
        parts = np.moveaxis(images, -1, 0)
    windows = np.array([np.percentile(part, (0.5, 99.5)) for part in parts], float)
    low, high = windows.T
    high = np.where(high > low, high, low + 1)
    if len(parts) == 1:
        return View(float(low[0]), float(high[0]), names)
    return View(tuple(low.tolist()), tuple(high.tolist()), names)


def image_tile(image: np.ndarray, view: View) -> np.ndarray:
    """An image [*S, C] as a tile; a volume as `three_planes`."""
    channels = image.shape[-1]
    planes = [
        _grey(np.asarray(plane, np.float32), float(low), float(high))
        for plane, low, high in zip(np.moveaxis(image, -1, 0), *view.windows(channels))
    ]
    if view.in_colour(channels):
        return np.stack(planes, axis=-1)
    return _beside([np.repeat(plane[..., None], 3, axis=-1) for plane in planes])


def data_uri(tile: np.ndarray) -> str:
    """A tile as a PNG that an HTML page holds in itself, in grey where it has no colours."""
    grey, file = (tile == tile[..., :1]).all(), io.BytesIO()
    Image.fromarray(tile[..., 0] if grey else tile).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def mask_tile(mask: np.ndarray) -> np.ndarray:
    """A label map [*S] as a tile in MASK_COLOURS. Label 8 has the colour of label 1 again."""
    return _colours(_flat(np.asarray(mask), fill=0))


def overlay_tile(image: np.ndarray, mask: np.ndarray, view: View) -> np.ndarray:
    """`image_tile` under the colours of `mask` [*S]; the background stays as it is."""
    tile, labels = image_tile(image, view), _flat(np.asarray(mask), fill=0)
    across = view.across(image.shape[-1])
    colours = _beside([_colours(labels)] * across)
    covered = _beside([np.repeat((labels > 0)[..., None], 3, axis=-1)] * across, seam=0) > 0
    mixed = (1 - OPACITY) * tile + OPACITY * colours
    return np.where(covered, np.rint(mixed), tile).astype(np.uint8)


def outline_tile(image: np.ndarray, mask: np.ndarray, view: View) -> np.ndarray:
    """`image_tile` with a line, one pixel wide, where a label meets a lower one."""
    tile, labels = image_tile(image, view), _flat(np.asarray(mask), fill=0)
    padded = np.pad(labels, 1, mode="edge")
    around = (padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2])
    line = np.where(labels > np.minimum.reduce(around), labels, 0)
    colours = _beside([_colours(line)] * view.across(image.shape[-1]), seam=0)
    return np.where(colours.any(axis=-1, keepdims=True), colours, tile)


def three_planes(volume: np.ndarray) -> np.ndarray:
    """The three middle planes of a volume side by side.

    Args:
      volume: [I, J, K]. For axes to the right, front and top (RAS) these are the axial, coronal
        and sagittal planes with front and top upwards, and the patient's left on the left.

    Returns:
      [max(J, K), 2 I + J], planes centred in height; NaN (float volumes) or 0 around them.
    """
    i, j, k = (extent // 2 for extent in volume.shape)
    planes = [volume[:, :, k], volume[:, j, :], volume[i, :, :]]
    height = max(plane.shape[1] for plane in planes)
    fill = np.nan if volume.dtype.kind == "f" else 0
    columns = []
    for plane in planes:
        upright = plane.T[::-1]
        above = (height - upright.shape[0]) // 2
        below = height - upright.shape[0] - above
        columns.append(np.pad(upright, ((above, below), (0, 0)), constant_values=fill))
    return np.concatenate(columns, axis=1)


def _grey(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    """[*S] -> [h, w] uint8."""
    plane = _flat(plane, fill=low)
    return np.rint(np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _beside(planes: Sequence[np.ndarray], seam: int = 255) -> np.ndarray:
    """Planes [h, w, 3] from left to right, with a seam of this value between them."""
    between = np.full((len(planes[0]), SEAM, 3), seam, planes[0].dtype)
    parts = [part for plane in planes for part in (between, plane)]
    return np.concatenate(parts[1:], axis=1)


def _flat(image: np.ndarray, fill: float) -> np.ndarray:
    """[H, W] unchanged; [I, J, K] as three planes with `fill` around them."""
    if image.ndim == 2:
        return image
    planes = three_planes(image)
    return np.where(np.isnan(planes), fill, planes) if planes.dtype.kind == "f" else planes


def _colours(labels: np.ndarray) -> np.ndarray:
    others = len(MASK_COLOURS) - 1
    labels = labels.astype(np.int64)
    return MASK_COLOURS[np.where(labels > 0, (labels - 1) % others + 1, 0)]
