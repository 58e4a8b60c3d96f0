"""Distances of image sets: their names, what they are for equal sets, which image meets which."""

import numpy as np
import pytest

from motfm_jax.evaluation.score import scorer

BOUNDS = (0.0, 200.0)


def draw(num, *size, seed=0, high=200.0):
    return np.random.default_rng(seed).uniform(0, high, (num, *size, 1)).astype(np.float32)


def test_equal_sets_are_at_0_and_alike():
    images = draw(6, 16, 16)
    scores = scorer(images, bounds=BOUNDS)(images)
    assert set(scores) == {"density_w1", "ssim", "ssim_between"}
    assert scores["density_w1"] == pytest.approx(0, abs=1e-9)
    assert scores["ssim"] == pytest.approx(1)
    assert scores["ssim_between"] < 0.5


def test_an_image_is_compared_with_the_real_one_of_its_number_again_from_the_start():
    real = draw(3, 16, 16)
    again = np.concatenate([real, real[:1]])
    assert scorer(real, bounds=BOUNDS)(again)["ssim"] == pytest.approx(1)
    assert scorer(real, bounds=BOUNDS)(again[::-1])["ssim"] < 0.9


def test_copies_of_one_image_have_no_variety():
    one = np.repeat(draw(1, 16, 16), 4, axis=0)
    assert scorer(draw(4, 16, 16), bounds=BOUNDS)(one)["ssim_between"] == pytest.approx(1)


def test_a_brighter_set_lies_as_many_grey_levels_away():
    images = 60 + draw(4, 32, 32, high=40.0)  # far from both ends, over which the density smooths
    brighter = scorer(images, bounds=BOUNDS)(images + 40)["density_w1"]
    assert brighter == pytest.approx(40 / 200 * 255, rel=0.02)


@pytest.mark.parametrize("side, name", [(16, "ssim"), (24, "ms_ssim")])
def test_volumes_are_compared_by_kernels_too(side, name):
    real, other = draw(5, side, side, side), draw(5, side, side, side, seed=1)
    same, apart = scorer(real, bounds=BOUNDS)(real), scorer(real, bounds=BOUNDS)(other / 2)
    assert {name, f"{name}_between", "linear_mmd", "pixel_mmd"} <= set(same)
    assert same["pixel_mmd"] < 0 < apart["pixel_mmd"]


def test_features_name_their_distances():
    real, other = draw(30, 16, 16), draw(30, 16, 16, seed=1, high=150.0)
    see = lambda images: images.reshape(len(images), -1)[:, :5]  # noqa: E731
    scores = scorer(real, bounds=BOUNDS, features=see)(other)
    assert {"frechet", "kernel", "kernel_std"} <= set(scores) and scores["frechet"] > 1
