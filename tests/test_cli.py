"""How scripts begin and end."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from motfm_jax import cli

ROOT = Path(__file__).parents[1]
MAIN = """
import os, sys
from motfm_jax import cli

def main(_):
    print("said", sys.stdout.isatty(), sys.stderr.isatty(), sys.stdin.readline())
    return 7 if os.open(os.devnull, os.O_RDONLY) > 2 else 8

cli.run(main)
"""


@pytest.mark.parametrize(
    "error, said",
    [
        (MemoryError("Unable to allocate 3 GiB"), "Unable to allocate 3 GiB; this machine has no"),
        (MemoryError(), "out of memory; this machine has no"),
        (
            OSError(errno.ENOMEM, "no memory left to read it", "a"),
            "to read it: 'a'; this machine has",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"),
            "Out of memory; the device has not",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "a"),
            "No space left on device: 'a'; make",
        ),
    ],
)
def test_want_of_room_is_said_in_a_line(capsys, monkeypatch, error, said):
    def main(_):
        raise error

    # What `run` sets for the process.
    monkeypatch.setattr(cli.malloc, "keep_freed", lambda: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    codes = []
    cli.run(main, codes.append)
    assert codes == [2]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_replaced_before_files_take_their_numbers(closed):
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, MAIN],
        cwd=ROOT,
        input="",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
    assert done.stdout == ("" if ">&-" in closed.split() else "said False False \n")
