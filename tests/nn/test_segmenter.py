"""UNet-ResX: shapes at every size, its skips, independence of the batch, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import draw, parameter_shapes, random_params

from motfm_jax.nn.resnet import ResNetSettings, resnet
from motfm_jax.nn.segmenter import unet_resnet

TINY = dict(num_classes=3, width=4, norm_groups=2)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("small_images, size", [(True, (16, 24)), (False, (64, 32))])
def test_logits_have_the_images_size(depth, small_images, size):
    segmenter, init = unet_resnet(ResNetSettings(depth, small_images=small_images, **TINY))
    params = parameter_shapes(init)
    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in params.items()}
    image = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    logits = jax.eval_shape(segmenter.apply, abstract, image)
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32
    features = jax.eval_shape(segmenter.features, abstract, image)
    assert features.shape == (2, 4 * 8 * (1 if depth == 18 else 4))


def test_the_encoder_is_the_classifiers():
    settings = ResNetSettings(18, small_images=True, **TINY)
    (_, init), (_, init_classifier) = unet_resnet(settings), resnet(settings)
    ours, theirs = parameter_shapes(init), parameter_shapes(init_classifier)
    trunk = {name: shape for name, shape in theirs.items() if name.startswith("trunk/")}
    assert trunk == {name: shape for name, shape in ours.items() if name.startswith("trunk/")}


@pytest.mark.nightly
def test_every_parameter_and_every_row_alone_matters():
    segmenter, init = unet_resnet(ResNetSettings(18, small_images=True, **TINY))
    params, x = random_params(init), draw(3, 16, 16, 1)
    logits = jax.jit(segmenter.apply)(params, x)
    np.testing.assert_allclose(
        jax.jit(segmenter.apply)(params, x[1:2]), logits[1:2], rtol=1e-3, atol=1e-4
    )
    gradients = jax.jit(
        jax.grad(lambda params: jnp.sum(segmenter.apply(params, x) * draw(3, 16, 16, 3, seed=1)))
    )(params)
    assert not [name for name, leaf in gradients.items() if not np.abs(leaf).max() > 0]


@pytest.mark.nightly
def test_it_learns_to_find_the_bright_half():
    segmenter, init = unet_resnet(
        ResNetSettings(18, num_classes=2, width=4, norm_groups=2, small_images=True)
    )
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 16, 16), np.int32)
    for row, edge in enumerate(rng.integers(4, 12, 8)):
        masks[row, :, edge:] = 1
    images = (masks + 0.1 * rng.standard_normal(masks.shape))[..., None].astype(np.float32)
    optimizer = optax.adam(1e-2)
    params = init(jax.random.key(0))

    @jax.jit
    def update(params, state):
        loss, gradients = jax.value_and_grad(
            lambda params: optax.softmax_cross_entropy_with_integer_labels(
                segmenter.apply(params, images), masks
            ).mean()
        )(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(30):
        params, state, loss = update(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 < 0.5 < losses[0]
    assert (np.argmax(segmenter.apply(params, images), -1) == masks).mean() > 0.97
