"""Checkpoints: saving, keeping, restoring, and what happens when one is damaged."""

import asyncio
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from motfm_jax.io import checkpoints as module
from motfm_jax.io.checkpoints import Checkpoints, Damaged, Manager, restore_weights
from motfm_jax.io.parameters import check_parameters
from motfm_jax.io.run_folder import SAVED

ROOT = Path(__file__).parents[2]
CONFIG, FACTS = {"cond": "none", "train": {"lr": 1e-4}}, {"size": [16, 16], "channels": 1}


class State(NamedTuple):
    step: Any
    params: dict[str, Any]
    ema: dict[str, Any] | None
    opt_state: Any


def make_state(optimizer="adam", ema=0.9, width=3, seed=0):
    key = jax.random.key(seed)
    params = {
        "unet/conv_in/kernel": jax.random.normal(key, (2, width)),
        "unet/conv_in/bias": jnp.zeros(width),
    }
    average = jax.tree.map(lambda leaf: leaf + 1, params) if ema else None
    return State(jnp.int32(7), params, average, getattr(optax, optimizer)(1e-3).init(params))


def open_checkpoints(tmp_path, **settings):
    return Checkpoints(tmp_path / "checkpoints", CONFIG, FACTS, **settings)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


@pytest.mark.parametrize("optimizer, ema", [("adam", 0.9), ("sgd", 0.0)])
def test_a_state_comes_back_bit_for_bit(tmp_path, optimizer, ema):
    state = make_state(optimizer, ema)
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(7, state)
    checkpoints.close()
    checkpoints = open_checkpoints(tmp_path)
    template = jax.eval_shape(lambda: make_state(optimizer, ema, seed=1))
    assert_equal(checkpoints.restore(template), state)
    checkpoints.close()


