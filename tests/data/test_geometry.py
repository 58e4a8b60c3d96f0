import tracemalloc

import numpy as np
import pytest

from motfm_jax.data import geometry


def ramp(shape, axis):
    """An image whose value is the coordinate along an axis."""
    return np.indices(shape)[axis][..., None].astype(np.float32)


@pytest.mark.parametrize(
    "shape, size", [((12, 20), (6, 5)), ((5, 7), (10, 14)), ((8, 6, 10), (4, 6, 5))]
)
def test_stretch_samples_voxel_j_at_the_stated_coordinate(shape, size):
    for axis in range(len(shape)):
        resized = geometry.fit(ramp(shape, axis), None, None, None, size, "stretch")
        expected = (np.arange(size[axis]) + 0.5) * shape[axis] / size[axis] - 0.5
        got = np.moveaxis(resized.image[..., 0], axis, -1)
        inner = slice(1, -1)  # the outermost voxels see the edge
        np.testing.assert_allclose(
            got[..., inner], np.broadcast_to(expected, got.shape)[..., inner], atol=1e-4
        )


def test_stretch_changes_the_spacing_of_each_axis_and_keeps_the_field_of_view():
    resized = geometry.fit(np.ones((40, 20, 1)), None, np.eye(4), (0.3, 0.6), (16, 16), "stretch")
    np.testing.assert_allclose(resized.spacing_mm, (0.3 * 40 / 16, 0.6 * 20 / 16))
    np.testing.assert_allclose(resized.image, np.ones((16, 16, 1)), rtol=1e-6)


def test_pad_keeps_the_aspect_ratio_in_millimetres():
    """A 12 mm x 12 mm object on 0.5 x 1 mm pixels is a square of equal sides after fitting."""
    image = np.zeros((64, 48, 1), np.float32)
    image[20:44, 18:30] = 1  # 24 x 0.5 mm by 12 x 1 mm
    resized = geometry.fit(image, None, None, (0.5, 1.0), (48, 48), "pad")
    assert resized.spacing_mm == (1.0, 1.0)
    rows, columns = np.nonzero(resized.image[..., 0] > 0.5)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (12, 12)


def test_pad_centres_the_image_and_pads_with_the_background():
    image = np.full((8, 4, 1), 7.0, np.float32)
    image[0, :] = -3  # two of four corners
    image[4, 2] = -9  # lower, but not in a corner
    resized = geometry.fit(image, np.ones((8, 4), np.uint8), None, None, (8, 8), "pad")
    np.testing.assert_array_equal(resized.image[:, :2], -3)
    np.testing.assert_array_equal(resized.image[:, 6:], -3)
    np.testing.assert_array_equal(resized.image[:, 2:6], image)
    np.testing.assert_array_equal(resized.mask[:, 2:6], 1)
    assert resized.mask.sum() == 32


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_the_affine_maps_a_landmark_to_the_same_millimetres(mode):
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * (0.7, 1.1, 1.9)
    affine[:3, 3] = (5, -40, 12)
    grid = np.stack(np.meshgrid(*map(np.arange, (24, 30, 16)), indexing="ij"), -1)
    blob = np.exp(-((grid - (13, 11, 7)) ** 2).sum(-1) / 18)[..., None]
    resized = geometry.fit(blob, None, affine, (0.7, 1.1, 1.9), (20, 18, 22), mode)
    weights = resized.image[..., 0] / resized.image.sum()
    centre = [(weights * index).sum() for index in np.indices(weights.shape)]
    np.testing.assert_allclose(
        (resized.affine @ [*centre, 1])[:3], (affine @ [13, 11, 7, 1])[:3], atol=0.1
    )
    np.testing.assert_allclose(np.linalg.norm(resized.affine[:3, :3], axis=0), resized.spacing_mm)


def test_the_affine_of_a_2d_image_scales_its_two_axes_only():
    affine = np.diag([0.5, 0.5, 3, 1])
    resized = geometry.fit(np.ones((8, 8, 1)), None, affine, (0.5, 0.5), (4, 4), "pad")
    expected = np.diag([1.0, 1.0, 3.0, 1.0])
    expected[:2, 3] = 0.25
    np.testing.assert_allclose(resized.affine, expected)


def test_shrinking_does_not_alias():
    """Stripes of one voxel, taken every fourth, must turn grey and not black or white."""
    stripes = np.tile([0.0, 1.0], 32)[:, None, None] * np.ones((1, 8, 1))
    resized = geometry.fit(stripes, None, None, None, (16, 8), "stretch")
    np.testing.assert_allclose(resized.image, 0.5, atol=0.1)


