import itertools

import numpy as np
import pytest

from motfm_jax.metrics import nearest
from motfm_jax.metrics.nearest import auc, block_rows, nearest_features, ratio_share, share_closer


@pytest.fixture(params=[2**24, 500], ids=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK_PIXELS", request.param)
    monkeypatch.setattr(nearest, "BLOCK_ROWS", max(3, request.param // 10_000))


def nearest_pixels(queries, references, max_shift=None, groups=None):
    """Of an array of references."""
    rows = block_rows(queries.shape[1:])
    blocks = (references[at : at + rows] for at in range(0, len(references), rows))
    return nearest.nearest_pixels(queries, blocks, max_shift, groups)


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape)


@pytest.mark.usefixtures("_blocks")
def test_nearest_features_are_those_of_all_distances():
    queries, references = _random(9, 5), _random(20, 5, seed=1)
    every = np.linalg.norm(queries[:, None] - references, axis=-1)
    found = nearest_features(queries, references)
    np.testing.assert_array_equal(found.index, every.argmin(axis=1))
    np.testing.assert_allclose(found.distance, every.min(axis=1), rtol=1e-12)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("patients", [None, np.arange(20) % 6, np.zeros(20, int)])
def test_the_second_is_the_nearest_of_another_patient(patients):
    queries, references = _random(9, 12, 10, 1), _random(20, 12, 10, 1, seed=1)
    groups = np.arange(20) if patients is None else patients
    every = np.sqrt(((queries[:, None] - references) ** 2).mean(axis=(2, 3, 4)))
    first = every.argmin(axis=1)
    every[groups == groups[first][:, None]] = np.inf
    by_pixels = nearest_pixels(queries, references, 0, patients)
    np.testing.assert_allclose(by_pixels.second, every.min(axis=1), rtol=1e-5)
    rows = [images.reshape(len(images), -1) for images in (queries, references)]
    by_features = nearest_features(*rows, patients)
    np.testing.assert_allclose(by_features.second, every.min(axis=1) * np.sqrt(120), rtol=1e-9)


def test_a_copy_is_far_nearer_than_the_next_patient():
    assert ratio_share(np.array([0.1, 0.9, 0.5]), np.array([1.0, 1.0, np.inf])) == 2 / 3


def test_auc_is_the_share_of_pairs():
    assert auc(np.array([1.0, 2, 5]), np.array([2.0, 3])) == (2 + 1.5 + 0) / 6
    assert auc(np.zeros(3), np.ones(4)) == 1 and auc(np.ones(3), np.ones(4)) == 0.5


def test_a_copied_feature_is_at_no_distance_even_far_from_the_origin():
    references = 1e6 + 1000 * _random(20, 5)
    found = nearest_features(references[::-1], references)
    assert found.index.tolist() == list(range(20))[::-1]
    assert found.distance.tolist() == [0] * 20


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("shape", [(12, 9, 1), (5, 6, 7, 2)])
def test_nearest_pixels_are_those_of_all_images_and_translations(shape):
    queries, references = _random(3, *shape), _random(6, *shape, seed=1)
    axes = tuple(range(len(shape) - 1))
    every = np.array(
        [
            [
                min(
                    np.sqrt(np.mean((query - np.roll(reference, shift, axes)) ** 2))
                    for shift in itertools.product(*map(range, shape[:-1]))
                )
                for reference in references
            ]
            for query in queries
        ]
    )
    found = nearest_pixels(queries, references)
    np.testing.assert_array_equal(found.index, every.argmin(axis=1))
    np.testing.assert_allclose(found.distance, every.min(axis=1), rtol=1e-6)


@pytest.mark.usefixtures("_blocks")
def test_a_moved_copy_is_found_with_its_shift():
    references = _random(7, 16, 12, 1)
    copies = np.stack([np.roll(references[5], (3, -2), (0, 1)), references[2]])
    found = nearest_pixels(copies, references)
    assert found.index.tolist() == [5, 2]
    assert found.shift.tolist() == [[3, -2], [0, 0]]
    assert found.distance.tolist() == [0, 0]


def test_a_limit_of_the_shift_is_kept():
    references = _random(7, 16, 12, 1)
    copy = np.roll(references[5], (3, -2), (0, 1))[None]
    assert nearest_pixels(copy, references, max_shift=3).distance == 0
    within_two = nearest_pixels(copy, references, max_shift=2)
    assert within_two.distance > 0.1
    assert abs(within_two.shift).max() <= 2
    unmoved = nearest_pixels(copy, references, max_shift=0)
    plain = np.sqrt(((copy - references) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(unmoved.distance, plain.min(), rtol=1e-9)
    assert unmoved.index == plain.argmin() and unmoved.shift.tolist() == [[0, 0]]


def test_share_of_images_closer_than_the_quantile_of_held_out_ones():
    held_out = np.arange(1.0, 101)
    share, threshold = share_closer(np.array([0.0, 1, 2, 50, 200]), held_out)
    assert (share, threshold) == (3 / 5, np.quantile(held_out, 0.05))
    assert share_closer(held_out, held_out).share == 0.05
    assert share_closer(held_out, held_out, quantile=0.5).share == 0.5
    assert share_closer(np.array([2.0]), np.full(20, 2.0)).share == 0  # as close, not closer


@pytest.mark.parametrize(
    "generated, held_out, quantile, message",
    [
        (np.ones(5), np.ones(10), 0.05, "quantile 0.05 of 10 held-out"),
        (np.ones(5), np.ones(100), 1.0, "quantile 1.0"),
        (np.ones((5, 2)), np.ones(100), 0.05, "needed one per image"),
        (np.array([np.nan]), np.ones(100), 0.05, "generated distances"),
    ],
)
def test_distances_without_a_share_are_refused(generated, held_out, quantile, message):
    with pytest.raises(ValueError, match=message):
        share_closer(generated, held_out, quantile)


def test_images_that_cannot_be_compared_are_refused():
    images = np.zeros((2, 4, 4, 1))
    with pytest.raises(ValueError, match="of one size"):
        nearest_pixels(images, np.zeros((2, 4, 5, 1)))
    with pytest.raises(ValueError, match="one is empty"):
        nearest_pixels(images[:0], images)
    with pytest.raises(ValueError, match="references: needed at least one"):
        nearest_pixels(images, images[:0])
    with pytest.raises(ValueError, match="max_shift -1"):
        nearest_pixels(images, images, max_shift=-1)
    with pytest.raises(ValueError, match="references"):
        nearest_pixels(images, images * np.nan)
    with pytest.raises(ValueError, match="2 and 3 features"):
        nearest_features(np.zeros((2, 2)), np.zeros((2, 3)))
