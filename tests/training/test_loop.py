"""The loop: exact resumption, signals, bad losses, what is logged, saved and called when."""

import functools
import os
import signal
import time

import jax
import numpy as np
import pytest
from two_layers import batch_at, batches_from, init_params, loss_fn, make_training

from motfm_jax import parallel
from motfm_jax.io.checkpoints import Checkpoints, restore_weights
from motfm_jax.io.run_folder import open_run, read_metrics
from motfm_jax.training import loop
from motfm_jax.training.loop import NonFiniteError, Plan, Work, train
from motfm_jax.training.state import by_name, pack, restored
from motfm_jax.training.step import Metrics, make_eval_step

KEY = jax.random.key(5)
SETTINGS = dict(name="adam", lr=0.01, ema=0.95, accumulation=2, clip=1.0)
PLAN = Plan(10, batch_size=8, log_every=1, eval_every=4, save_every=4, sample_every=4)
compiled = functools.cache(lambda: make_training(**SETTINGS)[1])


def train_run(folder, num_steps, batches=batches_from, evaluate=None, sample=None, **settings):
    """Trains in a run directory, from its last checkpoint where it has one."""
    plan = PLAN._replace(num_steps=num_steps, **settings)
    work = Work(compiled(), lambda step: 0.01, evaluate, sample)
    with open_run(folder, SETTINGS, resume=True) as run:
        checkpoints = Checkpoints(run.checkpoints, SETTINGS, {}, keep_every=4, named=by_name)
        try:
            state, _ = make_training(**SETTINGS)
            if checkpoints.steps:
                saved = checkpoints.restore(jax.eval_shape(by_name, state))
                state = parallel.replicate(restored(saved, state))
            step = int(state.step)
            run.start(step)
            return train(state, batches(step), KEY, work, plan, run, checkpoints)
        finally:
            checkpoints.close()


