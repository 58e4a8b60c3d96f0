"""Data whose exact noise is known, what is drawn, what is called, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Batch, Condition, Network, fold_keys, normal_per_example
from motfm_jax.methods import diffusion
from motfm_jax.methods.diffusion import DDIM

loss = jax.jit(diffusion.loss, static_argnums=0, static_argnames="schedule")
sample = jax.jit(diffusion.sample, static_argnums=(0, 4), static_argnames="trajectory")


def network_of(noise, encode=lambda params, condition: condition.mask):
    """The network that estimates noise(x, level [B, 1, 1, 1], what was encoded)."""

    def apply(params, x, t, context, dropout_key):
        return noise(x, (t * 999.0)[:, None, None, None], context)

    return Network(encode, apply)


def mixture(schedule, level):
    """Shares of image and noise in a state, shaped as the level."""
    share = diffusion.alpha_bar(schedule)
    tables = jnp.asarray(np.sqrt([share, 1 - share]), jnp.float32)
    return tables[:, level.round().astype(int)]


@functools.cache
def gaussian(schedule, mean, deviation):
    """The best estimate for images of independent normal values."""

    def estimate(x, level, context):
        signal, noise = mixture(schedule, level)
        return noise * (x - signal * mean) / (signal**2 * deviation**2 + noise**2)

    return network_of(estimate)


@functools.cache
def knows_the_image(schedule, error=0.0):
    """The exact noise in a state of the image given as the mask, off by `error`."""

    def estimate(x, level, image):
        signal, noise = mixture(schedule, level)
        return (x - signal * image) / noise + error

    return network_of(estimate)


ZERO = network_of(lambda x, level, context: jnp.zeros_like(x))
CURVED = network_of(lambda x, level, context: jnp.sin(x) * (0.9 + level / 10000))


def make_batch(count=6, size=(4, 4)):
    image = np.random.default_rng(0).uniform(-1, 1, (count, *size, 1)).astype(np.float32)
    index = jnp.arange(count, dtype=jnp.int32)
    return Batch(jnp.array(image), None, None, jnp.ones(count, bool), index)


def make_keys(count=6, seed=3):
    return fold_keys(jax.random.key(seed), jnp.arange(count))


def make_noise(count=6, size=(4, 4), seed=7):
    return normal_per_example(make_keys(count, seed), (*size, 1))


def test_the_network_embeds_every_level_as_itself():
    embedded = jax.jit(lambda level: jnp.asarray(diffusion.TIMES)[level] * 999.0)(jnp.arange(1000))
    np.testing.assert_array_equal(embedded, np.arange(1000))
    seen = []

    def apply(params, x, t, context, dropout_key):
        jax.debug.callback(lambda t: seen.append(np.float32(999) * t), t)
        return x

    network = Network(lambda params, condition: None, apply)
    diffusion.sample(network, {}, jnp.zeros((2, 1, 1, 1)), Condition(), DDIM(4))
    jax.effects_barrier()
    assert [found.tolist() for found in seen] == [[n, n] for n in (750, 500, 250, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_exact_noise_has_no_loss_and_a_known_error_its_square(schedule):
    batch = make_batch()
    for error in (0.0, 0.3):
        losses = loss(
            knows_the_image(schedule, error),
            {},
            batch,
            Condition(mask=batch.image),
            make_keys(),
            None,
            schedule=schedule,
        )
        assert losses.shape == (6,)
        np.testing.assert_allclose(losses, error**2, atol=1e-4)


def test_the_best_estimate_for_normal_images_loses_what_the_state_leaves_open():
    count, mean, deviation = 3000, 0.2, 0.3
    image = mean + deviation * make_noise(count, (2, 2), seed=11)
    batch = make_batch(count, (2, 2))._replace(image=image)
    losses = loss(
        gaussian("linear", mean, deviation), {}, batch, Condition(), make_keys(count), None
    )
    share = diffusion.alpha_bar("linear")
    expected = np.mean(share * deviation**2 / (share * deviation**2 + 1 - share))
    assert 0.05 < expected < 0.5
    assert float(losses.mean()) == pytest.approx(expected, abs=0.015)


def test_a_zero_estimate_loses_the_mean_square_of_the_noise():
    batch, keys = make_batch(), make_keys()
    noise = normal_per_example(jax.vmap(jax.random.split)(keys)[:, 0], batch.image.shape[1:])
    expected = np.mean(np.square(noise), axis=(1, 2, 3))
    np.testing.assert_allclose(loss(ZERO, {}, batch, Condition(), keys, None), expected, rtol=1e-5)


def test_an_examples_loss_does_not_depend_on_the_batch_it_is_in():
    batch, keys = make_batch(), make_keys()
    together = loss(CURVED, {}, batch, Condition(), keys, None)
    assert len(set(np.asarray(together).tolist())) == 6, "every example draws its own noise"
    part = Batch(*(None if leaf is None else leaf[2:3] for leaf in batch))
    alone = loss(CURVED, {}, part, Condition(), keys[2:3], None)
    np.testing.assert_allclose(alone, together[2:3], rtol=1e-6)


def test_training_levels_are_uniform():
    """The network's estimate is made such that the loss is the level it was told."""

    def apply(params, x, t, noise, dropout_key):
        return noise + jnp.sqrt(t * 999.0)[:, None, None, None]

    count = 4000
    network = Network(lambda params, condition: condition.mask, apply)
    keys, batch = make_keys(count), make_batch(count, (1, 1))
    noise = normal_per_example(jax.vmap(jax.random.split)(keys)[:, 0], (1, 1, 1))
    found = np.asarray(loss(network, {}, batch, Condition(mask=noise), keys, None))
    levels = np.round(found)
    np.testing.assert_allclose(found, levels, atol=5e-3)
    assert levels.min() >= 0 and levels.max() <= 999
    assert levels.min() < 5 and levels.max() > 994
    np.testing.assert_allclose(np.quantile(levels, [0.25, 0.5, 0.75]), [250, 500, 750], atol=30)


