"""SPADE: its normalisation in a closed form, its shapes, its spectral norms, what reads what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Condition
from motfm_jax.nn import spade
from motfm_jax.nn.functional import functional
from motfm_jax.nn.layers import Compute
from motfm_jax.nn.spectral import SpectralConv, refresh, settle

SIZES = dict(
    image_channels=1,
    mask_channels=3,
    num_classes=0,
    channels=(4, 6),
    blocks=(1, 1),
    hidden=5,
    width=4,
    discriminators=2,
)


@functools.cache
def networks(dims=2, **changes):
    built, init = spade.spade_networks(spade.SpadeSettings(dims, **{**SIZES, **changes}))
    return built, init(jax.random.key(0))


def inputs(dims=2, side=8, batch=2):
    generator = np.random.default_rng(0)
    space = (batch, *(side,) * dims)
    mask = np.eye(3, dtype=np.float32)[generator.integers(0, 3, space)]
    return generator.standard_normal((*space, 1)).astype(np.float32), mask


def generate(built, params, x0, mask, label=None):
    encoded = built.generator.encode(params, Condition(mask, label))
    return built.generator.apply(params, x0, np.zeros(len(x0), np.float32), encoded, None)


def test_instance_norm_gives_every_channel_of_every_image_mean_0_and_variance_1():
    x = np.random.default_rng(0).normal(3, 5, (2, 6, 7, 4)).astype(np.float32)
    normed = np.asarray(spade.instance_norm(x))
    np.testing.assert_allclose(normed.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normed.var((1, 2)), 1, atol=1e-4)


def test_normalisation_is_the_instance_norm_scaled_and_shifted_where_the_mask_says():
    settings = spade.SpadeSettings(2, **SIZES)
    module, init = functional(lambda draws: spade.Spade(4, settings, draws))
    params = {name: jnp.zeros_like(leaf) for name, leaf in init(jax.random.key(0)).items()}
    # The shared convolution hands mask channel 1 on as its channel 0; of it the scale is 2, the
    # offset 3, for every feature.
    params["shared/kernel"] = params["shared/kernel"].at[1, 1, 1, 0].set(1.0)
    modulation = np.repeat([2.0, 3.0], 4)
    params["modulation/kernel"] = params["modulation/kernel"].at[1, 1, 0].set(modulation)
    x0, mask = inputs()
    x = np.tile(x0, 4)
    there = mask[..., 1:2]
    wanted = spade.instance_norm(x) * (1 + 2 * there) + 3 * there
    np.testing.assert_allclose(module(params)(x, mask), wanted, rtol=1e-5, atol=1e-5)


def test_space_to_depth_keeps_every_number_once_and_blocks_together():
    x = np.arange(2 * 4 * 6).reshape(2, 4, 6, 1).astype(np.float32)
    deep = np.asarray(spade.space_to_depth(x, 2))
    assert deep.shape == (2, 2, 3, 4)
    assert sorted(deep.ravel()) == sorted(x.ravel())
    np.testing.assert_array_equal(deep[1, 1, 2], x[1, 2:4, 4:6, 0].ravel())


@pytest.mark.parametrize("dims", [2, 3])
def test_images_are_of_the_size_of_the_noise_and_verdicts_halve(dims):
    built, init = spade.spade_networks(spade.SpadeSettings(dims, **SIZES))
    params = jax.eval_shape(init, jax.random.key(0))
    x0, mask = inputs(dims)
    image = jax.eval_shape(lambda params: generate(built, params, x0, mask), params)
    assert image.shape == x0.shape
    verdicts = jax.eval_shape(built.discriminate, params, image, mask)
    assert len(verdicts) == 2 and [len(layers) for layers in verdicts] == [5, 5]
    assert verdicts[0][-1].shape[-1] == 1
    assert verdicts[0][0].shape[1] > verdicts[1][0].shape[1]


@pytest.mark.nightly
def test_an_image_depends_on_its_own_noise_mask_and_label_alone():
    built, params = networks(num_classes=2)
    x0, mask = inputs()
    label = np.eye(2, dtype=np.float32)
    made = generate(built, params, x0, mask, label)
    assert np.abs(made).max() <= 1
    np.testing.assert_allclose(
        generate(built, params, x0[:1], mask[:1], label[:1]), made[:1], rtol=1e-5, atol=1e-6
    )
    for other in (
        generate(built, params, -x0, mask, label),
        generate(built, params, x0, mask[::-1], label),
        generate(built, params, x0, mask, label[::-1]),
    ):
        assert np.abs(np.asarray(other) - np.asarray(made)).max() > 1e-3


@pytest.mark.parametrize("kernel, stride", [(3, 1), (4, 2)])
def test_a_spectral_convolution_divides_its_kernel_by_the_largest_singular_value(kernel, stride):
    module, init = functional(
        lambda draws: SpectralConv(3, 6, Compute(2), draws, kernel=kernel, stride=stride)
    )
    params = init(jax.random.key(1))
    params = jax.lax.fori_loop(0, 200, lambda _, params: refresh(params), params)
    weights = np.asarray(params["conv/kernel"])
    largest = np.linalg.svd(weights.reshape(-1, 6), compute_uv=False)[0]
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    plain = module({**params, "conv/kernel": weights / largest})
    np.testing.assert_allclose(plain(x), module(params)(x), rtol=1e-4, atol=1e-5)
    scaled = module({**params, "conv/kernel": 7 * weights})
    np.testing.assert_allclose(scaled(x), module(params)(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        jax.lax.conv_general_dilated(
            x,
            weights / largest,
            (stride, stride),
            [(kernel // 2, kernel // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        module(params)(x),
        rtol=1e-4,
        atol=1e-5,
    )


def test_freshly_drawn_networks_start_near_spectral_norm_one():
    _, params = networks()
    names = [name for name in params if name.endswith("/singular")]
    assert any(name.startswith("generator/") for name in names)
    assert any(name.startswith("discriminator/") for name in names)
    for name in names:
        matrix = np.asarray(params[name.replace("singular", "conv/kernel")])
        matrix = matrix.reshape(-1, matrix.shape[-1])
        estimate = np.linalg.norm(matrix @ np.asarray(params[name]))
        largest = np.linalg.svd(matrix, compute_uv=False)[0]
        assert 0.8 * largest < estimate <= 1.0001 * largest


def test_refreshing_changes_the_vectors_alone():
    _, params = networks()
    better = refresh(params)
    assert better.keys() == params.keys()
    for name in params:
        same = np.array_equal(better[name], params[name])
        assert same or name.endswith("/singular")
    settled = settle(params)
    name = next(name for name in params if name.endswith("/singular"))
    np.testing.assert_allclose(np.linalg.norm(settled[name]), 1, rtol=1e-5)
