"""Whether images show what their masks ask for, by the brightness of two labels."""

import numpy as np


def darker_share(
    images: np.ndarray, masks: np.ndarray, darker: int, brighter: int
) -> tuple[float, int]:
    """Share of images in which one label's mean intensity is below another's.

    In an echocardiogram the blood in the ventricle's cavity scatters far less than its wall, so an
    image that follows its mask has a cavity darker than its myocardium.

    Args:
      images: [N, *S, C], any intensity unit that grows with brightness.
      masks: [N, *S] labels.
      darker, brighter: the two labels.

    Returns:
      The share among images whose mask holds both labels, and the number of those images.

    Raises:
      ValueError: shapes that do not belong together, or no mask with both labels.
    """
    images, masks = np.asarray(images), np.asarray(masks)
    if images.shape[:-1] != masks.shape:
        raise ValueError(f"images {images.shape} and masks {masks.shape} differ in number or space")
    both = [(mask == darker).any() and (mask == brighter).any() for mask in masks]
    if not any(both):
        raise ValueError(f"no mask holds both label {darker} and label {brighter}")
    is_darker = [
        image[mask == darker].mean(dtype=float) < image[mask == brighter].mean(dtype=float)
        for image, mask in zip(images[both], masks[both])
    ]
    return float(np.mean(is_darker)), len(is_darker)