@pytest.mark.parametrize(
    "ddim",
    [
        DDIM(1),
        DDIM(7, 0.5, "linear", "trailing"),
        DDIM(50, 1.0, "cosine"),
        DDIM(7, 0.0, "cosine", "trailing"),
    ],
)
def test_sampling_with_the_exact_noise_lands_on_the_image(ddim):
    image = make_batch().image
    solution = sample(
        knows_the_image(ddim.schedule), {}, make_noise(), Condition(mask=image), ddim, make_keys()
    )
    # The cosine's last level holds 1 / 20,000 of the image.
    np.testing.assert_allclose(solution.x, image, atol=5e-3 if ddim.schedule == "cosine" else 1e-4)
    np.testing.assert_array_equal(solution.steps, ddim.steps)
    np.testing.assert_array_equal(solution.calls, ddim.steps)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_many_steps_map_noise_to_normal_images_value_by_value(schedule):
    x0, mean, deviation = make_noise(2, (8, 8)), 0.2, 0.3
    found = sample(
        gaussian(schedule, mean, deviation),
        {},
        x0,
        Condition(),
        DDIM(1000, 0.0, schedule, clip=False),
    )
    np.testing.assert_allclose(found.x, mean + deviation * x0, atol=0.01)


def test_ancestral_sampling_reaches_the_distribution_and_forgets_the_start():
    x0, mean, deviation = make_noise(4, (64, 64)), 0.2, 0.3
    found = sample(
        gaussian("linear", mean, deviation),
        {},
        x0,
        Condition(),
        DDIM(1000, 1.0, clip=False),
        make_keys(4),
    ).x
    assert float(found.mean()) == pytest.approx(mean, abs=0.01)
    assert float(found.std()) == pytest.approx(deviation, rel=0.03)
    assert abs(np.corrcoef(np.ravel(x0), np.ravel(found))[0, 1]) < 0.05


def test_fresh_noise_is_an_images_own():
    ddim, x0, keys = DDIM(5, 0.7), make_noise(), make_keys()
    together = sample(CURVED, {}, x0, Condition(), ddim, keys).x
    alone = sample(CURVED, {}, x0[2:3], Condition(), ddim, keys[2:3]).x
    np.testing.assert_allclose(alone, together[2:3], atol=1e-6)
    same_start = jnp.broadcast_to(x0[:1], x0.shape)
    images = sample(CURVED, {}, same_start, Condition(), ddim, keys).x
    assert float(np.abs(images[1:] - images[:1]).max(axis=(1, 2, 3)).min()) > 0.05
    with pytest.raises(ValueError, match=r"eta=0\.7: fresh noise needs keys"):
        diffusion.sample(CURVED, {}, x0, Condition(), ddim)


