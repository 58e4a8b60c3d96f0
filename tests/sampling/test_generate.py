"""Images from a toy network: noise, batches, devices, counts, interruption."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Condition, Network
from motfm_jax.methods import diffusion
from motfm_jax.methods.diffusion import DDIM
from motfm_jax.methods.ode import Solver
from motfm_jax.sampling import generate
from motfm_jax.sampling.conditions import Conditions

SHAPE = (4, 6, 1)
EULER = Solver("euler", 4)
PARAMS = {"scale": np.float32(0.7)}


def toy_network():
    """A velocity that mixes the image's pixels, the mask, the class and the time."""

    def encode(params, condition):
        total = 0.0
        if condition.mask is not None:
            total = total + condition.mask
        if condition.label is not None:
            total = total + (condition.label @ jnp.arange(3.0))[:, None, None, None]
        return total

    def apply(params, x, t, context, dropout_key):
        mixed = jnp.tanh(jnp.roll(x, 1, axis=1) + context)
        return params["scale"] * mixed + t[:, None, None, None]

    return Network(encode, apply)


def to_condition(mask, label):
    return Condition(
        None if mask is None else mask[..., None].astype(jnp.float32),
        None if label is None else jax.nn.one_hot(label, 3),
    )


def make_sampler(solver=EULER, **rest):
    return generate.make_sampler(
        toy_network(), to_condition, lambda image: 10 * image + 100, solver, **rest
    )


def make_conditions(num):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (num, 4, 6)).astype(np.uint8)
    return Conditions(num, masks, (np.arange(num) % 3).astype(np.int32))


def make_images(num, batch, solver=EULER, sampler=None, **rest):
    return generate.generate(
        sampler or make_sampler(solver),
        PARAMS,
        make_conditions(num),
        shape=SHAPE,
        solver=solver,
        batch=batch,
        **rest,
    )


def test_start_noise_depends_on_seed_and_index_alone_bit_for_bit():
    together = generate.start_noise(5, np.arange(6), SHAPE)
    for rows in ([4], [3, 4, 5], [4, 4, 0]):
        part = generate.start_noise(5, np.array(rows), SHAPE)
        assert part.tobytes() == together[rows].tobytes()
    assert np.unique(together[:, 0, 0, 0]).size == 6
    assert (generate.start_noise(6, np.arange(6), SHAPE) != together).all(axis=(1, 2, 3)).all()
    many = generate.start_noise(0, np.arange(200), SHAPE)
    assert abs(many.mean()) < 0.03 and abs(many.std() - 1) < 0.03


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 16])
def test_images_do_not_depend_on_the_batch_size(batch):
    expected = make_images(7, 7)
    got = make_images(7, batch)
    assert got.images.shape == (7, *SHAPE) and got.images.dtype == np.float32
    # 1e-4 of the range in the network's units, which `invert` stretches tenfold.
    np.testing.assert_allclose(got.images, expected.images, atol=10 * 1e-4)
    np.testing.assert_array_equal(got.steps, 4)


def test_images_are_the_solve_of_their_own_noise_and_condition_in_original_units():
    num, conditions = 3, make_conditions(3)
    x = generate.start_noise(11, np.arange(num), SHAPE)
    context = conditions.masks[..., None] + np.float32(conditions.labels[:, None, None, None])
    for step in range(4):
        x = x + 0.25 * (0.7 * np.tanh(np.roll(x, 1, axis=1) + context) + step / 4)
    got = make_images(num, 2, seed=11)
    np.testing.assert_allclose(got.images, 10 * x + 100, rtol=1e-5)


