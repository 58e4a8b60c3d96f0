"""The training loop: update, log, validate, save, and stop as it should.

It knows neither networks nor data: states, batches and functions are handed to it.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from motfm_jax import parallel
from motfm_jax.core import Array, Batch, Params
from motfm_jax.training.progress import Progress
from motfm_jax.training.state import TrainState
from motfm_jax.training.step import Metrics

# Metrics are read this many updates late: the device always has the next update to go on with, and
# the host is never further ahead than that (each update in the queue holds its batch).
LAG = 2

# Several processes agree on stopping after a signal at multiples of this.
AGREE_EVERY = 10


class NonFiniteError(ValueError):
    """A loss or a gradient was NaN or infinite; the last good state has been saved."""


class Hook(NamedTuple):
    """Something to do now and then, such as a grid of samples.

    Attributes:
      every: at multiples of this many steps, and after the last.
      call: (step, replicated weights: the moving average where there is one) -> None.
    """

    every: int
    call: Callable[[int, Params], None]


class Outcome(NamedTuple):
    """How training ended.

    Attributes:
      state: the last state, replicated.
      step: updates made in all.
      stopped_by: the signal that ended it before its last step, or None.
    """

    state: TrainState
    step: int
    stopped_by: signal.Signals | None


class Run(Protocol):
    """Where the loop logs: `io.runs.Run`."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


class Checkpoints(Protocol):
    """Where the loop saves: `io.checkpoints.Checkpoints`."""

    best_loss: float

    def save(self, step: int, state: Any, valid_loss: float | None = None) -> None: ...

    def wait(self) -> None: ...


def train(
    state: TrainState,
    batches: Iterator[Batch],
    *,
    key: Array,
    update: Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]],
    evaluate: Callable[[Params], float] | None,
    learning_rate: Callable[[int], Array],
    run: Run,
    checkpoints: Checkpoints,
    num_steps: int,
    batch_size: int,
    log_every: int,
    eval_every: int,
    save_every: int,
    hooks: Sequence[Hook] = (),
) -> Outcome:
    """Trains until num_steps updates are made in all, or a signal comes.

    SIGTERM, Ctrl-C or SIGHUP: the update or validation at hand is finished, the state saved, and
    the outcome says by which (another process's counts as SIGTERM); a second one stops at once.

    Args:
      state: replicated over devices; donated. Its step says where the batches start.
      batches: this process's rows of each global batch, from the state's step on.
      key: the run's key.
      update: `parallel.train_step(...)`.
      evaluate: `parallel.evaluator(...)`, or None without validation.
      learning_rate: by update, for the log.
      run, checkpoints: where to log and save (`io.runs.Run`, `io.checkpoints.Checkpoints`).
      num_steps: updates in all, the ones before a resume included.
      batch_size: images an update, over all devices and processes.
      log_every, eval_every, save_every: at multiples of so many updates; the last update does all
        three, and a validation loss below all before saves too.
      hooks: called after validation.

    Raises:
      NonFiniteError: within log_every updates of the first bad one.
    """
    step = int(state.step)
    best_loss = checkpoints.best_loss
    window = _Window(step, batch_size)
    stopped_by = None
    silent = jax.process_index() != 0
    with _signals() as signals, Progress(step, num_steps, silent=silent) as progress:
        try:
            while step < num_steps:
                state, metrics = update(state, _next(batches, step, num_steps), key)
                step += 1
                window.add(step, metrics)
                progress.step(window.loss, window.images_per_second)
                if step < num_steps and _stop_now(signals, step):
                    stopped_by = signals[0] if signals else signal.SIGTERM
                due = functools.partial(_is_due, step, num_steps)
                if due(log_every) or stopped_by:
                    row = window.take()
                    run.log(step, row | {"learning_rate": float(learning_rate(step - 1))})
                    progress.line(step, row, (num_steps - step) * batch_size)
                if stopped_by:
                    checkpoints.save(step, state)
                    break
                valid_loss = None
                if evaluate is not None and due(eval_every):
                    window.settle()
                    valid_loss = evaluate(state.weights)
                    run.log(step, {"valid_loss": valid_loss})
                    progress.say(f"step {step}: validation loss {valid_loss:.5f}")
                improved = valid_loss is not None and valid_loss < best_loss
                if improved:
                    best_loss = valid_loss
                if improved or due(save_every):
                    window.settle()
                    checkpoints.save(step, state, valid_loss)
                for hook in hooks:
                    # Schedulers give seconds between a signal and the kill.
                    if due(hook.every) and not signals:
                        window.settle()
                        hook.call(step, state.weights)
                window.resume()
        except _NotFinite as bad:
            run.log(bad.step, {"loss": bad.loss, "grad_norm": bad.grad_norm})
            # Halted at the first bad update, the state is still the one before it.
            good = state._replace(halted=np.zeros((), bool))
            checkpoints.save(int(state.step), good)
            checkpoints.wait()
            raise NonFiniteError(_explain(bad, float(learning_rate(bad.step - 1)))) from None
        checkpoints.wait()
        if stopped_by:
            cause = stopped_by.name if signals else "a signal to another process"
            progress.say(f"stopped after step {step} by {cause}: saved; --resume goes on")
    return Outcome(state, step, stopped_by)