def test_fresh_noise_differs_from_step_to_step():
    """With the estimate 0 and no clipping, what a step adds can be told from the states."""
    ddim, x0 = DDIM(6, 1.0, clip=False), make_noise(1, (32, 32))
    states = sample(ZERO, {}, x0, Condition(), ddim, make_keys(1), trajectory=True).trajectory
    steps = diffusion.ddim_steps(ddim)
    fresh = []
    for n in range(5):  # the last step adds none
        kept = steps.image_weight[n] / steps.signal[n]
        fresh.append(np.ravel((states[n + 1] - kept * states[n]) / steps.sigma[n]))
    together = np.corrcoef([np.ravel(x0), *fresh])
    np.testing.assert_allclose(together, np.eye(6), atol=0.12)
    np.testing.assert_allclose([draw.std() for draw in fresh], 1, atol=0.1)


def test_no_noise_is_drawn_without_eta():
    x0 = make_noise()
    with_keys, without = (
        sample(CURVED, {}, x0, Condition(), DDIM(5), keys).x for keys in (make_keys(), None)
    )
    np.testing.assert_array_equal(with_keys, without)


def test_clipping_keeps_images_in_range():
    x0 = 3 * make_noise()
    for eta in (0.0, 1.0):
        clipped, free = (
            sample(ZERO, {}, x0, Condition(), DDIM(10, eta, clip=clip), make_keys()).x
            for clip in (True, False)
        )
        assert float(jnp.abs(clipped).max()) == 1 and float(jnp.abs(free).max()) > 1.5


def test_a_single_leading_step_hands_back_the_noise_and_a_trailing_one_does_not():
    x0 = make_noise()
    leading, trailing = (
        sample(CURVED, {}, x0, Condition(), DDIM(1, spacing=spacing, clip=False)).x
        for spacing in ("leading", "trailing")
    )
    np.testing.assert_allclose(leading, x0, atol=0.05)
    assert float(jnp.abs(trailing - x0).max()) > 1


def test_the_condition_is_encoded_once_and_the_network_called_once_a_step():
    counts = {"encode": 0, "apply": 0}

    def count(name):
        jax.debug.callback(lambda: counts.__setitem__(name, counts[name] + 1))

    def encode(params, condition):
        count("encode")
        return condition.label

    def noise(x, level, label):
        count("apply")
        return 0.5 * x * label.sum(-1)[:, None, None, None]

    solution = jax.jit(
        lambda x0: diffusion.sample(
            network_of(noise, encode), {}, x0, Condition(label=jnp.eye(2)), DDIM(7), None
        )
    )(jnp.ones((2, 4, 4, 1)))
    jax.effects_barrier()
    assert counts == {"encode": 1, "apply": 7}
    assert solution.calls.tolist() == solution.steps.tolist() == [7, 7]
    assert solution.trajectory is None


def test_dropout_is_on_in_the_loss_and_off_in_sampling():
    seen = []

    def apply(params, x, t, context, dropout_key):
        seen.append(dropout_key)
        return x

    network, batch = Network(lambda params, condition: None, apply), make_batch()
    key = jax.random.key(9)
    diffusion.loss(network, {}, batch, Condition(), make_keys(), key)
    assert seen == [key]
    diffusion.sample(network, {}, batch.image, Condition(), DDIM(2))
    assert seen[1:] and all(key is None for key in seen[1:])


@pytest.mark.parametrize("spacing, end", [("leading", -1), ("trailing", 0)])
def test_every_step_visits_another_level_and_one_end_of_the_schedule(spacing, end):
    for steps in (1, 3, 300, 600, 999, 1000):
        levels = diffusion.ddim_steps(DDIM(steps, spacing=spacing)).level.astype(int)
        assert len(levels) == steps and (np.diff(levels) < 0).all()
        assert levels[end] == (0 if spacing == "leading" else 999)
        assert levels.min() >= 0 and levels.max() <= 999
        assert np.ptp(np.diff(levels, append=-1)) <= 1 or spacing == "leading"


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(steps=0), "steps=0: DDIM visits 1 to 1000 levels"),
        (dict(steps=1001), "steps=1001: DDIM visits"),
        (dict(eta=1.5), r"eta=1\.5: give 0"),
        (dict(schedule="sigmoid"), "'sigmoid': use 'linear' or 'cosine'"),
        (dict(spacing="linspace"), "'linspace': use 'leading' or 'trailing'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        diffusion.check_ddim(DDIM(**changed))
    diffusion.check_ddim(DDIM())
