"""Intervals: as wide as the standard error says, wider where patients resemble themselves."""

import numpy as np
import pytest

from motfm_jax.evaluation import intervals as module
from motfm_jax.evaluation.intervals import intervals


def of_mean(values, units):
    scores = {"mean": float(values.mean())}
    found = intervals(scores, lambda rows: {"mean": values[rows[0]].mean()}, [units], 1000, 0)
    return found["mean_interval"]


@pytest.mark.parametrize("most", [1000, 40], ids=["halves", "a tenth"])
def test_of_a_mean_they_are_those_of_the_standard_error(monkeypatch, most):
    monkeypatch.setattr(module, "MOST", most)
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = of_mean(values, np.arange(400))
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)


def test_images_of_one_patient_count_as_one():
    of_patients = np.random.default_rng(0).normal(size=50)
    patients = [f"patient{index // 8}" for index in range(400)]
    low, high = of_mean(np.repeat(of_patients, 8), patients)
    assert high - low == pytest.approx(2 * 1.96 * of_patients.std() / np.sqrt(50), rel=0.1)


def test_few_patients_or_no_draws_give_none():
    def measure(rows):
        return {"a": 1.0}

    scores = {"a": 1.0}
    assert intervals(scores, measure, [np.arange(20), np.arange(20) % 9], 10, 0) == {}
    assert intervals(scores, measure, [np.arange(20)], 0, 0) == {}


def test_those_of_shares_end_at_0_and_1():
    kinds = np.arange(40) % 20

    def measure(rows):
        return dict.fromkeys(("coverage", "number"), len(np.unique(kinds[rows[0]])) / 20)

    found = intervals(measure([slice(None)]), measure, [np.arange(40)], 200, 0)
    assert found["coverage_interval"][1] == 1 < found["number_interval"][1]
