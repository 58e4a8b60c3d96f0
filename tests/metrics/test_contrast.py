import numpy as np
import pytest

from motfm_jax.metrics.contrast import darker_share


def _image(cavity: float, wall: float) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((4, 4), np.uint8)
    mask[1], mask[2] = 1, 2
    image = np.where(mask == 1, cavity, np.where(mask == 2, wall, 50.0))
    return image[..., None], mask


def test_share_of_images_with_a_dark_cavity():
    pairs = [_image(10, 20), _image(10, 20), _image(30, 20), _image(20, 20)]
    images, masks = (np.stack(arrays) for arrays in zip(*pairs))
    assert darker_share(images, masks, darker=1, brighter=2) == (0.5, 4)
    assert darker_share(images, masks, darker=2, brighter=1) == (0.25, 4)


def test_masks_without_both_labels_are_left_out_and_counted():
    image, mask = _image(10, 20)
    images, masks = np.stack([image, image]), np.stack([mask, np.where(mask == 2, 0, mask)])
    assert darker_share(images, masks, 1, 2) == (1.0, 1)
    with pytest.raises(ValueError, match="no mask holds both label 1 and label 3"):
        darker_share(images, masks, 1, 3)


def test_shapes_must_belong_together():
    with pytest.raises(ValueError, match="needed equally many, one of them ends after 2"):
        darker_share(np.zeros((2, 4, 4, 1)), np.zeros((3, 4, 4), np.uint8), 1, 2)
    with pytest.raises(ValueError, match="differ in space"):
        darker_share(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 5), np.uint8), 1, 2)
