"""ResNets: the published sizes, strides and blocks, how they start, and that they learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import draw, draws, parameter_shapes, random_params

from motfm_jax.nn.resnet import LAYOUTS, Block, ResNetSettings, Trunk, resnet

DEPTHS = sorted(LAYOUTS)
TINY = dict(num_classes=3, width=4, norm_groups=2, small_images=True)
KEY = jax.random.key(0)


class Zeros:
    """In place of Draws, for networks of any size whose values do not matter."""

    def params(self):
        return jnp.zeros


@functools.cache
def tiny(depth, **changed):
    """Functions and compiled logits of a narrow network."""
    classifier, init = resnet(ResNetSettings(depth, **{**TINY, **changed}))
    return classifier, init, jax.jit(classifier.apply)


@pytest.mark.parametrize("depth, total", [(18, 11_689_512), (50, 25_557_032)])
def test_parameters_number_as_published(depth, total):
    _, init = resnet(ResNetSettings(depth, num_classes=1000, image_channels=3))
    assert sum(int(np.prod(shape)) for shape in parameter_shapes(init).values()) == total


@pytest.mark.parametrize("small_images, sides", [(False, (16, 8, 4, 2)), (True, (64, 32, 16, 8))])
@pytest.mark.parametrize("depth, widening", [(18, 1), (50, 4)])
def test_stages_halve_the_image_and_double_the_channels(depth, widening, small_images, sides):
    settings = ResNetSettings(depth, num_classes=2, small_images=small_images)
    stages = jax.eval_shape(lambda x: Trunk(settings, Zeros())(x), jnp.zeros((2, 64, 32, 1)))
    assert [stage.shape for stage in stages] == [
        (2, side, side // 2, 64 * 2**number * widening) for number, side in enumerate(sides)
    ]


@pytest.mark.parametrize("depth, features_in, stride", [(18, 4, 2), (50, 16, 1)])
def test_a_block_is_its_formula(depth, features_in, stride):
    layout = LAYOUTS[depth][0]
    block = Block(features_in, 4, stride, layout, ResNetSettings(depth, **TINY), draws())
    features = 4 * layout[-1][1]
    block.norms[-1].scale = nnx.Param(jnp.asarray(1 + draw(features, seed=5)))
    x = jnp.asarray(draw(2, 6, 8, features_in))
    h = x
    strides = {18: (stride, 1), 50: (1, stride, 1)}[depth]
    for conv, norm, here in zip(block.convs, block.norms, strides, strict=True):
        h = jnp.maximum(h, 0) if norm is not block.norms[0] else h
        h = norm(plain_conv(h, conv.kernel[...], here))
    changes = stride > 1 or features != features_in
    assert changes == (block.shortcut is not None)
    skip = x
    if changes:
        skip = block.shortcut_norm(plain_conv(x, block.shortcut.kernel[...], stride))
    np.testing.assert_allclose(block(x), np.maximum(skip + h, 0), atol=2e-4)
    assert float(jnp.abs(h).mean()) > 0.1


def plain_conv(x, kernel, stride):
    """Padded by half the kernel on every side, position by position in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size = kernel.shape[0]
    around = size // 2
    padded = np.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    rows, columns = (range(0, extent, stride) for extent in x.shape[1:3])
    return np.stack(
        [
            np.stack(
                [
                    np.einsum("bijc,ijcf->bf", padded[:, i : i + size, j : j + size], kernel)
                    for j in columns
                ],
                1,
            )
            for i in rows
        ],
        1,
    ).astype(np.float32)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_block_starts_as_its_skip_connection(depth):
    layout = LAYOUTS[depth][0]
    features = 4 * layout[-1][1]
    block = Block(features, 4, 1, layout, ResNetSettings(depth, **TINY), draws())
    x = np.abs(draw(2, 4, 4, features))
    np.testing.assert_array_equal(block(x), x)


