"""Readers' statistics beside statsmodels 0.15.0 and scikit-learn 1.9.1."""

import math

import numpy as np
import pytest

from motfm_jax.metrics.readers import Z, area, fleiss_kappa, wilson


@pytest.mark.parametrize(
    "successes, trials, low, high",
    [
        (0, 10, 0.0, 0.27753279986288926),
        (27, 40, 0.5201774618987767, 0.7991549776821731),
        (40, 40, 0.9123783988027134, 1.0),
        (1, 3, 0.06149194472039626, 0.7923403991979523),
    ],
)
def test_a_share_has_wilsons_interval(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((successes / trials, low, high), abs=1e-12)


@pytest.mark.parametrize(
    "readers, images, kappa",
    [(2, 12, 0.6250000000000001), (3, 40, 0.49310053506054635), (5, 20, 0.4747474747474746)],
)
def test_agreement_is_fleiss_kappa(readers, images, kappa):
    random = np.random.default_rng(0)
    for others in ((2, 12), (3, 40), (5, 20)):
        calls = random.integers(0, 2, others[::-1])
        calls[: len(calls) // 2] = calls[: len(calls) // 2, :1]
        if others == (readers, images):
            break
    ones = calls.sum(axis=1)
    assert fleiss_kappa(np.stack([readers - ones, ones], axis=1)) == pytest.approx(kappa, abs=1e-12)


def test_no_chance_to_agree_beyond_is_nan():
    assert math.isnan(fleiss_kappa(np.array([[3, 0], [3, 0]])))
    assert math.isnan(fleiss_kappa(np.array([[1, 0], [0, 1]])))


def test_the_area_is_scikit_learns_and_its_interval_that_of_leaving_one_out():
    random = np.random.default_rng(1)
    truth = random.integers(0, 2, 60)
    ratings = random.integers(-3, 4, 60) + truth
    negatives, positives = ratings[truth == 0], ratings[truth == 1]
    found = area(negatives, positives)
    assert found.value == pytest.approx(0.5914702581369249, abs=1e-12)
    # Of a U-statistic, DeLong's variance is the jackknife's of both samples (Arvesen 1969).
    variance = 0.0
    for own, of in (
        (negatives, lambda part: area(part, positives)),
        (positives, lambda part: area(negatives, part)),
    ):
        left = np.array([of(np.delete(own, n)).value for n in range(len(own))])
        variance += (len(own) - 1) * left.var()
    assert found.high - found.value == pytest.approx(Z * variance**0.5, rel=1e-9)
