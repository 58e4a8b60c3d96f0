"""Distances of image sets: their names, what they are for equal sets, which image meets which."""

import tracemalloc
from functools import partial

import numpy as np
import pytest

from motfm_jax.evaluation import score, sets
from motfm_jax.evaluation.published import Networks
from motfm_jax.evaluation.sets import in_memory, stored
from motfm_jax.evaluation.spaces import Features
from motfm_jax.features import weights
from motfm_jax.metrics.density import density_of_batches, wasserstein
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.kernel import linear_mmd
from motfm_jax.metrics.moments import moments
from motfm_jax.metrics.similarity import ssim

BOUNDS = (0.0, 200.0)


def scorer(reference, **settings):
    """Of arrays."""
    measure = score.scorer(in_memory(reference), **settings)
    return lambda images: measure(in_memory(images))


def draw(num, *size, seed=0, high=200.0):
    return np.random.default_rng(seed).uniform(0, high, (num, *size, 1)).astype(np.float32)


def test_equal_sets_are_at_0_and_alike():
    images = draw(6, 16, 16)
    scores = scorer(images, bounds=BOUNDS)(images)
    texture = {"spectrum_db", "speckle_contrast", "grain_width"}
    assert set(scores) == {"density_w1", "ssim", "ssim_between"} | texture
    assert scores["spectrum_db"] == 0
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
    assert {name, f"{name}_between", "linear_mmd", "pixel_mmd", "spectrum_db"} <= set(same)
    assert same["pixel_mmd"] < 0 < apart["pixel_mmd"]


def look(images):
    return images.reshape(len(images), -1)[:, ::50].astype(np.float32)


SEE = Features("every 50th", look)


@pytest.mark.parametrize("batch", [1, 5])
def test_scores_are_those_of_whole_arrays_whatever_the_batch(monkeypatch, batch):
    """21 images beside 16: in batches of 5 the last has one."""
    monkeypatch.setattr(sets, "BATCH", batch)
    images, real = draw(21, 12, 12, 12), draw(16, 12, 12, 12, seed=1, high=180.0)
    scores = scorer(real, bounds=BOUNDS, features=SEE)(images)
    units, real_units = images / np.float32(200), real / np.float32(200)
    expected = {
        "density_w1": wasserstein(
            *(density_of_batches([each * 255], each.size, 0) for each in (units, real_units))
        ),
        "ssim": ssim(units, real_units[np.arange(21) % 16], 1.0).mean(),
        "ssim_between": ssim(units, np.roll(units, -1, axis=0), 1.0).mean(),
        "linear_mmd": linear_mmd(units, real_units),
        "frechet": frechet_distance(moments(look(images)), moments(look(real))),
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-12), name


def test_a_larger_set_takes_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "BATCH", 8)
    # The values that a density is estimated from are as many for every set; here few.
    monkeypatch.setattr(score, "density_of_batches", partial(density_of_batches, num_values=500))
    monkeypatch.setattr(
        weights,
        "network",
        lambda name: (
            lambda params, images: {
                layer: images.mean(axis=1)[:, :8, 0] * params["fc/kernel"][0, 0]
                for layer in ("64", "192", "logits")
            }
        ),
    )
    weights.write(tmp_path, "inception", {"fc/kernel": np.ones((1, 1), np.float32)}, "abc")
    networks = Networks(tmp_path, 2)

    def peak(num):
        path = tmp_path / f"{num}.npz"
        np.savez(path, images=draw(num, 48, 48))
        tracemalloc.start()
        measure = score.scorer(stored(path), bounds=BOUNDS, networks=networks)
        scores = measure(stored(path))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert {"density_w1", "ssim", "ssim_between", "fid_64", "is"} <= set(scores)
        return highest

    peak(16)  # compiles
    assert peak(320) < 1.3 * peak(40)
