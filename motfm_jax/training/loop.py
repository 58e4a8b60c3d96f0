"""The training loop: update, log, validate, save, and stop as it should.

It knows neither networks nor data: states, batches and functions are handed to it.
"""

import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from tqdm import tqdm

from motfm_jax.core import Array, Batch
from motfm_jax.training.signals import catch, stop_now
from motfm_jax.training.state import Packed, TrainState
from motfm_jax.training.step import Metrics

log = logging.getLogger(__name__)

# Metrics are read this many updates late: the device always has the next update to work on, and
# the host is never further ahead than that (each update in the queue holds its batch).
LAG = 2


class NonFiniteError(ValueError):
    """A loss or a gradient was NaN or infinite; the last good state has been saved."""


class Work(NamedTuple):
    """What a training does.

    Attributes:
      update: (state, this process's rows of a batch, key) -> (state, metrics), such as
        `parallel.TrainStep`.
      learning_rate: by update, for the log.
      evaluate: weights -> validation loss, such as `parallel.evaluator`; None without validation.
      sample: (step, weights) -> None, such as drawing a grid of samples; None for nothing.
    """

    update: Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]
    learning_rate: Callable[[int], Any]
    evaluate: Callable[[Packed], float] | None = None
    sample: Callable[[int, Packed], None] | None = None


class Plan(NamedTuple):
    """How long a training takes, and how often it does what.

    Attributes:
      num_steps: updates in all, those before a resume included.
      batch_size: images an update, over all devices and processes.
      log_every, eval_every, save_every, sample_every: at multiples of so many updates. The last
        update does all four, and a new best validation loss saves too.
    """

    num_steps: int
    batch_size: int
    log_every: int
    eval_every: int
    save_every: int
    sample_every: int


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


class Log(Protocol):
    """Where the loop logs: `io.run_folder.Run`."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


class Checkpoints(Protocol):
    """Where the loop saves: `io.checkpoints.Checkpoints`."""

    @property
    def best_loss(self) -> float: ...

    def save(self, step: int, state: Any, valid_loss: float | None = None) -> None: ...

    def wait(self) -> None: ...


def train(
    state: TrainState,
    batches: Iterator[Batch],
    key: Array,
    work: Work,
    plan: Plan,
    run: Log,
    checkpoints: Checkpoints,
    progress: bool = False,
) -> Outcome:
    """Trains until plan.num_steps updates are made in all, or a signal comes.

    SIGTERM, Ctrl-C or SIGHUP: the current update or validation is finished, the state saved, and
    the outcome names the signal (SIGTERM for a signal to another process); a second one stops at
    once.

    Args:
      state: replicated over devices; donated.
      batches: this process's rows of each global batch, from the state's step on.
      key: the run's key.
      work, plan: what to do, and when.
      run, checkpoints: where to log and save.
      progress: shows a bar in a terminal or notebook.

    Raises:
      NonFiniteError: within log_every updates of the first bad one.
    """
    step = int(state.step)
    best_loss = checkpoints.best_loss
    window = _Window(step, plan.batch_size)
    stopped_by = None
    with catch() as received, _bar(step, plan.num_steps, progress) as bar:
        try:
            while step < plan.num_steps:
                state, metrics = work.update(state, _next(batches, step, plan.num_steps), key)
                step += 1
                window.add(step, metrics)
                bar.update()
                last = step == plan.num_steps
                if not last and stop_now(received, step):
                    stopped_by = received[0] if received else signal.SIGTERM
                if last or step % plan.log_every == 0 or stopped_by:
                    row = window.take()
                    run.log(step, row | {"learning_rate": float(work.learning_rate(step - 1))})
                    _report(step, plan, row)
                if stopped_by:
                    checkpoints.save(step, state)
                    break
                valid_loss = None
                if work.evaluate is not None and (last or step % plan.eval_every == 0):
                    window.settle()
                    valid_loss = work.evaluate(state.weights)
                    run.log(step, {"valid_loss": valid_loss})
                    _say("step %d: validation loss %.5f", step, valid_loss)
                improved = valid_loss is not None and valid_loss < best_loss
                if valid_loss is not None:
                    best_loss = min(best_loss, valid_loss)
                if improved or last or step % plan.save_every == 0:
                    window.settle()
                    checkpoints.save(step, state, valid_loss)
                # Schedulers give seconds between a signal and the kill.
                due = last or step % plan.sample_every == 0
                if work.sample is not None and due and not received:
                    window.settle()
                    work.sample(step, state.weights)
                window.resume()
        except _NotFinite as bad:
            run.log(bad.step, {"loss": bad.loss, "grad_norm": bad.grad_norm})
            # Halted at the first bad update, the state is still the one before it.
            good = state._replace(halted=np.zeros((), bool))
            checkpoints.save(int(state.step), good)
            checkpoints.wait()
            raise NonFiniteError(_explain(bad, float(work.learning_rate(bad.step - 1)))) from None
        checkpoints.wait()
        if stopped_by:
            cause = stopped_by.name if received else "a signal to another process"
            _say("stopped after step %d by %s: saved; --resume continues", step, cause)
    return Outcome(state, step, stopped_by)


def _bar(step: int, num_steps: int, progress: bool) -> tqdm:
    is_visible = progress and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(
        total=num_steps, initial=step, unit="step", dynamic_ncols=True, disable=not is_visible
    )


def _say(message: str, *values: Any) -> None:
    if jax.process_index() == 0:
        log.info(message, *values)


def _report(step: int, plan: Plan, row: dict[str, float]) -> None:
    pace = row["images_per_second"]
    left = tqdm.format_interval((plan.num_steps - step) * plan.batch_size / pace)
    _say(
        "step %d/%d  loss %.4f  %.1f images/s  %s left",
        *(step, plan.num_steps, row["loss"], pace, left),
    )


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
            self._recent.append(float(loss))
            self._losses.append(float(loss))
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
        "train.dtype=float32), or the data has bad values (motfm prepare check)"
    )
