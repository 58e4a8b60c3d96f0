import numpy as np
import pytest

from motfm_jax.data.augment import Augment, count_numbers, layout


def blob(shape):
    """A bright off-centre box and its mask, background -1."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(extent // 4, extent // 2) for extent in shape)] = 1
    return np.where(mask == 1, 1.0, -1.0).astype(np.float32)[..., None], mask


def change(augment, image, mask, seed):
    rng = np.random.default_rng(seed)
    return augment(image, mask, rng, 1, np.ones(image.ndim - 1))[:2]


@pytest.fixture(params=[(24, 32), (12, 16, 20)], ids=["2d", "3d"])
def example(request):
    return blob(request.param)


FULL = Augment(flip=True, affine=0.2, gamma=0.5)


def test_the_generator_decides_everything(example):
    first, again, other = (change(FULL, *example, seed) for seed in (3, 3, 4))
    for one, two in zip(first, again):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


def test_types_shapes_labels_and_range_stay_and_the_input_is_untouched(example):
    image, mask = example
    before = image.copy(), mask.copy()
    for seed in range(5):
        new_image, new_mask = change(FULL, image, mask, seed)
        assert new_image.shape == image.shape and new_image.dtype == np.float32
        assert new_mask.shape == mask.shape and new_mask.dtype == np.uint8
        assert set(np.unique(new_mask)) == {0, 1}
        assert new_image.min() >= -1 and new_image.max() <= 1 + 1e-6
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_image_and_mask_move_together(example):
    image, mask = example
    moved = 0
    for seed in range(8):
        new_image, new_mask = change(Augment(flip=True, affine=0.2), image, mask, seed)
        inside = new_image[..., 0] > 0  # linear interpolation halves at the mask's nearest border
        assert (inside != (new_mask == 1)).mean() < 0.01
        moved += (new_mask != mask).any()
    assert moved == 8


def test_flip_mirrors_half_of_the_examples_along_its_axis(example):
    image, mask = example
    flipped = 0
    for seed in range(40):
        new_image, new_mask = change(Augment(flip=True), image, mask, seed)
        if np.array_equal(new_image, image):
            continue
        np.testing.assert_array_equal(new_image, np.flip(image, 1))
        np.testing.assert_array_equal(new_mask, np.flip(mask, 1))
        flipped += 1
    assert 10 <= flipped <= 30


def test_affine_stays_small_and_keeps_the_centre_when_it_does_not_shift():
    """Rotation and scale about the centre: a centred disk stays a disk of nearly its size."""
    rows, columns = np.indices((41, 41)) - 20
    disk = (rows**2 + columns**2 <= 100).astype(np.uint8)
    image = disk.astype(np.float32)[..., None]
    for seed in range(10):
        _, mask = change(Augment(affine=0.1), image, disk, seed)
        centre = np.argwhere(mask).mean(0) - 20
        assert np.abs(centre).max() <= 0.1 * 41 / 4 * np.exp(0.1) * 1.2 + 0.5
        assert np.exp(-0.2) * 0.95 <= mask.sum() / disk.sum() <= np.exp(0.2) * 1.05


def test_rotation_keeps_lengths_in_millimetres():
    """In the index space of voxels of 1 x 4 mm the drawn matrix is not a rotation; in mm it is."""
    spacing = np.array([1.0, 4.0])
    matrix, *_ = Augment(affine=0.3)._draw_affine((8, 8), spacing, np.random.default_rng(0))
    in_mm = matrix * spacing[:, None] / spacing[None, :]
    product = in_mm @ in_mm.T
    np.testing.assert_allclose(product, product[0, 0] * np.eye(2), atol=1e-12)
    assert abs(in_mm[0, 1]) > 1e-3


def test_gamma_keeps_the_ends_and_the_order_and_leaves_a_constant_image():
    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    for seed in range(5):
        new, _ = change(Augment(gamma=0.4), image, None, seed)
        np.testing.assert_allclose((new.min(), new.max()), (-1, 1), atol=1e-6)
        assert (np.diff(new.ravel()) > 0).all() and not np.allclose(new, image)
        exponent = np.log((new[4, 4, 0] + 1) / 2) / np.log((image[4, 4, 0] + 1) / 2)
        assert abs(np.log(exponent)) <= 0.4
    flat = np.full((4, 4, 1), 0.5, np.float32)
    np.testing.assert_array_equal(change(Augment(gamma=0.4), flat, None, 0)[0], flat)


def test_the_numbers_of_a_change_say_what_was_done(example):
    image, mask = example
    dims = mask.ndim
    seen = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        _, moved, numbers = FULL(image, mask, rng, 1, np.ones(dims))
        assert numbers.shape == (count_numbers(dims),) and numbers.dtype == np.float32
        assert np.abs(numbers).max() <= 1
        flipped, log_scale, shifts = numbers[0], numbers[-2 - dims], numbers[-1 - dims : -1]
        if flipped:
            moved = np.flip(moved, 1)
        # Output indices are scaled to input ones: a box shrinks as the scale grows.
        if np.abs(shifts).max() < 0.5:
            shrink = np.log(mask.sum() / moved.sum()) / dims
            seen.append((log_scale * 0.2, shrink))
    expected, found = np.transpose(seen)
    assert len(seen) > 3 and np.abs(expected - found).mean() < 0.06
    unchanged = Augment(told=True)(image, mask, rng, 1, np.ones(dims)).numbers
    assert not unchanged.any()


def test_all_off_changes_nothing(example):
    image, mask = change(Augment(), *example, 0)
    np.testing.assert_array_equal(image, example[0])
    np.testing.assert_array_equal(mask, example[1])
    assert change(Augment(affine=0.1), example[0], None, 0)[1] is None


@pytest.mark.parametrize(
    "dims, x_of_affine, axis",
    [
        (3, None, 0),
        (2, None, 1),
        (3, [2, 0, 0, 0], 0),
        (3, [0, 0, -2, 0], 2),
        (2, [0, 2, 0, 0], 1),
        (2, [0, 0, 2, 0], -1),  # a sagittal slice
    ],
)
def test_left_and_right_are_those_of_the_examples_own_affine(dims, x_of_affine, axis):
    meta = {} if x_of_affine is None else {"affine": [x_of_affine, *np.eye(4)[1:].tolist()]}
    assert layout(meta, dims)["left_right"] == axis


def test_an_example_without_left_and_right_is_not_flipped(example):
    image, mask = example
    for seed in range(8):
        rng = np.random.default_rng(seed)
        same = Augment(flip=True)(image, mask, rng, -1, np.ones(mask.ndim))[0]
        np.testing.assert_array_equal(same, image)
