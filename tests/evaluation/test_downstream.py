"""Downstream networks on data whose answer is known."""

import dataclasses

import jax
import numpy as np
import pytest

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation import downstream, synthetic
from motfm_jax.evaluation.score import scorer
from motfm_jax.evaluation.sets import in_memory

SIZE = (16, 16)


def make_arrays(num, seed, swapped=False):
    """A bright square; the class is its size, the mask its pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num).astype(np.int32)
    masks = np.zeros((num, *SIZE), np.uint8)
    for index, label in enumerate(labels):
        side = 4 + 4 * label
        row, column = rng.integers(0, 16 - side, 2)
        masks[index, row : row + side, column : column + side] = 1
    images = (masks * 150 + rng.integers(0, 60, masks.shape))[..., None].astype(np.uint8)
    meta = [{"name": f"{seed}_{index}", "spacing_mm": [2.0, 2.0]} for index in range(num)]
    return Arrays(
        images,
        masks,
        1 - labels if swapped else labels,
        meta,
        ("small", "large"),
        ("background", "square"),
    )


TRAIN, VALID, TEST = make_arrays(64, 0), make_arrays(32, 1), make_arrays(32, 2)
INTENSITY = Intensity.fit(TRAIN.images)
FAST = downstream.Recipe(epochs=4, batch_size=16, lr=1e-2)


def make_task(name, arrays=TRAIN):
    return downstream.make_task(name, 18, arrays, width=8)


@pytest.fixture(scope="module")
def classifier():
    task = make_task("classify")
    seen = []
    fitted = downstream.fit(
        task, TRAIN, VALID, INTENSITY, FAST, progress=lambda *done: seen.append(done)
    )
    return task, fitted, seen


@pytest.mark.slow
def test_a_classifier_learns_and_its_best_epoch_is_kept(classifier):
    task, fitted, seen = classifier
    scores = [measures["macro_f1"] for _, _, measures in seen]
    assert len(seen) == 4 and fitted.epoch == 1 + int(np.argmax(scores))
    assert fitted.valid["macro_f1"] == max(scores)
    predict = downstream.predictor(task)
    measures = task.score(predict(fitted.params, TEST, INTENSITY), TEST)
    assert measures["accuracy"] > 0.9 and measures.keys() == {"accuracy", "macro_f1"}


def test_what_is_learned_from_wrong_labels_fails_on_real_ones():
    task = make_task("classify")
    fitted = downstream.fit(task, make_arrays(64, 0, swapped=True), VALID, INTENSITY, FAST)
    predicted = downstream.predictor(task)(fitted.params, TEST, INTENSITY)
    assert task.score(predicted, TEST)["accuracy"] < 0.2


@pytest.mark.slow
def test_a_segmenter_learns_and_is_measured_in_millimetres():
    task = make_task("segment")
    fitted = downstream.fit(task, TRAIN, VALID, INTENSITY, FAST._replace(epochs=8))
    predicted = downstream.predictor(task)(fitted.params, TEST, INTENSITY)
    measures = task.score(predicted, TEST)
    assert predicted.shape == (32, *SIZE) and measures["dice"] > 0.9
    assert measures.keys() == {"dice", "iou", "hausdorff", "hausdorff_95", "asd"}
    moved = np.roll(TEST.masks, 1, axis=2)
    assert task.score(moved, TEST)["hausdorff"] == pytest.approx(2.0)


def test_a_network_is_kept_with_its_kind(classifier, tmp_path):
    _, fitted, _ = classifier
    path = tmp_path / "network.npz"
    downstream.write_network(path, fitted.params, "classify", 18, 8)
    task, params, name = downstream.read_network(path, TEST)
    assert name == "resnet18 classify"
    np.testing.assert_array_equal(
        downstream.predictor(task)(params, TEST, INTENSITY),
        downstream.predictor(classifier[0])(fitted.params, TEST, INTENSITY),
    )
    other = dataclasses.replace(TEST, classes=("a", "b", "c"))
    with pytest.raises(ValueError, match="a network for other images, classes or labels"):
        downstream.read_network(path, other)
    with pytest.raises(ValueError, match="no such network"):
        downstream.read_network(tmp_path / "none.npz", TEST)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no network"):
        downstream.read_network(path, TEST)


def test_generated_and_real_images_are_learned_from_together():
    made = synthetic.generated_arrays(TRAIN.images[:5] / 1.0, TRAIN, labels=TRAIN.labels[:5])
    both = synthetic.join(TRAIN, made)
    assert len(both) == 69 and both.masks is None and len(both.meta) == 69
    np.testing.assert_array_equal(both.images[-5:], TRAIN.images[:5])
    np.testing.assert_array_equal(both.labels[-5:], TRAIN.labels[:5])


def test_the_first_patients_are_taken_whole():
    patients = [0, 0, 1, 1, 1, 2, 0, 3]
    arrays = dataclasses.replace(
        TRAIN.take(np.arange(8)), meta=[{"patient": str(each)} for each in patients]
    )
    for num, expected in (
        (8, range(8)),
        (7, (0, 1, 2, 3, 4, 5, 6)),
        (5, (0, 1, 6)),
        (3, (0, 1, 6)),
    ):
        made = synthetic.first_patients(arrays, num)
        np.testing.assert_array_equal(made.images, arrays.images[list(expected)])
        assert [meta["patient"] for meta in made.meta] == [str(patients[row]) for row in expected]
    with pytest.raises(ValueError, match="--real=2: the first patient has 3 images"):
        synthetic.first_patients(arrays, 2)


@pytest.mark.parametrize(
    "name, arrays, message",
    [
        ("sort", TRAIN, "use classify or segment"),
        ("classify", dataclasses.replace(TRAIN, labels=None), "the data has no classes"),
        ("segment", dataclasses.replace(TRAIN, masks=None), "the data has no masks"),
        (
            "classify",
            dataclasses.replace(TRAIN, images=np.zeros((2, 8, 8, 8, 1))),
            "take 2-D images",
        ),
        ("segment", dataclasses.replace(TRAIN, images=np.zeros((2, 20, 16, 1))), "divisible by 8"),
        ("segment", dataclasses.replace(TRAIN, images=np.zeros((2, 80, 80, 1))), "divisible by 32"),
    ],
)
def test_data_that_cannot_be_learned(name, arrays, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, arrays)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least one epoch and one batch"):
        downstream.fit(make_task("classify"), TRAIN.take(slice(0, 8)), VALID, INTENSITY)


def test_scores_grow_with_what_is_wrong_and_real_images_are_the_floor(classifier, tmp_path):
    _, fitted, _ = classifier
    path = tmp_path / "network.npz"
    downstream.write_network(path, fitted.params, "classify", 18, 8)
    see = downstream.read_features(path, TEST, INTENSITY)
    reference = in_memory(TEST.images.astype(np.float32))
    sets = {
        "floor": TRAIN.images,
        "darker": TRAIN.images - 0.25 * TRAIN.images,
        "noise": np.random.default_rng(0).uniform(0, 255, TRAIN.images.shape),
    }
    scored = {
        name: scorer(reference, bounds=(0.0, 210.0), features=see)(in_memory(images))
        for name, images in sets.items()
    }
    for measure in ("density_w1", "frechet", "kernel"):
        values = [scored[name][measure] for name in sets]
        assert values[0] < values[1] < values[2], measure
    same = scorer(reference, bounds=(0.0, 210.0), features=see)(reference)
    assert same["density_w1"] == pytest.approx(0) and same["frechet"] == pytest.approx(0, abs=1e-6)
    assert jax.tree.all(jax.tree.map(np.isfinite, scored))
