import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.metrics.classification import classification


def test_agrees_with_torchmetrics_and_scikit_learn(golden):
    arrays = golden("classes")
    result = classification(arrays["logits"].argmax(axis=1), arrays["actual"], num_classes=5)
    np.testing.assert_allclose(result.accuracy, arrays["accuracy_torchmetrics"], rtol=1e-6)
    np.testing.assert_allclose(result.macro_f1, arrays["macro_f1_torchmetrics"], rtol=1e-6)
    np.testing.assert_allclose(result.f1[:4], arrays["f1_sklearn"], rtol=1e-6)
    assert np.isnan(result.f1[4])  # neither present nor predicted
    np.testing.assert_array_equal(result.confusion, arrays["confusion_sklearn"])


def test_known_counts():
    result = classification(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), num_classes=2)
    assert result.accuracy == 0.75
    assert result.confusion.tolist() == [[1, 0], [1, 2]]
    np.testing.assert_allclose(result.f1, [2 / 3, 4 / 5])
    np.testing.assert_allclose(result.macro_f1, (2 / 3 + 4 / 5) / 2)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1), st.randoms())
def test_order_and_names_of_classes_do_not_matter(pairs, random):
    renamed = [1, 2, 0]
    result = classification(*np.array(pairs).T, 3)
    random.shuffle(pairs)
    other = classification(*np.array([[renamed[p], renamed[a]] for p, a in pairs]).T, 3)
    np.testing.assert_allclose(other.f1[renamed], result.f1)
    np.testing.assert_allclose(other[:2], result[:2])


@pytest.mark.parametrize(
    "predicted, actual, message",
    [
        (np.array([0, 1]), np.array([0]), "one class an example"),
        (np.array([], int), np.array([], int), "one class an example"),
        (np.array([0.0, 1.0]), np.array([0, 1]), "predicted classes are float64"),
        (np.array([0, 1]), np.array([0, 2]), "actual classes run from 0 to 2: needed 0 to 1"),
    ],
)
def test_wrong_classes_are_refused(predicted, actual, message):
    with pytest.raises(ValueError, match=message):
        classification(predicted, actual, num_classes=2)
