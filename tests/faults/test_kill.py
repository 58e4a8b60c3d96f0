"""Killed or stopped at random moments, a training and a sampling end as if nothing had been."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["train", "sample"])
def test_a_few_kills_change_nothing(tmp_path, what):
    flags = [f"--what={what}", "--kills=3", "--num=40", f"--out={tmp_path / 'kills'}"]
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("kill.py"),
            *flags,
            "--signals",
            "KILL",
            "TERM",
            "INT",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout
