"""Images of a toy network: noise, batches, devices, counts, interruption."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import constant_network, make_bundle, mixing_network, to_condition

from motfm_jax.methods import diffusion
from motfm_jax.methods.diffusion import DDIM
from motfm_jax.methods.ode import Solver
from motfm_jax.sampling import generate
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.generate import Request

SHAPE = (4, 6, 1)
EULER, ANCESTRAL = Solver("euler", 4), DDIM(4, eta=1.0)
FLOW, DIFFUSION = make_bundle(), make_bundle(method="ddpm")


def make_conditions(num):
    masks = np.random.default_rng(0).integers(0, 3, (num, 4, 6)).astype(np.uint8)
    return Conditions(num, masks, (np.arange(num) % 3).astype(np.int32))


def make_images(num, batch, solver=EULER, model=FLOW, *, seed=0, start=None, **options):
    request = Request(solver, seed, start, batch)
    return generate.generate(model, make_conditions(num), request, **options)


def counting(model):
    """The model, and a list that gets an entry at each solve."""
    solved, sampler = [], generate.make_sampler(model, EULER)

    def count(params, rows):
        solved.append(len(rows.x0))
        return sampler(params, rows)

    model.samplers[(EULER, False, False)] = count
    return model, solved


def test_start_noise_depends_on_seed_and_index_alone_bit_for_bit():
    together = generate.start_noise(5, np.arange(6), SHAPE)
    for rows in ([4], [3, 4, 5], [4, 4, 0]):
        part = generate.start_noise(5, np.array(rows), SHAPE)
        assert part.tobytes() == together[rows].tobytes()
    assert np.unique(together[:, 0, 0, 0]).size == 6
    assert (generate.start_noise(6, np.arange(6), SHAPE) != together).all(axis=(1, 2, 3)).all()
    many = generate.start_noise(0, np.arange(200), SHAPE)
    assert abs(many.mean()) < 0.03 and abs(many.std() - 1) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("solver, model", [(EULER, FLOW), (ANCESTRAL, DIFFUSION)])
def test_images_do_not_depend_on_the_batch_size(solver, model):
    expected = make_images(7, 7, solver, model, seed=3)
    assert expected.images.shape == (7, *SHAPE) and expected.images.dtype == np.float32
    assert expected.calls.tolist() == expected.steps.tolist() == [4] * 7
    for batch in (1, 3):
        result = make_images(7, batch, solver, model, seed=3)
        # 1e-4 of the range in the network's units, which become tenfold.
        np.testing.assert_allclose(result.images, expected.images, atol=10 * 1e-4)
        np.testing.assert_array_equal(result.steps, 4)


def euler_by_hand(x, context):
    for step in range(4):
        x = x + 0.25 * (0.7 * np.tanh(np.roll(x, 1, axis=1) + context) + step / 4)
    return x


def test_images_are_the_solve_of_their_own_noise_and_condition_in_original_units():
    conditions = make_conditions(3)
    context = conditions.masks[..., None] + np.float32(conditions.labels[:, None, None, None])
    x = euler_by_hand(generate.start_noise(11, np.arange(3), SHAPE), context)
    np.testing.assert_allclose(make_images(3, 2, seed=11).images, 10 * x + 100, rtol=1e-5)


def test_masks_of_floats_reach_the_network_as_they_are():
    masks = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    request = Request(EULER, 11, batch=2, raw=True)
    result = generate.generate(FLOW, Conditions(3, masks), request)
    x = euler_by_hand(generate.start_noise(11, np.arange(3), SHAPE), masks)
    np.testing.assert_allclose(result.images, x, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_four_devices_start_from_the_same_bits_and_end_within_rounding(tmp_path):
    folder = Path(__file__).parent
    script = f"""
import sys
sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}]
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


def test_given_arrays_are_what_the_images_start_from_row_by_row():
    start = generate.start_noise(11, np.arange(7), SHAPE)
    result = make_images(7, 2, start=start, seed=3).images
    assert result.tobytes() == make_images(7, 2, seed=11).images.tobytes()
    turned = make_images(7, 2, start=start[::-1]).images
    assert (turned != result).any(axis=(1, 2, 3))[[0, 1, 2, 4, 5, 6]].all()


def test_the_trajectory_runs_from_the_noise_to_the_image():
    states = generate.generate_trajectory(FLOW, make_conditions(5), Request(EULER, 2), 3)
    assert states.shape == (5, 3, *SHAPE)
    noise = generate.start_noise(2, np.arange(3), SHAPE)
    np.testing.assert_allclose(states[0], 10 * noise + 100, rtol=1e-6)
    np.testing.assert_allclose(states[-1], make_images(5, 5, seed=2).images[:3], atol=1e-3)


def test_a_sampler_is_compiled_once_for_a_model_and_its_arguments():
    first = generate.make_sampler(FLOW, EULER)
    assert generate.make_sampler(FLOW, Solver("euler", 4)) is first
    assert generate.make_sampler(FLOW, EULER, raw=True) is not first
    assert generate.make_sampler(make_bundle(), EULER) is not first


class Interrupted(Exception):
    pass


def test_an_interrupted_call_continues_without_solving_a_batch_twice(tmp_path):
    model, solved = counting(make_bundle())

    def interrupt(what, done, total):
        assert (what, total) == ("images", 7)
        if done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        make_images(7, 2, model=model, folder=tmp_path, progress=interrupt)
    assert len(solved) == 2 and len(list(tmp_path.iterdir())) == 2
    whole = make_images(7, 2, model=model, folder=tmp_path)
    assert len(solved) == 4
    np.testing.assert_array_equal(whole.images, make_images(7, 2).images)
    assert len(whole.steps) == 7
    solved.clear()
    make_images(7, 2, model=model, folder=tmp_path)
    assert not solved, "nothing is left to solve"


def test_a_damaged_batch_is_solved_again(tmp_path, caplog):
    whole = make_images(7, 2, folder=tmp_path)
    paths = sorted(tmp_path.iterdir())
    paths[1].write_bytes(paths[1].read_bytes()[:-30])
    paths[2].write_bytes(b"")
    again = make_images(7, 2, folder=tmp_path)
    np.testing.assert_array_equal(again.images, whole.images)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(":")[0] for message in messages] == [str(path) for path in paths[1:3]]


def test_seconds_leave_out_the_first_solve_and_a_single_batch_is_timed_again(monkeypatch):
    clock, (model, solved) = [0.0], counting(make_bundle())
    monkeypatch.setattr(generate.time, "perf_counter", lambda: clock[0])
    sampler = model.samplers[(EULER, False, False)]

    def slow_first(params, rows):
        clock[0] += 6.0 if solved else 100.0
        return sampler(params, rows)

    model.samplers[(EULER, False, False)] = slow_first
    assert make_images(5, 2, model=model).seconds_per_image == 3.0
    assert len(solved) == 3
    assert np.isnan(make_images(2, 2, model=model).seconds_per_image)
    assert len(solved) == 4, "nobody asked for a time"
    solved.clear()
    assert make_images(2, 2, model=model, timed=True).seconds_per_image == 3.0
    assert len(solved) == 2


def test_steps_and_calls_come_with_the_images():
    heun = make_images(3, 2, Solver("heun", 3))
    assert heun.steps.tolist() == [3, 3, 3] and heun.calls.tolist() == [6, 6, 6]
    adaptive = make_images(3, 2, Solver("adaptive"))
    assert (adaptive.steps > 0).all() and (adaptive.calls >= 1 + 6 * adaptive.steps).all()


@pytest.mark.parametrize("num, dims, batch", [(1, 2, 1), (7, 2, 4), (100, 2, 16), (9, 3, 2)])
def test_the_default_batch_makes_two_solves_where_it_can(num, dims, batch):
    assert generate.default_batch(num, dims) == batch * jax.local_device_count()


def test_images_that_are_not_finite_are_no_result():
    with pytest.raises(ValueError, match="image 0 is not finite: are the weights finite"):
        make_images(4, 4, model=make_bundle(constant_network(np.nan)))


def test_a_batch_must_suit_the_devices():
    with pytest.raises(ValueError, match="--batch=-1: a multiple of the"):
        make_images(2, -1)


def test_a_diffusion_is_sampled_by_ddim_with_the_condition_of_each_image():
    ddim = DDIM(3, spacing="trailing", schedule="cosine")
    conditions, noise = make_conditions(4), generate.start_noise(5, np.arange(4), SHAPE)
    condition = to_condition(conditions.masks, conditions.labels)
    expected = diffusion.sample(mixing_network(), DIFFUSION.params, noise, condition, ddim).x
    result = make_images(4, 2, ddim, DIFFUSION, seed=5)
    np.testing.assert_allclose(result.images, 10 * expected + 100, atol=10 * 1e-5)


def test_only_fresh_noise_needs_keys():
    rows = np.arange(3)
    assert generate.fresh_keys(0, rows, EULER) is None
    assert generate.fresh_keys(0, rows, DDIM(4)) is None
    keys = generate.fresh_keys(0, rows, ANCESTRAL)
    np.testing.assert_array_equal(keys[1:], generate.fresh_keys(0, rows[1:], ANCESTRAL))
    assert len(np.unique(keys, axis=0)) == 3
