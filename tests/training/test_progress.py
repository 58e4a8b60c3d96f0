"""What a person sees, on a terminal and in a file."""

import io
import os

import pytest

from motfm_jax.training.progress import Progress

ROW = {"loss": 0.25, "images_per_second": 8.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def report(stream, **settings):
    with Progress(2, 6, stream, **settings) as progress:
        for step in (3, 4):
            progress.step(0.25, 8.0)
            progress.line(step, ROW, images_left=480)
        progress.say("a word")
    return stream.getvalue()


def test_plain_lines_in_a_file():
    lines = report(io.StringIO()).splitlines()
    assert lines == [
        "step 3/6  loss 0.2500  8.0 images/s  01:00 left",
        "step 4/6  loss 0.2500  8.0 images/s  01:00 left",
        "a word",
    ]


def test_a_bar_on_a_terminal():
    text = report(Terminal())
    assert "4/6" in text and "loss 0.2500, 8.0 images/s" in text and "a word\n" in text
    assert "step 3/6" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_what_it_writes_to_may_close(terminal):
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        stream.isatty = lambda: terminal
        with Progress(2, 6, stream) as progress:
            os.close(read)
            for step in (3, 4):
                progress.step(0.25, 8.0)
                progress.line(step, ROW, images_left=480)
                progress.say("a word")


def test_other_processes_are_silent():
    assert report(io.StringIO(), silent=True) == "" == report(Terminal(), silent=True)
