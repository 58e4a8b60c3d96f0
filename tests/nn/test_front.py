"""The transforms around a network, and networks behind them."""

import jax
import numpy as np
import pytest
from networks import draw, make_settings, random_params

from motfm_jax.core import Condition
from motfm_jax.nn.control import velocity_network
from motfm_jax.nn.front import Front, analyse, synthesise, with_front

FRONTS = [Front(kind, levels) for kind in ("haar", "pixel_shuffle") for levels in (1, 2)]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 4, 8, 12, 2)])
def test_a_front_is_orthonormal_and_is_undone(front, shape):
    x, dims = draw(*shape), len(shape) - 2
    inside = analyse(x, front)
    side = 2**front.levels
    assert inside.shape == (
        shape[0],
        *(extent // side for extent in shape[1:-1]),
        front.bands(dims) * shape[-1],
    )
    np.testing.assert_allclose(synthesise(inside, front), x, rtol=1e-6, atol=1e-6)
    # Inner products with another image, not norms alone, are kept.
    other = draw(*shape, seed=1)
    kept = np.vdot(inside, analyse(other, front))
    np.testing.assert_allclose(kept, np.vdot(x, other), rtol=1e-4)


def test_haar_bands_are_sums_and_differences_of_neighbours():
    x = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)[None, :, :, None]
    average, rows, columns, both = np.ravel(analyse(x, Front("haar")))
    np.testing.assert_allclose(
        [average, rows, columns, both], np.array([11, -5, -3, 1]) / 2, rtol=1e-6
    )


def test_a_flat_image_is_in_the_first_channels_alone_however_many_levels():
    inside = analyse(np.full((1, 8, 8, 2), 3.0, np.float32), Front("haar", 2))
    np.testing.assert_allclose(inside[..., :2], 12, rtol=1e-6)
    np.testing.assert_allclose(inside[..., 2:], 0, atol=1e-6)


@pytest.mark.parametrize("front", FRONTS[::3])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_behind_a_front_gives_velocities_of_images_under_every_condition(front, dims):
    bands, side = front.bands(dims), 4 * 2**front.levels
    settings = make_settings(dims=dims, image_channels=bands, num_classes=3)
    inner, init = velocity_network(settings, 5 * bands, 6)
    network, params = with_front(inner, front), random_params(init)
    shape = (2, *(side,) * dims)
    mask = np.eye(5, dtype=np.float32)[np.random.default_rng(0).integers(0, 5, shape)]
    condition = Condition(mask=mask, label=np.eye(3, dtype=np.float32)[[0, 2]])
    x, t = draw(*shape, 1), np.array([0.2, 0.7], np.float32)

    @jax.jit
    def velocity(x, condition):
        return network.apply(params, x, t, network.encode(params, condition), None)

    made = velocity(x, condition)
    assert made.shape == x.shape
    changed = mask.copy()
    changed[0] = np.roll(changed[0], 1, axis=0)
    other = velocity(x, condition._replace(mask=changed))
    assert np.abs(other[0] - made[0]).max() > 1e-3
    np.testing.assert_allclose(other[1], made[1], atol=1e-5)
