import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.metrics.overlap import MEASURES, boundary_f1, overlap, summarise


def _rectangle(rows: slice, columns: slice) -> np.ndarray:
    labels = np.zeros((20, 20), np.uint8)
    labels[rows, columns] = 1
    return labels


@pytest.mark.parametrize("unit", ["pixels", "mm"])
@pytest.mark.parametrize("name", ["plane", "volume"])
def test_agrees_with_monai(golden, name, unit):
    arrays = golden("labels")
    spacing = arrays[f"{name}_spacing"] if unit == "mm" else None
    maps = arrays[f"{name}_prediction"], arrays[f"{name}_reference"]
    result = overlap(*maps, labels=(1, 2, 3), spacing=spacing)
    for measure in MEASURES:
        key = measure if measure in ("dice", "iou") else f"{measure}_{unit}"
        expected = arrays[f"{name}_{key}_monai"]
        np.testing.assert_allclose(getattr(result, measure), expected, rtol=1e-6)


def test_two_rectangles_shifted_by_three_rows():
    first, second = _rectangle(slice(2, 12), slice(4, 9)), _rectangle(slice(5, 15), slice(4, 9))
    result = overlap(first, second, labels=(1,), spacing=(0.5, 2.0))
    np.testing.assert_allclose(result.dice, 7 / 10)
    np.testing.assert_allclose(result.iou, 7 / 13)
    np.testing.assert_allclose(result.hausdorff, 3 * 0.5)
    np.testing.assert_allclose(overlap(first, second, (1,)).hausdorff, 3)
    sideways = overlap(first.T, second.T, (1,), spacing=(0.5, 2.0))
    np.testing.assert_allclose(sideways.hausdorff, 3 * 2.0)


def test_hausdorff_of_two_rectangles_with_anisotropic_spacing():
    small, large = _rectangle(slice(5, 7), slice(5, 7)), _rectangle(slice(5, 11), slice(5, 9))
    # from (10, 8) to (6, 6): four rows of 3 mm, two columns of 4.5 mm
    result = overlap(small, large, labels=(1,), spacing=(3.0, 4.5))
    np.testing.assert_allclose(result.hausdorff, 15)


def test_one_stray_voxel_moves_hausdorff_but_neither_its_percentile_nor_asd_far():
    clean = _rectangle(slice(2, 12), slice(2, 12))
    stray = clean.copy()
    stray[11, 19] = 1
    result = overlap(stray, clean, labels=(1,))
    assert result.hausdorff == 8
    assert result.hausdorff_95 == 0
    np.testing.assert_allclose(result.asd, 8 / 37)  # 36 voxels of the rectangle's edge, one stray
    np.testing.assert_allclose(result.assd, 8 / 73)
    np.testing.assert_allclose(overlap(clean, stray, labels=(1,)).asd, 0)  # no way back


def test_dice_of_a_ball_and_its_half():
    grid = np.indices((21, 21, 21)) - 10
    ball = (grid**2).sum(axis=0) <= 81
    half = ball & (grid[0] > 0)
    result = overlap(half, ball, labels=(1,))
    np.testing.assert_allclose(result.dice, 2 * half.sum() / (half.sum() + ball.sum()))
    np.testing.assert_allclose(result.iou, half.sum() / ball.sum())
    assert result.hausdorff == 10  # from the far pole to the nearest voxel of the half


@given(st.integers(0, 1000))
def test_order_of_the_maps_matters_to_asd_only(seed):
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 3, (2, 7, 6))
    there, back = overlap(first, second, (1, 2)), overlap(second, first, (1, 2))
    for measure in set(MEASURES) - {"asd"}:
        np.testing.assert_allclose(getattr(there, measure), getattr(back, measure))
    np.testing.assert_allclose(there.dice, 2 * there.iou / (1 + there.iou))
    same = overlap(first, first, (1, 2))
    assert same.dice.tolist() == [1, 1] and same.hausdorff.tolist() == [0, 0]


