"""The adversarial loss against the two losses it is the sum of, and whose gradient goes where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Adversaries, Batch, Condition, Network, normal_per_example
from motfm_jax.methods import adversarial
from motfm_jax.methods.adversarial import Weights

# A generator that scales noise and adds the mask, and two discriminators of two layers each.
GENERATOR = Network(
    encode=lambda params, condition: condition.mask,
    apply=lambda params, x0, t, mask, key: params["generator/a"] * x0 + mask,
)


def discriminate(params, image, mask):
    return [[scale * image, scale * params["discriminator/b"] * (image + mask)] for scale in (1, 2)]


NETWORKS = Adversaries(GENERATOR, discriminate)
PARAMS = {"generator/a": jnp.float32(0.3), "discriminator/b": jnp.float32(0.7)}


def make_batch():
    generator = np.random.default_rng(0)
    image = generator.uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    condition = Condition(mask=generator.uniform(0, 1, image.shape).astype(np.float32))
    batch = Batch(image, None, None, np.ones(3, bool), np.arange(3))
    return batch, condition, jax.random.split(jax.random.key(0), 3)


def relu(x):
    return np.maximum(x, 0)


def expected(a, b, weight):
    """The generator's and the discriminators' loss, each by its own formula."""
    batch, condition, keys = make_batch()
    x0, mask = np.asarray(normal_per_example(keys, (4, 4, 1))), condition.mask
    made, mean = a * x0 + mask, lambda x: x.mean((1, 2, 3))
    generator = discriminators = 0
    for scale in (1, 2):
        fake, real = scale * b * (made + mask), scale * b * (batch.image + mask)
        generator += -mean(fake) + weight * mean(np.abs(scale * (made - batch.image)))
        discriminators += mean(relu(1 - real)) + mean(relu(1 + fake))
    return generator / 2, discriminators / 2


def test_the_loss_is_hinge_and_feature_matching():
    batch, condition, keys = make_batch()
    value = adversarial.loss(NETWORKS, PARAMS, batch, condition, keys)
    assert value.shape == (3,)
    np.testing.assert_allclose(value, sum(expected(0.3, 0.7, 10.0)), rtol=1e-5)


@pytest.mark.parametrize("name, side", [("generator/a", 0), ("discriminator/b", 1)])
def test_each_side_learns_from_its_own_loss_alone(name, side):
    batch, condition, keys = make_batch()
    gradient = jax.grad(
        lambda params: adversarial.loss(NETWORKS, params, batch, condition, keys).sum()
    )(PARAMS)[name]
    step = 1e-4
    moves = [
        expected(*(value + sign * step * (at == side) for at, value in enumerate((0.3, 0.7))), 10.0)
        for sign in (1, -1)
    ]
    slope = (moves[0][side].sum() - moves[1][side].sum()) / (2 * step)
    np.testing.assert_allclose(gradient, slope, rtol=2e-2)


PERCEIVING = NETWORKS._replace(
    perceive=lambda images: [images[:, :, :: 2**number] * (number + 1) for number in range(5)]
)


def test_the_perceptual_loss_is_added_with_its_layers_weights():
    batch, condition, keys = make_batch()
    x0 = np.asarray(normal_per_example(keys, (4, 4, 1)))
    away = np.abs(0.3 * x0 + condition.mask - batch.image)
    layers = [
        weight * (number + 1) * away[:, :, :: 2**number].mean((1, 2, 3))
        for number, weight in enumerate((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1))
    ]
    value = adversarial.loss(PERCEIVING, PARAMS, batch, condition, keys, Weights(10.0, 3.0))
    np.testing.assert_allclose(value, sum(expected(0.3, 0.7, 10.0)) + 3 * sum(layers), rtol=1e-5)


def test_the_perceptual_loss_teaches_the_generator_alone():
    batch, condition, keys = make_batch()
    gradient = jax.grad(
        lambda params, weight: adversarial.loss(
            PERCEIVING, params, batch, condition, keys, Weights(10.0, weight)
        ).sum()
    )
    without, with_it = gradient(PARAMS, 0.0), gradient(PARAMS, 3.0)
    assert without["discriminator/b"] == with_it["discriminator/b"]
    assert abs(without["generator/a"] - with_it["generator/a"]) > 0.1


def test_sampling_is_one_call():
    batch, condition, _ = make_batch()
    x0 = np.asarray(batch.image)
    solution = adversarial.sample(GENERATOR, PARAMS, x0, condition, trajectory=True)
    np.testing.assert_allclose(solution.x, 0.3 * x0 + condition.mask, rtol=1e-6)
    assert solution.calls.tolist() == solution.steps.tolist() == [1, 1, 1]
    assert solution.trajectory.shape == (2, *x0.shape)
    assert adversarial.OneCall().num_calls == 1


def test_the_optimizer_is_adam_without_momentum_at_two_rates():
    optimizer = adversarial.optimizer(lambda step: 0.01, discriminator_rate=4.0)
    params = {"generator/w": jnp.zeros(()), "discriminator/w": jnp.zeros(())}
    state = optimizer.init(params)
    for gradient in (0.5, -0.2):
        updates, state = optimizer.update(dict.fromkeys(params, jnp.float32(gradient)), state)
    # b1 = 0: the last gradient over the root of the second moment, freed of its start.
    spread = np.sqrt((0.9 * 0.1 * 0.5**2 + 0.1 * 0.2**2) / (1 - 0.9**2))
    np.testing.assert_allclose(updates["generator/w"], 0.01 * 0.2 / spread, rtol=1e-5)
    np.testing.assert_allclose(updates["discriminator/w"], 0.04 * 0.2 / spread, rtol=1e-5)
