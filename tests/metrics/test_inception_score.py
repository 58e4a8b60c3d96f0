import numpy as np
import pytest

from motfm_jax.metrics.inception_score import (
    Answers,
    answers,
    inception_score,
    score,
    split_of_each,
)


def test_agrees_with_torch_fidelity(golden):
    arrays = golden("classes")
    result = inception_score(arrays["logits"], seed=None)
    np.testing.assert_allclose(result[:2], arrays["inception_score_torch_fidelity"], rtol=1e-6)
    assert result.num_splits == 10


def test_one_answer_for_all_scores_one_and_sure_varied_answers_the_number_of_classes():
    same = np.tile([3.0, -1.0, 0.5], (20, 1))
    np.testing.assert_allclose(inception_score(same, seed=0)[:2], (1, 0), atol=1e-12)
    sure = 1000 * np.tile(np.eye(4), (10, 1))
    np.testing.assert_allclose(inception_score(sure, seed=None)[:2], (4, 0), atol=1e-9)


def test_a_constant_added_to_the_logits_changes_nothing(golden):
    logits = golden("classes")["logits"].astype(float)
    np.testing.assert_allclose(
        inception_score(logits, seed=1)[:2], inception_score(logits + 7, seed=1)[:2], rtol=1e-9
    )


def test_images_sorted_by_class_score_higher_once_shuffled():
    logits = 10 * np.repeat(np.eye(5), 40, axis=0)
    in_order, shuffled = (inception_score(logits, seed, num_splits=5) for seed in (None, 0))
    np.testing.assert_allclose(in_order.mean, 1)
    assert shuffled.mean > 4
    assert shuffled == inception_score(logits, seed=0, num_splits=5)


@pytest.mark.parametrize("sizes", [(50, 1), (1, 20, 30), (51,)])
def test_batches_of_any_sizes_give_the_score_of_the_whole(sizes):
    logits = 3 * np.random.default_rng(0).standard_normal((51, 7))
    splits = split_of_each(51, seed=4)
    edges = np.cumsum(sizes)[:-1]
    parts = [
        answers(rows, number, 10)
        for rows, number in zip(np.split(logits, edges), np.split(splits, edges))
    ]
    added = score(Answers(*map(sum, zip(*parts))))
    np.testing.assert_allclose(added[:2], inception_score(logits, seed=4)[:2], rtol=1e-12)
    in_splits = np.random.default_rng(4).permutation(logits)  # by the definition
    given = [
        np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        for part in np.split(in_splits, np.arange(1, 10) * 51 // 10)
    ]
    by_hand = [np.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()) for p in given]
    np.testing.assert_allclose(added[:2], (np.mean(by_hand), np.std(by_hand)), rtol=1e-12)


@pytest.mark.parametrize(
    "logits, splits, message",
    [
        (np.zeros((9, 3)), 10, "10 splits need at least 10"),
        (np.zeros((9, 3)), 0, "needed at least 1"),
        (np.full((9, 3), np.nan), 2, "not finite"),
    ],
)
def test_logits_that_cannot_be_split_are_refused(logits, splits, message):
    with pytest.raises(ValueError, match=message):
        inception_score(logits, seed=0, num_splits=splits)