@pytest.mark.parametrize("clip", [0, 1])
def test_a_state_comes_back_for_an_optimiser_that_clips_or_clips_no_more(tmp_path, clip):
    def state(clip):
        chain = optax.chain(*[optax.clip_by_global_norm(1.0)] * clip, optax.adam(lambda step: 0.1))
        made = make_state()
        return made._replace(opt_state=chain.init(made.params))

    checkpoints = open_checkpoints(tmp_path)
    saved = state(clip)._replace(
        opt_state=jax.tree.map(lambda leaf: leaf + 3, state(clip).opt_state)
    )
    checkpoints.save(7, saved)
    checkpoints.wait()
    restored = checkpoints.restore(jax.eval_shape(lambda: state(1 - clip)))
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state(1 - clip))
    for left, right in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_run_is_marked_once_something_is_saved_whole(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.wait()
    assert not (tmp_path / SAVED).exists()
    checkpoints.save(7, make_state())
    checkpoints.wait()
    assert (tmp_path / SAVED).exists()
    checkpoints.close()


def test_a_save_is_not_disturbed_by_donating_the_state_at_once(tmp_path):
    state = make_state(width=100_000)
    expected = np.array(state.params["unet/conv_in/kernel"])
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(7, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    overwrite(state)
    checkpoints.close()
    restored = restore_weights(tmp_path).params["unet/conv_in/kernel"]
    np.testing.assert_array_equal(restored, expected + 1)


@pytest.mark.parametrize("ema, offset", [(0.9, 1), (0.0, 0)])
def test_weights_are_the_moving_average_if_there_is_one(tmp_path, ema, offset):
    state = make_state(ema=ema)
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(7, state)
    checkpoints.close()
    weights = restore_weights(tmp_path)
    assert (weights.step, weights.config, weights.facts) == (7, CONFIG, FACTS)
    assert set(weights.params) == set(state.params)
    for name, leaf in state.params.items():
        assert isinstance(weights.params[name], np.ndarray)
        np.testing.assert_array_equal(weights.params[name], leaf + offset)


def test_last_best_and_every_nth_are_kept(tmp_path):
    checkpoints = open_checkpoints(tmp_path, keep_every=40)
    losses = {10: 0.5, 20: 0.2, 30: 0.4, 40: 0.3, 50: None, 60: float("nan"), 70: 0.6}
    for step, loss in losses.items():
        checkpoints.save(step, make_state()._replace(step=jnp.int32(step)), loss)
        checkpoints.wait()
    assert checkpoints.steps == [20, 40, 60, 70]  # 60 in case 70 turns out damaged
    assert checkpoints.best_loss == pytest.approx(0.2)
    checkpoints.close()
    steps = {which: restore_weights(tmp_path, which).step for which in ("last", "best", 40, "20")}
    assert steps == {"last": 70, "best": 20, 40: 40, "20": 20}

    checkpoints = open_checkpoints(tmp_path, keep_every=40)
    assert checkpoints.best_loss == pytest.approx(0.2)
    checkpoints.save(80, make_state(), 0.1)
    checkpoints.wait()
    assert checkpoints.steps == [40, 70, 80]
    checkpoints.close()


def test_without_validation_the_best_is_the_last(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, make_state())
    checkpoints.wait()
    assert checkpoints.steps == [1, 2] and checkpoints.best_loss == float("inf")
    checkpoints.close()
    assert restore_weights(tmp_path, "best").step == 2


def assert_continues_from_step_1(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.steps == [1]
    checkpoints.save(2, make_state())
    checkpoints.close()
    assert restore_weights(tmp_path).step == 2


def test_an_interrupted_save_leaves_the_previous_one(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(1, make_state())
    checkpoints.close()
    for name in ("2.orbax-checkpoint-tmp", "2.orbax-checkpoint-tmp-123"):
        (tmp_path / "checkpoints" / name / "state").mkdir(parents=True)
    assert restore_weights(tmp_path).step == 1
    assert_continues_from_step_1(tmp_path)


SAVE_FOREVER = """
import sys, itertools, numpy as np
from motfm_jax.io.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], {}, {})
for step in itertools.count((checkpoints.steps or [0])[-1] + 1):
    weights = {f"w/{n}": np.full((200, 200), step, np.float32) for n in range(30)}
    checkpoints.save(step, {"step": np.int32(step), "params": weights})
    print(step, flush=True)
"""


@pytest.mark.nightly
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    last = 0
    for delay_s in (0.0, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path / "checkpoints")],
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        for _ in range(2):  # the second save starts once the first is on disk
            assert process.stdout.readline()
        time.sleep(delay_s)
        process.kill()
        process.wait()
        weights = restore_weights(tmp_path)
        assert weights.step > last
        last = weights.step
        assert len(weights.params) == 30
        assert all(np.all(leaf == last) for leaf in weights.params.values())


def test_another_architecture_is_refused_by_name(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(1, make_state())
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"unet/conv_in/kernel is \(2, 3\), needs \(2, 5\)"):
        checkpoints.restore(make_state(width=5))
    with pytest.raises(ValueError, match="another optimiser or moving average"):
        checkpoints.restore(make_state(optimizer="sgd"))
    with pytest.raises(ValueError, match="another optimiser or moving average"):
        checkpoints.restore(make_state(ema=0.0))
    checkpoints.close()


def test_differences_are_listed_ten_at_most():
    found = {f"old/{i:02}": np.zeros(1) for i in range(7)} | {"both": np.zeros(2)}
    wanted = {f"new/{i:02}": np.zeros(1) for i in range(7)} | {"both": np.zeros(3)}
    with pytest.raises(ValueError) as error:
        check_parameters(found, wanted, "run")
    message = str(error.value)
    assert "new/00 missing" in message and "old/02 extra" in message and "and 5 more" in message
    assert "15 differences from the 8" in message and "\n" not in message
    check_parameters(wanted, wanted, "run")


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(1, make_state())
    checkpoints.close()
    for which in ("first", 2):
        with pytest.raises(ValueError, match=f"no checkpoint .*{which}.*last, best or one of 1"):
            restore_weights(tmp_path, which)


def test_nothing_to_restore(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoints/"):
        restore_weights(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="no complete checkpoint"):
        restore_weights(tmp_path)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with checkpoints 1 (all zeros but the moving average) and 2, the best."""
    run = tmp_path_factory.mktemp("two")
    checkpoints = open_checkpoints(run)
    checkpoints.save(1, jax.tree.map(jnp.zeros_like, make_state(width=1000)), 0.5)
    checkpoints.wait()
    checkpoints.save(2, make_state(width=1000), 0.25)
    checkpoints.close()
    return run


@pytest.fixture
def run(two, tmp_path):
    return shutil.copytree(two, tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """A bit in the middle, of a long file one in every 256 bytes: parts of it may be unused."""
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2 % 256, len(content), 256):
        content[at] ^= 1
    path.write_bytes(content)


def lower_the_loss(path):
    path.write_text(path.read_text().replace("0.25", "0.15"))


def data_files(checkpoint):
    """The files with the arrays; only Orbax knows which hold which, and which are unused."""
    return [str(path.relative_to(checkpoint)) for path in (checkpoint / "state").rglob("d/*")]


DAMAGE = [
    (cut, data_files),
    (os.unlink, data_files),
    (cut, "sums/metadata"),
    (os.unlink, "config/metadata"),
    (flip, "facts/metadata"),
    (os.unlink, "state/_METADATA"),
    (cut, "metrics/metrics"),
    (lower_the_loss, "metrics/metrics"),
]


def damage(run, how, files):
    step = run / "checkpoints" / "2"
    for name in files(step) if callable(files) else [files]:
        how(step / name)


@pytest.mark.parametrize("how, files", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used_with_a_warning(run, caplog, how, files):
    damage(run, how, files)
    for which in ("last", "best"):
        caplog.clear()
        assert restore_weights(run, which).step == 1
        assert "checkpoints/2" in caplog.text
    with pytest.raises(Damaged, match="checkpoints/2: this checkpoint is damaged") as error:
        restore_weights(run, 2)
    assert "\n" not in str(error.value)


# The last may hit the optimiser, which sampling does not read.
@pytest.mark.parametrize("how, files", [DAMAGE[0], DAMAGE[4], (flip, data_files)])
def test_training_continues_from_before_the_damage(run, caplog, how, files):
    damage(run, how, files)
    checkpoints = open_checkpoints(run)
    state = checkpoints.restore(make_state(width=1000))
    assert not state.params["unet/conv_in/kernel"].any()
    assert "trying the one before" in caplog.text
    # The damaged one is not thrown away, and step 2 is written again.
    assert checkpoints.steps == [1] and (run / "checkpoints" / "damaged-2").is_dir()
    checkpoints.save(2, make_state(width=1000))
    checkpoints.close()
    caplog.clear()
    assert restore_weights(run).step == 2 and not caplog.records


def test_without_any_whole_checkpoint_nothing_is_touched(run):
    folder = run / "checkpoints"
    for step in ("1", "2"):
        for name in data_files(folder / step):
            (folder / step / name).unlink()
    for read in (
        lambda: restore_weights(run),
        lambda: open_checkpoints(run).restore(make_state(width=1000)),
    ):
        with pytest.raises(Damaged, match=r"all 2 checkpoints are damaged \(2, 1\)"):
            read()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_an_error_of_the_system_sets_no_checkpoint_aside(run, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ESTALE, "stale")

    checkpoints = open_checkpoints(run)
    with monkeypatch.context() as patch:
        patch.setattr(Manager, "restore", fail)
        with pytest.raises(OSError, match="stale"):
            checkpoints.restore(jax.eval_shape(lambda: make_state(width=1000)))
    assert checkpoints.steps == [1, 2]
    checkpoints.close()


def test_what_was_saved_is_on_the_disk_before_older_ones_may_go(tmp_path, monkeypatch):
    checkpoints, synced = open_checkpoints(tmp_path), []
    monkeypatch.setattr(module, "sync_tree", synced.append)
    monkeypatch.setattr(module, "sync", synced.append)
    for step in (1, 2):
        before, synced[:] = list(synced), []
        checkpoints.save(step, make_state())
    assert before == [] and synced == [tmp_path / "checkpoints" / "1", tmp_path / "checkpoints"]
    checkpoints.close()


def test_a_checkpoint_is_not_taken_for_one_of_another_step(run, caplog):
    shutil.copytree(run / "checkpoints" / "1", run / "checkpoints" / "3")
    assert restore_weights(run).step == 2
    assert "step changed since it was saved" in caplog.text


@pytest.mark.parametrize("sums", [None, {"arrays": {"params/a": "0"}, "config": "0"}])
def test_checkpoints_of_older_versions_are_read(run, sums):
    """They hold no digests, or one per array."""
    path = run / "checkpoints" / "2" / "sums"
    (path / "metadata").write_text(json.dumps(sums)) if sums else shutil.rmtree(path)
    assert restore_weights(run).step == 2
    checkpoints = open_checkpoints(run)
    assert int(checkpoints.restore(make_state(width=1000)).step) == 7
    checkpoints.close()


SAVE_UNDER_A_LIMIT = """
import resource, sys, numpy as np
from motfm_jax.io.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], {}, {})
rng = np.random.default_rng(0)
def save(step):
    weights = {"w": rng.standard_normal((400, 400)).astype(np.float32)}
    checkpoints.save(step, {"step": np.int32(step), "params": weights})
    checkpoints.wait()
save(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    save(2)
except ValueError as error:
    print("error:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_failed_write_is_not_logged_beside_the_error(tmp_path, caplog):
    open_checkpoints(tmp_path).close()
    loop = asyncio.new_event_loop()
    loop.create_future().set_exception(OSError("no space left"))  # nobody awaits it
    loop.close()
    gc.collect()
    assert not caplog.records


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(tmp_path):
    printed = subprocess.run(
        [sys.executable, "-c", SAVE_UNDER_A_LIMIT, str(tmp_path / "checkpoints")],
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
    ).stdout
    assert (
        "error: " in printed
        and "a checkpoint cannot be written" in printed
        and "--resume" in printed
    )
    assert restore_weights(tmp_path).step == 1
    assert_continues_from_step_1(tmp_path)
