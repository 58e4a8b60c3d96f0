"""Signals that stop a training after the current step."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence

import jax

from motfm_jax import parallel

# Several processes agree on stopping at multiples of this many steps.
AGREE_EVERY = 10


def stop_now(received: Sequence[signal.Signals], step: int) -> bool:
    """Whether to stop after this step; several processes stop after the same one."""
    if jax.process_count() == 1:
        return bool(received)
    return step % AGREE_EVERY == 0 and parallel.any_process(bool(received))


@contextlib.contextmanager
def catch() -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM, SIGINT and SIGHUP in the list; a second signal acts as it always does."""
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
