"""Measures of each image beside its mask or condition, and where scores show them."""

import numpy as np
import pytest

from motfm_jax.evaluation import each, score
from motfm_jax.evaluation.sets import ImageSet, in_memory, made_from
from motfm_jax.evaluation.spaces import Features, spaces

BOUNDS = (0.0, 1.0)


def draw(num, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (num, 16, 16, 1)).astype(np.float32)


def squares(num, size=6):
    """Masks of a square whose place tells it apart."""
    masks = np.zeros((num, 16, 16), np.uint8)
    for row, mask in enumerate(masks):
        mask[row : row + size, 3 : 3 + size] = 1
    return masks


def follow(masks):
    """Images that are bright in their mask, with a little noise."""
    return (masks[..., None] + 0.1 * draw(len(masks))).clip(0, 1)


MEAN = Features("mean", lambda images: images.mean(axis=(2, 3)))
THRESHOLD = Features("threshold", MEAN.extract, lambda images: (images[..., 0] > 0.5).astype(int))


def scored(images, **settings):
    measure = score.scorer(in_memory(draw(12, seed=5), squares(12)), bounds=BOUNDS, **settings)
    return measure(images)


def test_diversity_is_shown_where_conditions_repeat_and_only_there():
    masks = squares(4)
    alone = scored(in_memory(draw(4), masks))
    assert "diversity" not in alone and "diversity" not in scored(in_memory(draw(4)))
    repeated = scored(in_memory(draw(8), np.repeat(masks, 2, axis=0)), features=MEAN)
    rms = np.sqrt(((draw(8)[::2] - draw(8)[1::2]) ** 2).mean(axis=(1, 2, 3)))
    assert repeated["diversity"] == pytest.approx(255 * rms.mean(), rel=1e-5)
    assert repeated["diversity_features"] > 0
    copies = scored(in_memory(np.repeat(draw(4), 2, axis=0), np.repeat(masks, 2, axis=0)))
    assert copies["diversity"] == 0


def test_only_the_first_16_of_a_condition_are_compared():
    images, conditions = draw(40), np.arange(40) % 2
    values = each.diversity(in_memory(images), conditions)
    assert np.isfinite(values).sum() == 32 and np.isnan(values[32:]).all()
    rows = images.reshape(40, -1)
    np.testing.assert_allclose(values, 255 * each.diversity_of_rows(rows, conditions), rtol=1e-5)


def test_conditions_are_equal_where_mask_and_class_are():
    masks = squares(2)[[0, 0, 1, 0]]
    images = draw(4)
    assert in_memory(images, masks).conditions().tolist() == [0, 0, 1, 0]
    assert in_memory(images, masks, np.array([2, 3, 3, 2])).conditions().tolist() == [0, 1, 2, 0]
    assert in_memory(images).conditions() is None
    assert made_from(in_memory(images, masks), squares(2)[1:]).tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert made_from(in_memory(images), squares(2)) is None


def test_images_that_follow_their_masks_are_told_from_those_that_do_not():
    masks = squares(6)
    faithful = scored(in_memory(follow(masks), masks), features=THRESHOLD)
    assert faithful["faithful_dice"] == 1 and faithful["faithful_boundary_f1"] == 1
    moved = scored(in_memory(follow(np.roll(masks, 2, axis=1)), masks), features=THRESHOLD)
    assert moved["faithful_dice"] == pytest.approx(4 / 6)
    assert moved["faithful_boundary_f1"] < 0.8
    without = scored(in_memory(follow(masks)), features=THRESHOLD)
    assert "faithful_dice" not in without
    floats = scored(in_memory(follow(masks), masks[..., None] + 0.5), features=THRESHOLD)
    assert "faithful_dice" not in floats


def test_the_floor_of_faithfulness_is_that_of_the_held_out_images():
    """The segmenter learned from the others, whose masks it need not guess."""
    masks = squares(10)
    held_out = follow(np.roll(masks, 2, axis=1))
    measure = score.scorer(in_memory(held_out, masks), bounds=BOUNDS, features=THRESHOLD)
    floor = measure(in_memory(follow(masks), masks), floor=True)
    assert floor["faithful_dice"] == pytest.approx(4 / 6)


def test_several_spaces_are_told_apart_by_their_names():
    assert list(spaces(MEAN)) == [""] and list(spaces(None)) == []
    assert list(spaces([MEAN, THRESHOLD, MEAN])) == ["_mean", "_threshold", "_mean_3"]
    scores = scored(in_memory(follow(squares(8)), squares(8)), features=[MEAN, THRESHOLD])
    for name in ("frechet", "kernel", "precision", "recall", "density", "coverage"):
        assert scores[f"{name}_mean"] == scores[f"{name}_threshold"]
    assert {"kernel_mean_std", "faithful_dice"} <= set(scores)


def test_intervals_stand_beside_what_is_measured_in_features_or_of_each_image():
    patients = [f"{row // 2}" for row in range(30)]
    real = in_memory(draw(30, seed=3), squares(30))
    real = ImageSet(real.shape, real.read, real.masks, None, patients)
    measure = score.scorer(real, bounds=BOUNDS, features=THRESHOLD, bootstrap=20)
    masks = squares(9).repeat(4, axis=0)
    of_groups = measure(in_memory(follow(masks), masks))
    assert not [name for name in of_groups if name.endswith("_interval")], "of nine masks"
    masks = squares(10).repeat(3, axis=0)
    scores = measure(in_memory(follow(masks), masks))
    names = ("frechet", "kernel", "precision", "coverage", "ssim", "spectrum_db", "diversity")
    for name in (*names, "grain_width", "faithful_dice"):
        low, high = scores[f"{name}_interval"]
        assert low <= scores[name] <= high, name
    assert "density_w1_interval" not in scores and "kernel_std_interval" not in scores
