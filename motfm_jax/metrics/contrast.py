"""Whether images follow their masks, measured by the brightness of two labels."""

import itertools
from collections.abc import Iterable

import numpy as np


def darker_share(
    images: Iterable[np.ndarray], masks: Iterable[np.ndarray], darker: int, brighter: int
) -> tuple[float, int]:
    """Share of images in which one label's mean intensity is below another's.

    In an echocardiogram the blood in the ventricle's cavity scatters far less than its wall, so an
    image that follows its mask has a cavity darker than its myocardium.

    Args:
      images: N of [*S, C], any intensity unit that grows with brightness; read once, one by one.
      masks: N of [*S] labels.
      darker, brighter: the two labels.

    Returns:
      The share among images whose mask holds both labels, and the number of those images.

    Raises:
      ValueError: shapes that do not belong together, or no mask with both labels.
    """
    is_darker = []
    for number, (image, mask) in enumerate(itertools.zip_longest(images, masks)):
        if image is None or mask is None:
            raise ValueError(
                f"images and masks: needed equally many, one of them ends after {number}"
            )
        if image.shape[:-1] != mask.shape:
            raise ValueError(
                f"image {number} {image.shape} and its mask {mask.shape} differ in space"
            )
        low, high = image[mask == darker], image[mask == brighter]
        if low.size and high.size:
            is_darker.append(low.mean(dtype=float) < high.mean(dtype=float))
    if not is_darker:
        raise ValueError(f"no mask holds both label {darker} and label {brighter}")
    return float(np.mean(is_darker)), len(is_darker)
