import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.metrics.moments import covariance, merge, moments


def _features(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 4)) @ random.normal(size=(4, 4)) + 5


def accumulate(batches):
    return functools.reduce(merge, map(moments, batches))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_batches_of_any_sizes_give_the_moments_of_the_whole(sizes):
    features = _features(sum(sizes) + 1)
    total = accumulate(np.split(features, np.cumsum(sizes)))
    assert total.count == len(features)
    np.testing.assert_allclose(total.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance(total), np.cov(features, rowvar=False), rtol=1e-9)


def test_merging_is_symmetric():
    first, second = moments(_features(5)), moments(_features(8, seed=1))
    for one, other in zip(merge(first, second), merge(second, first)):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_large_common_offset_costs_no_accuracy():
    features = _features(50).astype(np.float32).astype(np.float64)
    far = accumulate(np.split(features + 2.0**20, 5))
    np.testing.assert_allclose(covariance(far), np.cov(features, rowvar=False), rtol=1e-6)


def test_half_precision_features_are_summed_in_double():
    features = np.full((3000, 2), 60.0, np.float16)  # their sum is beyond float16
    assert moments(features).mean.tolist() == [60.0, 60.0]


@pytest.mark.parametrize(
    "features, message",
    [
        (np.zeros(3), "needed [N, F]"),
        (np.zeros((3, 0)), "needed [N, F]"),
        (np.zeros((0, 3)), "at least 1 rows"),
        (np.array([[1.0, np.nan]]), "1 values are not finite"),
    ],
)
def test_features_without_moments_are_refused(features, message):
    with pytest.raises(ValueError) as error:
        moments(features)
    assert message in str(error.value)


def test_one_vector_has_no_covariance_and_widths_must_agree():
    with pytest.raises(ValueError, match="at least 2 feature vectors, got 1"):
        covariance(moments(_features(1)))
    with pytest.raises(ValueError, match="4 and 2 features"):
        merge(moments(_features(3)), moments(np.ones((3, 2))))