@pytest.mark.parametrize("small_images", [False, True])
def test_the_stem_is_a_convolution_and_for_large_images_a_pooling(small_images):
    trunk = Trunk(ResNetSettings(18, **{**TINY, "small_images": small_images}), draws())
    trunk.stages = nnx.List([nnx.List([lambda x: x])])
    x = draw(1, 12, 16, 1)
    kernel = trunk.stem.kernel[...]
    assert kernel.shape[0] == (3 if small_images else 7)
    h = plain_conv(x, kernel, 1 if small_images else 2)
    h = np.maximum(trunk.stem_norm(h), 0)
    if not small_images:
        padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h = np.stack(
            [
                np.stack(
                    [padded[:, i : i + 3, j : j + 3].max(axis=(1, 2)) for j in range(0, 8, 2)], 1
                )
                for i in range(0, 6, 2)
            ],
            1,
        )
    np.testing.assert_allclose(trunk(x)[0], h, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("depth", DEPTHS)
def test_logits_are_a_dense_layer_on_the_features(depth):
    classifier, init, logits = tiny(depth)
    params, x = random_params(init), draw(3, 16, 16, 1)
    features = jax.jit(classifier.features)(params, x)
    assert features.shape == (3, 8 * 4 * LAYOUTS[depth][0][-1][1])
    expected = features @ params["head/kernel"] + params["head/bias"][None]
    np.testing.assert_allclose(logits(params, x), expected, atol=1e-5)
    assert float(jnp.abs(expected - expected[:1]).max()) > 0.01


@pytest.mark.nightly
def test_an_images_logits_depend_on_that_image_alone():
    _, init, logits = tiny(18)
    params, x = random_params(init), draw(3, 16, 16, 1)
    changed = x.copy()
    changed[1] = np.flip(x[1], 0) + 1
    before, after = logits(params, x), logits(params, changed)
    np.testing.assert_allclose(after[[0, 2],], before[[0, 2],], atol=1e-5)
    assert float(jnp.abs(after[1] - before[1]).max()) > 1e-3


@pytest.mark.nightly
def test_every_parameter_has_an_influence():
    _, init, logits = tiny(18)
    params, x = random_params(init), draw(2, 16, 16, 1)
    gradients = jax.jit(jax.grad(lambda params: jnp.square(logits(params, x)).sum()))(params)
    assert not [name for name, value in gradients.items() if float(jnp.abs(value).max()) < 1e-6]


@pytest.mark.nightly
def test_bfloat16_stays_inside():
    _, init, logits = tiny(18, dtype=jnp.bfloat16)
    exact = tiny(18)[2]
    params, x = random_params(init), draw(2, 16, 16, 1)
    assert all(value.dtype == np.float32 for value in jax.eval_shape(init, KEY).values())
    found, expected = logits(params, x), exact(params, x)
    assert found.dtype == jnp.float32 and not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.1 * float(jnp.abs(expected).max()))


def test_convolutions_start_with_the_variance_of_their_outputs():
    params = tiny(18, width=16)[1](KEY)
    kernels = [
        value for name, value in params.items() if name.endswith("kernel") and "head" not in name
    ]
    assert len(kernels) == 1 + 16 + 3  # stem, two a block, shortcuts
    for kernel in kernels:
        bound = np.sqrt(6 / (kernel.shape[0] ** 2 * kernel.shape[-1]))
        assert float(jnp.abs(kernel).max()) <= bound * (1 + 1e-6)
        if kernel.size > 1000:
            assert float(kernel.std()) == pytest.approx(bound / np.sqrt(3), rel=0.05)
    first = np.concatenate([np.ravel(kernel)[:9] for kernel in kernels])
    assert len(np.unique(first)) == len(first), "every convolution has numbers of its own"
    other = tiny(18, width=16)[1](jax.random.key(1))
    assert float(jnp.abs(other["trunk/stem/kernel"] - params["trunk/stem/kernel"]).max()) > 0.01


@pytest.mark.nightly
def test_a_batch_of_sixteen_is_learned():
    """The class is the direction of stripes whose phase and contrast vary."""
    classifier, init, _ = tiny(18, width=8, num_classes=2)
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 2
    phase, contrast = rng.uniform(0, 6, (16, 1, 1)), rng.uniform(0.2, 1, (16, 1, 1))
    rows, columns = np.indices((16, 16))
    stripes = np.sin(np.where(labels[:, None, None], rows, columns) + phase) * contrast
    x = jnp.asarray(stripes[..., None], jnp.float32)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(
            classifier.apply(params, x), jnp.asarray(labels)
        ).mean()

    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(params):
        def update(state, _):
            params, opt_state = state
            value, gradients = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(gradients, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, _), losses = jax.lax.scan(update, (params, optimizer.init(params)), None, 25)
        return params, losses

    params, losses = train(init(KEY))
    assert float(losses[0]) == pytest.approx(np.log(2), abs=0.5)
    assert float(loss(params)) < 0.1


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(depth=34), "depth 34: use 18 or 50"),
        (dict(num_classes=1), "of 1 classes: a classifier needs 2"),
        (dict(width=48), "width 48 does not divide into 32 groups"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        ResNetSettings(**{"depth": 18, "num_classes": 3, **changed})
