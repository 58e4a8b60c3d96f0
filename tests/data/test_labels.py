import numpy as np
import pytest

from motfm_jax.data import geometry
from motfm_jax.data.labels import NOT_THERE, Labels, fault, parse, to_values


def test_names_with_and_without_values():
    assert parse("background, lesion") == (("background", "lesion"), (0, 1))
    assert parse("0: background, 255: lesion") == (("background", "lesion"), (0, 255))
    assert parse("T1: high, T2: low").names == ("T1: high", "T2: low")  # no numbers, no values


@pytest.mark.parametrize(
    "text, message",
    [
        ("0:background,lesion", "give names"),
        ("a,,b", "give names"),
        ("1:a,1:b", "a value of its own"),
        (",".join(f"n{n}" for n in range(257)), "at most 256 labels"),
        ("0:a,3000000000:b", "at most 256 labels with values"),
    ],
)
def test_labels_that_cannot_be_are_refused(text, message):
    assert message in fault(text)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_files_values_are_numbered_and_restored(dtype):
    mask = np.array([[0, 4], [200, 0]], dtype)
    labels = Labels(("back", "tumour", "edema"), (0, 200, 4))
    numbers = labels.number(mask, "file")
    np.testing.assert_array_equal(numbers, np.uint8([[0, 2], [1, 0]]), strict=True)
    np.testing.assert_array_equal(to_values(numbers, labels.gaps), mask)
    with pytest.raises(ValueError, match="file: label 7 found, only 0, 4, 200 declared"):
        labels.number(np.array([7], dtype), "file")


def test_labels_of_other_files_are_found_by_name():
    run = Labels(("back", "old", "lesion"), (0, 1, 2))
    assert run.of(Labels(("back", "lesion"), (0, 255))) == (run.names, (0, NOT_THERE, 255))
    other = Labels(("back", "vessel"), (0, 1))
    assert run.of(other) is other and run.of(None) is run


@pytest.mark.parametrize(
    "corner, is_kept", [((5, 5, 5), True), ((6, 1, 9), True), ((3, 5, 5), False)]
)
def test_a_lesion_between_the_voxels_that_are_kept_is_lost(corner, is_kept):
    """From 64 to 16, index 2 of every four is kept; a lesion has two of them along each axis."""
    mask = np.zeros((64, 64, 64), np.uint8)
    mask[tuple(slice(start, start + 2) for start in corner)] = 7
    image = np.zeros((64, 64, 64, 0), np.float32)
    resized = geometry.fit(image, mask, None, None, (16, 16, 16), "pad")
    assert resized.lost == (() if is_kept else (7,))