def test_four_devices_start_from_the_same_bits_and_end_within_rounding(tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import jax, numpy as np
import test_generate as t
assert jax.local_device_count() == 4
np.savez(sys.argv[1], noise=t.generate.start_noise(3, np.arange(6), t.SHAPE),
         images=t.make_images(6, 4, seed=3).images)
"""
    flags = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    subprocess.run([sys.executable, "-c", script, tmp_path / "four.npz"], env=flags, check=True)
    with np.load(tmp_path / "four.npz") as four:
        assert four["noise"].tobytes() == generate.start_noise(3, np.arange(6), SHAPE).tobytes()
        alone = make_images(6, 3, seed=3).images
        np.testing.assert_allclose(four["images"], alone, atol=10 * 1e-4)


@pytest.mark.parametrize("batch", [2, 7])
def test_given_noise_is_what_the_images_start_from_row_by_row(batch):
    noise = generate.start_noise(11, np.arange(7), SHAPE)
    given = make_images(7, batch, noise=noise, seed=3)
    assert given.images.tobytes() == make_images(7, batch, seed=11).images.tobytes()
    turned = make_images(7, batch, noise=noise[::-1])
    assert (turned.images != given.images).any(axis=(1, 2, 3))[[0, 1, 2, 4, 5, 6]].all()
    sampler = make_sampler(trajectory=True)
    way = generate.generate_trajectory(
        sampler, PARAMS, make_conditions(7), shape=SHAPE, solver=EULER, seed=3, noise=noise, num=3
    )
    np.testing.assert_allclose(way[0], 10 * noise[:3] + 100, rtol=1e-6)


def test_masks_of_floats_reach_the_network_as_they_are():
    given = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    seen = []

    def to_condition(mask, label):
        seen.append((mask.dtype, mask.shape[1:]))
        return Condition(mask)

    sampler = generate.make_sampler(toy_network(), to_condition, lambda image: image, EULER)
    options = dict(shape=SHAPE, solver=EULER, seed=11, batch=2)
    got = generate.generate(sampler, PARAMS, Conditions(3, given), **options)
    assert set(seen) == {(np.dtype(np.float32), SHAPE)}
    x = generate.start_noise(11, np.arange(3), SHAPE)
    for step in range(4):
        x = x + 0.25 * (0.7 * np.tanh(np.roll(x, 1, axis=1) + given) + step / 4)
    np.testing.assert_allclose(got.images, x, rtol=1e-4, atol=1e-5)


class Interrupted(Exception):
    pass


def interrupting(after):
    def progress(done, total):
        if done >= after:
            raise Interrupted

    return progress


def test_an_interrupted_call_goes_on_without_solving_a_batch_twice(tmp_path):
    solved, sampler = [], make_sampler()

    def counting(params, rows):
        solved.append(len(rows.x0))
        return sampler(params, rows)

    with pytest.raises(Interrupted):
        make_images(7, 2, sampler=counting, folder=tmp_path, progress=interrupting(4))
    assert len(solved) == 2 and len(list(tmp_path.iterdir())) == 2
    whole = make_images(7, 2, sampler=counting, folder=tmp_path)
    assert len(solved) == 4
    np.testing.assert_array_equal(whole.images, make_images(7, 2, sampler=sampler).images)
    assert len(whole.steps) == 7
    make_images(7, 2, sampler=counting, folder=tmp_path)
    assert len(solved) == 4, "nothing is left to solve"


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_batch_is_solved_again(tmp_path, capfd, content):
    whole = make_images(7, 2, folder=tmp_path)
    path = sorted(tmp_path.iterdir())[1]
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    again = make_images(7, 2, folder=tmp_path)
    np.testing.assert_array_equal(again.images, whole.images)
    assert f"WARNING: {path}: made again" in capfd.readouterr().err


def test_seconds_leave_out_the_first_solve_and_a_single_batch_is_timed_again(monkeypatch):
    clock, solved, sampler = [0.0], [], make_sampler()
    monkeypatch.setattr(generate.time, "perf_counter", lambda: clock[0])

    def slow_first(params, rows):
        solved.append(1)
        clock[0] += 100.0 if len(solved) == 1 else 6.0
        return sampler(params, rows)

    assert make_images(5, 2, sampler=slow_first).seconds_per_image == 3.0
    assert len(solved) == 3
    assert np.isnan(make_images(2, 2, sampler=slow_first).seconds_per_image)
    assert len(solved) == 4, "nobody asked for a time"
    solved.clear()
    assert make_images(2, 2, sampler=slow_first, timed=True).seconds_per_image == 3.0
    assert len(solved) == 2


def test_the_trajectory_runs_from_the_noise_to_the_image():
    sampler = make_sampler(trajectory=True)
    states = generate.generate_trajectory(
        sampler, PARAMS, make_conditions(5), shape=SHAPE, solver=EULER, seed=2, num=3
    )
    assert states.shape == (5, 3, *SHAPE)
    noise = generate.start_noise(2, np.arange(3), SHAPE)
    np.testing.assert_allclose(states[0], 10 * noise + 100, rtol=1e-6)
    np.testing.assert_allclose(states[-1], make_images(5, 5, seed=2).images[:3], atol=1e-3)


def test_steps_and_calls_come_with_the_images():
    heun = make_images(3, 2, Solver("heun", 3))
    assert heun.steps.tolist() == [3, 3, 3] and heun.calls.tolist() == [6, 6, 6]
    adaptive = make_images(3, 2, Solver("adaptive"))
    assert (adaptive.steps > 0).all() and (adaptive.calls >= 1 + 6 * adaptive.steps).all()


@pytest.mark.parametrize("num, dims, batch", [(1, 2, 1), (7, 2, 4), (100, 2, 16), (9, 3, 2)])
def test_the_default_batch_makes_two_solves_where_it_can(num, dims, batch):
    assert generate.default_batch(num, dims) == batch * jax.local_device_count()


def test_images_that_are_not_finite_are_no_result():
    broken = Network(lambda params, condition: None, lambda params, x, *_: x * jnp.nan)
    sampler = generate.make_sampler(broken, to_condition, lambda image: image, EULER)
    with pytest.raises(ValueError, match="image 0 is not finite: are the weights finite"):
        make_images(4, 4, sampler=sampler)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("adaptive", 10), "--steps=10 with --solver=adaptive"),
        (("euler", 10, 1e-3), "only adaptive takes tolerances"),
        (("eular", None), "use one of euler"),
        (("euler", 0), "at least 1 step"),
        (("adaptive", None, -1.0), "must be above 0"),
    ],
)
def test_solvers_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate.make_solver(*arguments)


def test_what_is_not_said_of_a_solver_has_a_default():
    assert generate.make_solver("heun", None) == Solver("heun", 10)
    assert generate.make_solver("adaptive", None, None, 1e-4) == Solver("adaptive", atol=1e-4)


def test_a_batch_must_suit_the_devices():
    with pytest.raises(ValueError, match="--batch=-1: a multiple of the"):
        make_images(2, -1)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_fresh_noise_of_a_diffusion_belongs_to_the_image_not_to_the_batch(batch):
    ancestral = DDIM(4, eta=1.0)
    whole = make_images(7, 7, ancestral, seed=3)
    assert whole.calls.tolist() == whole.steps.tolist() == [4] * 7
    images = make_images(7, batch, ancestral, seed=3).images
    np.testing.assert_allclose(images, whole.images, atol=10 * 1e-5)
    without = make_images(7, 7, DDIM(4), seed=3).images
    assert np.abs(without - whole.images).max(axis=(1, 2, 3)).min() > 0.1


def test_a_diffusion_is_sampled_by_ddim_with_the_condition_of_each_image():
    ddim = DDIM(3, spacing="trailing", schedule="cosine")
    conditions, noise = make_conditions(4), generate.start_noise(5, np.arange(4), SHAPE)
    expected = diffusion.sample(
        toy_network(), PARAMS, noise, to_condition(conditions.masks, conditions.labels), ddim
    ).x
    made = make_images(4, 2, ddim, seed=5)
    np.testing.assert_allclose(made.images, 10 * expected + 100, atol=10 * 1e-5)


def test_only_fresh_noise_needs_keys():
    rows = np.arange(3)
    assert generate.fresh_keys(0, rows, EULER) is None
    assert generate.fresh_keys(0, rows, DDIM(4)) is None
    keys = generate.fresh_keys(0, rows, DDIM(4, eta=0.5))
    np.testing.assert_array_equal(keys[1:], generate.fresh_keys(0, rows[1:], DDIM(4, eta=0.5)))
    assert len(np.unique(keys, axis=0)) == 3