class _NotFinite(Exception):
    def __init__(self, step: int, loss: float, grad_norm: float, recent: Sequence[float]):
        self.step, self.loss, self.grad_norm, self.recent = step, loss, grad_norm, recent


class _Window:
    """The metrics since the last log point, and the pace since the last pause.

    `settle` waits for the device; whatever comes between it and `resume` (validation, saving,
    hooks) does not count in the pace, nor does the first update, which compiles.
    """

    def __init__(self, step: int, batch_size: int):
        self._batch_size = batch_size
        self._pending: deque[tuple[int, Metrics]] = deque()
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._recent: deque[float] = deque(maxlen=5)
        self._first = True
        self._mark(step)
        self.loss: float | None = None
        self.images_per_second = 0.0

    def _mark(self, step: int) -> None:
        self._marked = (step, time.perf_counter())
        self._settled = False

    def add(self, step: int, metrics: Metrics) -> None:
        self._pending.append((step, metrics))
        self._step = step
        self._read(0 if self._first else LAG)
        if self._first:
            self._first = False
            self._mark(step)

    def _read(self, leave: int) -> None:
        while len(self._pending) > leave:
            step, metrics = self._pending.popleft()
            loss, grad_norm, finite = jax.device_get(metrics)
            if not finite:
                raise _NotFinite(step, float(loss), float(grad_norm), tuple(self._recent))
            self.loss = float(loss)
            self._recent.append(self.loss)
            self._losses.append(self.loss)
            self._norms.append(float(grad_norm))
            marked_step, marked_at = self._marked
            if step > marked_step:
                elapsed = time.perf_counter() - marked_at
                self.images_per_second = (step - marked_step) * self._batch_size / elapsed

    def settle(self) -> None:
        self._read(0)
        self._settled = True

    def resume(self) -> None:
        if self._settled:
            self._mark(self._step)

    def take(self) -> dict[str, float]:
        """Means since the last call, and the pace; empties the window."""
        self.settle()
        row = {
            "loss": float(np.mean(self._losses)),
            "grad_norm": float(np.mean(self._norms)),
            "images_per_second": self.images_per_second,
        }
        self._losses.clear()
        self._norms.clear()
        return row


def _is_due(step: int, num_steps: int, every: int) -> bool:
    return step == num_steps or step % every == 0


def _next(batches: Iterator[Batch], step: int, num_steps: int) -> Batch:
    batch = next(batches, None)
    if batch is None:
        raise ValueError(f"the training batches ended after step {step} of {num_steps}")
    return batch


def _explain(bad: _NotFinite, learning_rate: float) -> str:
    recent = ", ".join(f"{loss:.4g}" for loss in bad.recent) or "none"
    return (
        f"step {bad.step}: loss {bad.loss:.4g}, gradient norm {bad.grad_norm:.4g}: not finite; the "
        f"last good state is saved as step {bad.step - 1} (losses before: {recent}). Likely "
        f"causes: the learning rate is too high (train.lr, now {learning_rate:.3g}; try a third "
        "or train.warmup), gradients are not clipped (train.clip), bfloat16 rounds too much (try "
        "train.dtype=float32), or the data has bad values (scripts/prepare_data.py check)"
    )


def _stop_now(signals: Sequence[signal.Signals], step: int) -> bool:
    """Whether to stop after this step; several processes stop after the same one."""
    if jax.process_count() == 1:
        return bool(signals)
    return step % AGREE_EVERY == 0 and parallel.any_process(bool(signals))


@contextlib.contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """The signals to stop that came meanwhile; a second one acts as it always does."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    kinds = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        kinds.append(signal.SIGHUP)  # its terminal has closed
    previous = {kind: signal.getsignal(kind) or signal.SIG_DFL for kind in kinds}

    def restore() -> None:
        for kind, handler in previous.items():
            signal.signal(kind, handler)

    def receive(number: int, _) -> None:
        received.append(signal.Signals(number))
        restore()
        # Written past Python's streams: a handler may interrupt one of them.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping: finishing the step and saving; once more to stop at once\n")

    for kind in kinds:
        signal.signal(kind, receive)
    try:
        yield received
    finally:
        restore()
