"""Networks that are told what augmentation did to their examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw, make_settings, parameter_shapes, random_params

from motfm_jax.core import Condition
from motfm_jax.nn.control import velocity_network

X, T, MASK = draw(2, 8, 8, 1), np.array([0.2, 0.9], np.float32), draw(2, 8, 8, 3, seed=1)
NUMBERS = draw(2, 6, seed=2)
ONE_LEVEL = dict(channels=(8,), attention=(False,))


def velocity(net, params, augment=None, s=None):
    def solve(params, augment):
        context = net.encode(params, Condition(MASK, augment=augment))
        return net.apply(params, X, T, context, None, s)

    return np.asarray(jax.jit(solve)(params, augment))


@pytest.fixture(scope="module")
def nets():
    return [velocity_network(make_settings(told=told, **ONE_LEVEL), 3, 4) for told in (0, 6)]


def test_the_label_is_one_more_layer_of_each_encoder_that_starts_at_zero(nets):
    (_, plain), (told, init) = nets
    more = parameter_shapes(init).keys() - parameter_shapes(plain).keys()
    assert more == {f"{part}/encoder/augment_embed/kernel" for part in ("unet", "controlnet")}
    params = init(jax.random.key(0))
    assert not any(np.any(params[name]) for name in more)
    params = random_params(init) | {name: params[name] for name in more}
    np.testing.assert_array_equal(velocity(told, params, NUMBERS), velocity(told, params))


def test_nothing_done_is_as_if_the_network_were_never_told(nets):
    (plain, _), (told, init) = nets
    params = random_params(init)
    others = {name: leaf for name, leaf in params.items() if "augment_embed" not in name}
    expected = velocity(plain, others)
    np.testing.assert_array_equal(velocity(told, params), expected)
    np.testing.assert_array_equal(velocity(told, params, 0 * NUMBERS), expected)


@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_what_was_done_reaches_both_encoders(nets, part):
    _, (told, init) = nets
    params = random_params(init)
    other = {"unet": "controlnet", "controlnet": "unet"}[part]
    name = f"{other}/encoder/augment_embed/kernel"
    params[name] = jnp.zeros_like(params[name])
    change = velocity(told, params, NUMBERS) - velocity(told, params)
    assert (np.abs(change).max(axis=(1, 2, 3)) > 1e-3).all()


def test_a_flow_map_is_told_at_both_of_its_times(nets):
    _, (told, init) = nets
    params = random_params(init)
    np.testing.assert_allclose(
        velocity(told, params, NUMBERS, T), velocity(told, params, NUMBERS), atol=1e-6
    )
