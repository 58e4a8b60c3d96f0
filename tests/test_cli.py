"""How scripts begin and end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAIN = """
import os, sys
from motfm_jax import cli

def main(_):
    print("said", sys.stdout.isatty(), sys.stderr.isatty(), sys.stdin.readline())
    return 7 if os.open(os.devnull, os.O_RDONLY) > 2 else 8

cli.run(main)
"""


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_replaced_before_files_take_their_numbers(closed):
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, MAIN], cwd=ROOT, input="",
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
    assert done.stdout == ("" if ">&-" in closed.split() else "said False False \n")
