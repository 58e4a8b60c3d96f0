"""What a person sees while training: a bar on a terminal, plain lines anywhere else.

Where nothing can be shown any longer (a pipe that was closed, no room for the output) the training
goes on in silence.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TextIO

from tqdm import tqdm


class Progress:
    """Reports steps as they are made.

    Args:
      start, total: steps made already, and in all.
      stream: where to; standard output where None. A terminal gets the bar.
      silent: in the processes that do not report.
    """

    def __init__(self, start: int, total: int, stream: TextIO | None = None, silent: bool = False):
        self._stream = sys.stdout if stream is None else stream
        self._silent = silent
        self._total = total
        self._bar = None
        if not silent and self._stream.isatty():
            self._bar = tqdm(
                total=total, initial=start, file=self._stream, unit="step", dynamic_ncols=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        with self._showing():
            if self._bar is not None:
                self._bar.close()

    @contextlib.contextmanager
    def _showing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._silent, self._bar = True, None
            # What is in its buffer goes nowhere either, now or when the process ends.
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def step(self, loss: float | None, images_per_second: float) -> None:
        """One more step was started; the loss is that of a few steps ago."""
        if self._bar is None:
            return
        if loss is not None:
            self._bar.set_postfix_str(
                f"loss {loss:.4f}, {images_per_second:.1f} images/s", refresh=False
            )
        with self._showing():
            self._bar.update()

    def line(self, step: int, row: Mapping[str, float], images_left: int) -> None:
        """A log point: one plain line where there is no bar."""
        if self._bar is None:
            left = tqdm.format_interval(images_left / row["images_per_second"])
            self.say(
                f"step {step}/{self._total}  loss {row['loss']:.4f}  "
                f"{row['images_per_second']:.1f} images/s  {left} left"
            )

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._silent:
            return
        with self._showing():
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
            else:
                print(text, file=self._stream, flush=True)
