"""What changes no measure, and what changes it in a known way."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.kernel import cmmd, gaussian_mmd, kid, linear_mmd, median_distance
from motfm_jax.metrics.moments import moments
from motfm_jax.metrics.overlap import MEASURES, overlap
from motfm_jax.metrics.similarity import ms_ssim, psnr, snr, ssim

SEEDS = st.integers(0, 2**32 - 1)


def frechet(x, y):
    return frechet_distance(moments(x), moments(y))


def kernel_distance(x, y):
    return kid(x, y, seed=0, num_subsets=1).mean  # of equally large sets: of all their rows


def gaussian(x, y):
    return gaussian_mmd(x, y, bandwidth=2.0)


def unit_mmd(x, y):
    return cmmd(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y)))


def mean_images(x, y):
    """Rows as images of 3 x 1 pixels and 1 channel."""
    return linear_mmd(x[:, :, None, None], y[:, :, None, None])


DISTANCES = [frechet, kernel_distance, gaussian, unit_mmd, mean_images]


def features(seed):
    """Two sets [N, F] of unlike means and covariances, and the generator."""
    random = np.random.default_rng(seed)
    count, width = random.integers(2, 30), 3
    x, y = random.normal(size=(2, count, width))
    return x @ random.normal(size=(width, width)) + 1, y, random


def turned(random, width):
    """A random orthogonal matrix, reflections among them."""
    return np.linalg.qr(random.normal(size=(width, width)))[0]


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("distance", DISTANCES)
@given(seed=SEEDS)
def test_distances_know_no_order_no_direction_and_no_axes(distance, seed):
    x, y, random = features(seed)
    expected = distance(x, y)
    close(distance(random.permutation(x), random.permutation(y)), expected)
    close(distance(y, x), expected)
    rotation = turned(random, 3)
    close(distance(x @ rotation, y @ rotation), expected)


@pytest.mark.parametrize("distance", [frechet, gaussian, mean_images])
@given(seed=SEEDS)
def test_distances_know_no_common_shift(distance, seed):
    x, y, random = features(seed)
    shift = random.normal(size=3) * 5
    close(distance(x + shift, y + shift), distance(x, y))


@given(SEEDS, st.floats(0.1, 10))
def test_distances_in_other_units(seed, scale):
    x, y, _ = features(seed)
    for distance in (frechet, mean_images):
        close(distance(scale * x, scale * y) / scale**2, distance(x, y))
    close(gaussian_mmd(scale * x, scale * y, 2 * scale), gaussian(x, y))
    close(median_distance(scale * x, seed=0), scale * median_distance(x, seed=0))
    close(median_distance(x + 7, seed=0), median_distance(x, seed=0))


@given(SEEDS)
def test_a_set_is_at_no_distance_from_itself(seed):
    x, y, random = features(seed)
    again = random.permutation(x)
    close(frechet(x, again), 0)
    close(unit_mmd(x, again), 0)
    for unbiased in (kernel_distance, gaussian, mean_images):
        assert unbiased(x, again) <= 1e-9, "without the pairs of a row with itself: not above 0"
    assert frechet(x, y) >= 0 and unit_mmd(x, y) >= 0


def image_pairs(seed, dims):
    """Two sets [2, *S, C] of images in [0, 1], and the generator; every side is even."""
    random = np.random.default_rng(seed)
    shape = (2, *((14, 12) if dims == 2 else (12, 14, 12)), 1)
    references = random.uniform(size=shape)
    images = np.clip(references + random.normal(0, 0.2, shape), 0, 1)
    return images, references, random


SIMILARITIES = {
    "psnr": lambda x, y: psnr(x, y, 1.0),
    "snr": lambda x, y: snr(x, y, black=0.0),
    "ssim": lambda x, y: ssim(x, y, 1.0),
    "ms_ssim": lambda x, y: ms_ssim(x, y, 1.0, weights=(0.4, 0.6), num_taps=5),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SIMILARITIES)
@given(seed=SEEDS)
def test_similarity_is_of_pairs_whichever_way_they_are_turned(name, dims, seed):
    images, references, random = image_pairs(seed, dims)
    measure = SIMILARITIES[name]
    expected = measure(images, references)
    assert expected.shape == (2,)
    close(measure(images[::-1], references[::-1]), expected[::-1])
    axis = 1 + random.integers(dims)
    close(measure(np.flip(images, axis), np.flip(references, axis)), expected)
    axes = (0, *(1 + random.permutation(dims)), dims + 1)
    close(measure(images.transpose(axes), references.transpose(axes)), expected)
    if name != "snr":  # which is relative to one of them
        close(measure(references, images), expected)


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
@given(seed=SEEDS)
def test_structural_similarity_is_one_for_equal_images_and_below_for_others(name, seed):
    images, references, _ = image_pairs(seed, 2)
    close(SIMILARITIES[name](images, images), 1)
    assert (np.abs(SIMILARITIES[name](images, references)) < 1).all()


def label_maps(seed, dims):
    """Prediction and reference [*S] of labels 0 to 2 in a frame of background, and the generator;
    some labels are in one map only."""
    random = np.random.default_rng(seed)
    shape = (6, 5) if dims == 2 else (4, 5, 3)
    maps = random.integers(0, 3, (2, *shape)) * (random.uniform(size=(2, *shape)) < 0.4)
    return *np.pad(maps, ((0, 0), *((2, 2),) * dims)), random


def close_overlaps(one, other):
    for measure in MEASURES:
        np.testing.assert_allclose(
            getattr(one, measure), getattr(other, measure), rtol=1e-9, err_msg=measure
        )


@pytest.mark.parametrize("dims", [2, 3])
@given(seed=SEEDS)
def test_overlap_does_not_depend_on_place_axes_or_the_names_of_labels(dims, seed):
    prediction, reference, random = label_maps(seed, dims)
    spacing = random.uniform(0.5, 3, dims)
    expected = overlap(prediction, reference, (1, 2), spacing)
    shifts, axes = random.integers(-2, 3, dims), random.permutation(dims)
    every = tuple(range(dims))
    moved = (np.roll(labels, shifts, every) for labels in (prediction, reference))
    close_overlaps(overlap(*moved, (1, 2), spacing), expected)
    flipped = (np.flip(labels, axes[0]) for labels in (prediction, reference))
    close_overlaps(overlap(*flipped, (1, 2), spacing), expected)
    turned = (labels.transpose(axes) for labels in (prediction, reference))
    close_overlaps(overlap(*turned, (1, 2), spacing[axes]), expected)
    renamed = (np.array([0, 7, 4])[labels] for labels in (prediction, reference))
    close_overlaps(overlap(*renamed, (7, 4), spacing), expected)


@pytest.mark.parametrize("dims", [2, 3])
@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_distances_of_surfaces_are_in_the_units_of_the_spacing(dims, seed, scale):
    prediction, reference, random = label_maps(seed, dims)
    spacing = random.uniform(0.5, 3, dims)
    one = overlap(prediction, reference, (1, 2), spacing)
    other = overlap(prediction, reference, (1, 2), scale * spacing)
    np.testing.assert_array_equal((other.dice, other.iou), (one.dice, one.iou))
    for measure in MEASURES[2:]:
        expected = scale * getattr(one, measure)
        np.testing.assert_allclose(getattr(other, measure), expected, rtol=1e-9)
    ones = overlap(prediction, reference, (1, 2), np.ones(dims))
    close_overlaps(ones, overlap(prediction, reference, (1, 2)))


@pytest.mark.parametrize("dims", [2, 3])
@given(seed=SEEDS)
def test_overlap_is_perfect_with_itself_and_its_measures_are_ordered(dims, seed):
    prediction, reference, _ = label_maps(seed, dims)
    same = overlap(prediction, prediction, (1, 2))
    here = same.present
    assert (same.dice[here] == 1).all() and (same.iou[here] == 1).all()
    for measure in MEASURES[2:]:
        assert (getattr(same, measure)[here] == 0).all()
    one = overlap(prediction, reference, (1, 2))
    known = one.present & one.predicted
    chain = (0 * one.asd, one.iou, one.dice, 0 * one.asd + 1)
    chains = [
        chain,
        (one.asd, one.hausdorff),
        (one.assd, one.hausdorff),
        (one.hausdorff_95, one.hausdorff),
    ]
    for chain in chains:
        for less, more in itertools.pairwise(chain):
            assert (less[known] <= more[known] + 1e-12).all()