def assert_identical(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def kill_at(kind, *steps):
    """Batches that send this process a signal before the batch of some steps."""

    def batches(start):
        for step, batch in enumerate(batches_from(start), start):
            if step in steps:
                os.kill(os.getpid(), kind)
            yield batch

    return batches


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train_run(folder, 10)


def losses(folder):
    return [(row["step"], row["loss"]) for row in read_metrics(folder) if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_by_a_signal_and_resumed_it_is_the_same_run(tmp_path, whole, kind, caplog, capfd):
    caplog.set_level("INFO")
    before = signal.getsignal(kind)
    if kind == signal.SIGHUP and before is signal.SIG_IGN:
        pytest.skip("started with SIGHUP ignored, as by nohup")
    outcome = train_run(tmp_path / "run", 10, kill_at(kind, 6))
    assert (outcome.step, outcome.stopped_by) == (7, kind)
    assert signal.getsignal(kind) is before
    assert f"stopped after step 7 by {kind.name}" in caplog.text
    assert "stopping: finishing the step" in capfd.readouterr().err
    assert restore_weights(tmp_path / "run").step == 7

    outcome = train_run(tmp_path / "run", 10)
    assert (outcome.step, outcome.stopped_by) == (10, None)
    folder, uninterrupted = whole
    assert_identical(outcome.state, uninterrupted.state)
    assert losses(tmp_path / "run") == losses(folder)
    assert len(losses(folder)) == 10


def test_killed_beyond_its_last_checkpoint_it_is_the_same_run(tmp_path, whole):
    class Killed(Exception):
        pass

    def batches(start):
        for step, batch in enumerate(batches_from(start), start):
            if step == 7:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        train_run(tmp_path / "run", 10, batches)
    assert losses(tmp_path / "run")[-1][0] > 4
    outcome = train_run(tmp_path / "run", 10)
    folder, uninterrupted = whole
    assert_identical(outcome.state, uninterrupted.state)
    assert losses(tmp_path / "run") == losses(folder)


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path, whole):
    train_run(tmp_path / "run", 6)
    again = train_run(tmp_path / "run", 6)
    assert (again.step, again.stopped_by) == (6, None)
    assert_identical(train_run(tmp_path / "run", 10).state, whole[1].state)


def test_after_a_signal_there_is_one_more_update_but_no_samples(tmp_path):
    called = []

    def evaluate(weights):
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    outcome = train_run(
        tmp_path / "run",
        10,
        evaluate=evaluate,
        sample=lambda step, weights: called.append(step),
        sample_every=2,
    )
    assert (outcome.step, outcome.stopped_by) == (5, signal.SIGTERM)
    assert called == [2]
    assert restore_weights(tmp_path / "run").step == 5


@pytest.fixture
def default_ctrl_c():
    """Python's own handler: a shell's background jobs are started with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_stops_at_once(tmp_path, default_ctrl_c):
    def batches(start):
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not default_ctrl_c:
            time.sleep(0.01)  # two signals at once would count as one
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)  # cut short by the second signal
        yield from batches_from(start)

    with pytest.raises(KeyboardInterrupt):
        train_run(tmp_path / "run", 10, batches)
    assert signal.getsignal(signal.SIGINT) is default_ctrl_c


@pytest.mark.parametrize("log_every", [1, 3, 50])
def test_a_bad_loss_stops_the_run_with_the_last_good_state_saved(tmp_path, whole, log_every):
    taken = []

    def batches(start):
        for step, batch in enumerate(batches_from(start), start):
            taken.append(step)
            if step == 6:
                batch.image[2] = np.inf
            yield batch

    message = r"step 7: loss nan.*saved as step 6.*train\.lr"
    with pytest.raises(NonFiniteError, match=message) as bad:
        train_run(tmp_path / "run", 200, batches, log_every=log_every)
    assert "\n" not in str(bad.value)
    assert taken[-1] <= 6 + min(log_every, loop.LAG)
    assert read_metrics(tmp_path / "run")[-1] == {"step": 7, "loss": None, "grad_norm": None}
    assert restore_weights(tmp_path / "run").step == 6
    # With the bad batch corrected the run is the same.
    assert_identical(train_run(tmp_path / "run", 10).state, whole[1].state)


def test_metrics_are_read_late_and_all_of_them(tmp_path, monkeypatch):
    started, lead = [], []

    class Unused:
        best_loss = 0.0

        def save(self, *arguments):
            lead.append("save")

        def wait(self):
            pass

        def log(self, step, values):
            lead.append((step, values["loss"]))

    def update(state, batch, key):
        started.append(len(started) + 1)
        return state, Metrics(np.float32(started[-1]), np.float32(1), np.bool_(True))

    def device_get(metrics):
        lead.append(started[-1] - int(metrics.loss))
        return metrics

    monkeypatch.setattr(loop.jax, "device_get", device_get)
    plan = PLAN._replace(num_steps=8, log_every=6, save_every=8)
    work = Work(update, lambda step: 0.0)
    train(make_training()[0], batches_from(0), KEY, work, plan, Unused(), Unused())
    # The first at once (it compiles); then two behind; at the log points, all that is left.
    assert lead == [0, 2, 2, 2, 1, 0, (6, 3.5), 1, 0, (8, 7.5), "save"]


def test_validation_uses_the_average_and_a_new_best_is_saved(tmp_path):
    evaluated = []

    def evaluate(weights):
        evaluated.append(jax.tree.map(np.array, weights).named())
        return [0.9, 0.5, 0.7, 0.6][len(evaluated) - 1]

    outcome = train_run(tmp_path / "run", 7, evaluate=evaluate, eval_every=2, save_every=3)
    assert_identical(evaluated[-1], outcome.state.ema.named())
    assert not np.allclose(evaluated[-1]["in/kernel"], outcome.state.params.named()["in/kernel"])
    rows = [row for row in read_metrics(tmp_path / "run") if "valid_loss" in row]
    measured = [(row["step"], row["valid_loss"]) for row in rows]
    assert measured == [(2, 0.9), (4, 0.5), (6, 0.7), (7, 0.6)]
    assert restore_weights(tmp_path / "run", "best").step == 4
    assert restore_weights(tmp_path / "run", "last").step == 7
    assert_identical(restore_weights(tmp_path / "run", "best").params, evaluated[1])


@pytest.mark.slow
def test_validation_loss_is_that_of_all_valid_examples():
    batches = [batch_at(50), batch_at(51, valid=3)]
    evaluate = parallel.evaluator(make_eval_step(loss_fn), lambda: batches, KEY)
    weights, every = parallel.replicate(pack(init_params())), []
    for batch in batches:
        keys = jax.vmap(lambda index: jax.random.fold_in(KEY, index))(batch.index)
        every.append(np.asarray(loss_fn(init_params(), batch, keys, None))[batch.valid])
    assert evaluate(weights) == pytest.approx(np.mean(np.concatenate(every)), rel=1e-5)
    assert evaluate(weights) == evaluate(weights)


def test_samples_come_at_their_multiples_and_at_the_end_with_the_average(tmp_path):
    calls = []

    def sample(step, weights):
        calls.append((step, jax.tree.map(np.array, weights)))

    outcome = train_run(tmp_path / "run", 7, sample=sample, sample_every=3)
    assert [step for step, _ in calls] == [3, 6, 7]
    assert_identical(calls[-1][1], outcome.state.ema)


def test_rows_hold_the_mean_since_the_last_row(tmp_path, whole, caplog):
    caplog.set_level("INFO")
    train_run(tmp_path / "run", 10, log_every=4)
    each = dict(losses(whole[0]))
    got = dict(losses(tmp_path / "run"))
    assert list(got) == [4, 8, 10]
    for step, first in ((4, 1), (8, 5), (10, 9)):
        assert got[step] == pytest.approx(np.mean([each[n] for n in range(first, step + 1)]))
    row = read_metrics(tmp_path / "run")[0]
    assert row["learning_rate"] == pytest.approx(0.01)
    assert row["grad_norm"] > 0 and row["images_per_second"] > 0
    lines = [message for message in caplog.messages if message.startswith("step ")]
    assert len(lines) == 3 and "images/s" in lines[0] and "left" in lines[0]


def test_batches_that_end_are_said_to(tmp_path):
    with pytest.raises(ValueError, match="training batches ended after step 3 of 10"):
        train_run(tmp_path / "run", 10, lambda start: (batch_at(step) for step in range(3)))