def test_a_boundary_off_by_a_pixel_is_within_a_tolerance_of_one():
    first, second = _rectangle(slice(2, 12), slice(4, 9)), _rectangle(slice(3, 13), slice(4, 9))
    assert boundary_f1(first, second, (1,)).tolist() == [1]
    # of 26 boundary pixels 18 agree: the two columns over nine rows; the rest is a row apart
    assert boundary_f1(first, second, (1,), tolerance=0).tolist() == [18 / 26]
    assert boundary_f1(first, _rectangle(slice(14, 18), slice(12, 16)), (1,)).tolist() == [0]


def test_a_ragged_boundary_costs_more_than_dice_tells():
    smooth = _rectangle(slice(3, 15), slice(3, 15))
    ragged = smooth.copy()
    ragged[3:7, 3:15:3] = 0
    assert boundary_f1(ragged, smooth, (1,)) < overlap(ragged, smooth, (1,)).dice - 0.05


def test_a_missing_boundary_is_0_and_an_absent_one_unknown():
    full, empty = _rectangle(slice(2, 12), slice(4, 9)), np.zeros((20, 20), np.uint8)
    np.testing.assert_array_equal(boundary_f1(full, empty, (1, 2)), [0, np.nan])


def test_empty_maps_are_counted_and_their_overlap_is_zero():
    full, empty = _rectangle(slice(2, 12), slice(4, 9)), np.zeros((20, 20), np.uint8)
    summary = summarise(
        [
            overlap(full, full, (1, 2)),
            overlap(empty, full, (1, 2)),
            overlap(full, empty, (1, 2)),
            overlap(empty, full, (1, 2)),
            overlap(empty, empty, (1, 2)),
        ]
    )
    assert summary.num_images == 5
    assert summary.missed.tolist() == [2, 0]
    assert summary.invented.tolist() == [1, 0]
    assert summary.absent.tolist() == [1, 5]
    np.testing.assert_allclose(summary.structures["dice"], [1 / 4, np.nan])
    np.testing.assert_allclose(summary.structures["hausdorff"], [0, np.nan])
    assert np.isnan(summary.mean["dice"])  # a structure without a value is not passed over


def test_the_mean_is_over_images_first_and_over_structures_then():
    two = _rectangle(slice(2, 12), slice(4, 9)) * 2 + _rectangle(slice(14, 16), slice(4, 6))
    three = two * (two == 2) + _rectangle(slice(14, 18), slice(4, 6))
    summary = summarise([overlap(two, two, (1, 2)), overlap(three, two, (1, 2))])
    np.testing.assert_allclose(summary.structures["dice"], [(1 + 2 / 3) / 2, 1])
    np.testing.assert_allclose(summary.mean["dice"], (5 / 6 + 1) / 2)


@pytest.mark.parametrize(
    "prediction, reference, labels, spacing, message",
    [
        (np.zeros((4, 4), int), np.zeros((4, 5), int), (1,), None, "two maps of one size"),
        (np.zeros((4, 4)), np.zeros((4, 4), int), (1,), None, "prediction is float64"),
        (np.zeros((4, 4), int), np.zeros((4, 4), int), (), None, "no labels"),
        (np.zeros((4, 4), int), np.zeros((4, 4), int), (1,), (1.0,), "2 positive millimetres"),
        (np.zeros((4, 4), int), np.zeros((4, 4), int), (1,), (1.0, 0.0), "2 positive millimetres"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(prediction, reference, labels, spacing, message):
    with pytest.raises(ValueError, match=message):
        overlap(prediction, reference, labels, spacing)


def test_only_comparisons_of_the_same_labels_are_summarised():
    labels = np.ones((4, 4), int)
    for overlaps in ([], [overlap(labels, labels, (1,)), overlap(labels, labels, (1, 2))]):
        with pytest.raises(ValueError, match="all of the same labels"):
            summarise(overlaps)