def test_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 255, (6, 7, 5, 2)).astype(np.uint8)
    mask = image[..., 0] % 4
    resized = geometry.fit(image, mask, np.eye(4), (1, 1, 1), (6, 7, 5), "stretch")
    np.testing.assert_array_equal(resized.image, image)
    np.testing.assert_array_equal(resized.mask, mask)
    np.testing.assert_array_equal(resized.affine, np.eye(4))


def test_masks_keep_their_labels_and_lie_where_the_image_does():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 4:20] = 3
    resized = geometry.fit(mask[..., None], mask, None, None, (20, 20), "pad")
    assert set(np.unique(resized.mask)) == {0, 3}
    np.testing.assert_array_equal(resized.mask == 3, resized.image[..., 0] > 1.5)
    assert mask.max() == 3 and mask.sum() == 3 * 20 * 16  # the given mask is untouched


@pytest.mark.parametrize("size, low, high", [((8, 8, 8), 6, 14), ((24, 24, 24), -2, 22)])
def test_fit_at_spacing_cuts_or_pads_about_the_centre(size, low, high):
    image = ramp((20, 20, 20), 0) + 1
    resized = geometry.fit_at_spacing(image, None, np.eye(4), (1, 1, 1), size, (1, 1, 1))
    expected = np.arange(low, high, dtype=np.float32) + 1
    expected[(expected < 1) | (expected > 20)] = 1  # padding: half of the corners are 1
    np.testing.assert_allclose(resized.image[:, 12 if size[0] > 20 else 4, 4, 0], expected)
    np.testing.assert_allclose(resized.affine[:3, 3], low)


def test_fit_at_spacing_makes_the_spacing():
    image = ramp((20, 20, 20), 1)
    resized = geometry.fit_at_spacing(image, None, np.eye(4), (1, 1, 1), (4, 4, 4), (2, 4, 5))
    assert resized.spacing_mm == (2, 4, 5)
    np.testing.assert_allclose(np.diff(resized.image[0, :, 0, 0]), 4, atol=1e-4)


def test_crop_foreground_follows_the_affine():
    image = np.zeros((9, 9, 9, 1))
    image[2:5, 3:9, 1:2] = 1
    affine = np.diag([2, 3, 4, 1.0])
    cropped, mask, affine = geometry.crop_foreground(image + 5, image[..., 0], affine)
    assert cropped.shape == (3, 6, 1, 1) and mask.shape == (3, 6, 1) and mask.all()
    np.testing.assert_array_equal(cropped, 6)
    np.testing.assert_array_equal(affine[:3, 3], [4, 9, 4])


FLAT = np.ones((4, 4, 1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: geometry.fit(FLAT, None, None, None, (4, 4), "crop"), "fit 'crop': use"),
        (lambda: geometry.fit(FLAT[None], None, None, None, (4, 4), "pad"), "3 axes"),
        (lambda: geometry.fit(FLAT, np.ones((4, 5)), None, None, (4, 4), "pad"), "differ"),
        (lambda: geometry.crop_foreground(FLAT - 1, None, None), "above the background"),
        (lambda: geometry.fit_at_spacing(FLAT, None, None, (1, 1), (4, 4), (1,)), "2 axes"),
    ],
)
def test_what_cannot_be_resized_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "old, new, step",
    [(70, 20, 3.5), (20, 70, 2 / 7), (33, 33, 1.0), (5, 40, 1.7), (40, 5, 1.7), (1, 3, 1 / 3)],
)
def test_weights_are_those_of_the_formula(old, new, step):
    centres = (old - 1) / 2 - (new - 1) / 2 * step + step * np.arange(new)
    width = max(step, 1.0)
    expected = np.maximum(1 - np.abs(centres[:, None] - np.arange(old)) / width, 0)
    expected /= np.maximum(expected.sum(axis=1, keepdims=True), 1e-12)
    found = geometry._weights(centres, old, width)
    np.testing.assert_array_equal(found.toarray(), expected.astype(np.float32))


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_an_image_of_very_different_spacings_is_resized_in_memory_of_its_own_order(mode):
    image, mask = np.ones((24, 20, 1), np.float32), np.ones((24, 20), np.uint8)
    for ratio in (1e6, 1e30):
        tracemalloc.start()
        resized = geometry.fit(image, mask, np.eye(4), (1.0, ratio), (16, 16), mode)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
        assert resized.image.shape == (16, 16, 1) and np.isfinite(resized.image).all()
        assert mode == "pad" or np.allclose(resized.image, 1, atol=1e-6)


def test_a_long_image_is_resized_in_memory_of_its_own_order():
    image = np.zeros((1_000_000, 2, 1), np.float32)
    tracemalloc.start()
    try:
        geometry.fit(image, None, None, None, (64, 64), "stretch")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * image.nbytes  # a dense matrix of weights would be 64 times as large
