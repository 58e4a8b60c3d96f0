import numpy as np
import pytest

from motfm_jax.metrics.frechet import frechet_distance, frechet_of_rows
from motfm_jax.metrics.moments import Moments, moments


def _gaussian(mean: list[float], covariance: np.ndarray, count: int = 1000) -> Moments:
    return Moments(count, np.array(mean, float), np.array(covariance, float) * (count - 1))


@pytest.mark.parametrize("count, singular", [(60, False), (10, True)])
def test_agrees_with_pytorch_fid_singular_covariances_included(golden, count, singular):
    arrays = golden("features")
    result = frechet_distance(moments(arrays["generated"][:count]), moments(arrays["real"][:count]))
    expected = arrays["fid_of_10_pytorch_fid" if singular else "fid_pytorch_fid"]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_is_the_closed_form_of_two_gaussians_with_common_axes():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    spreads = np.array([1.0, 2.0, 0.0]), np.array([4.0, 2.5, 1.0])
    first, second = (
        _gaussian(mean, rotation * spread**2 @ rotation.T)
        for mean, spread in zip(([0, 0, 0], [3, 0, -4]), spreads)
    )
    result = frechet_distance(first, second)
    np.testing.assert_allclose(result, 25 + ((spreads[0] - spreads[1]) ** 2).sum())


def test_equal_covariances_leave_the_squared_distance_of_the_means(golden):
    features = golden("features")["real"].astype(float)
    moved = moments(features + np.arange(12))
    result = frechet_distance(moments(features), moved)
    np.testing.assert_allclose(result, (np.arange(12) ** 2).sum(), rtol=1e-9)


@pytest.mark.parametrize("count, other", [(60, 60), (10, 60), (60, 10), (10, 9)])
def test_of_rows_it_is_the_same_on_either_side_of_the_number_of_features(golden, count, other):
    x, y = golden("features")["generated"][:count], golden("features")["real"][:other]
    expected = frechet_distance(moments(x), moments(y))
    np.testing.assert_allclose(frechet_of_rows(x, y), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))  # rounding goes either way
@pytest.mark.parametrize("count", [40, 10])
def test_a_set_is_at_no_distance_from_itself_in_any_order(count, seed):
    features = np.random.default_rng(seed).normal(size=(count, 12))
    result = frechet_distance(moments(features), moments(features[::-1]))
    assert 0 <= result < 1e-6


def test_is_symmetric_and_grows_with_the_square_of_the_scale(golden):
    x, y = (golden("features")[name].astype(float) for name in ("generated", "real"))
    there, back = (frechet_distance(moments(a), moments(b)) for a, b in ((x, y), (y, x)))
    np.testing.assert_allclose(there, back, rtol=1e-9)
    scaled = frechet_distance(moments(3 * x), moments(3 * y))
    np.testing.assert_allclose(scaled, 9 * there, rtol=1e-9)


def test_other_numbers_of_features_are_refused():
    with pytest.raises(ValueError, match="2 and 3 features per image"):
        frechet_distance(_gaussian([0, 0], np.eye(2)), _gaussian([0, 0, 0], np.eye(3)))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(moments(np.ones((1, 2))), moments(np.ones((5, 2))))
