"""The readers under a second of damaged files each, and that a reader that fails is told."""

import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("name", fuzz.ENTRIES)
def test_a_second_of_damaged_files_is_read_or_refused(tmp_path, name):
    done = subprocess.run(
        [
            sys.executable,
            fuzz.__file__,
            f"--entry={name}",
            "--minutes=0.02",
            "--engine=mutation",
            f"--out={tmp_path}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    executions = int(done.stdout.split()[1])
    assert executions > 0 and "0 findings" in done.stdout


@pytest.mark.parametrize("name", fuzz.ENTRIES)
def test_the_seeds_are_whole(tmp_path, name):
    """A reader that refused them all would pass every fuzzing."""
    suffix, read, seeds = fuzz.ENTRIES[name]
    fine = 0
    for index, data in enumerate(seeds()):
        path = tmp_path / f"{index}{suffix(data)}"
        path.write_bytes(data)
        try:
            read(path)
            fine += 1
        except ValueError:
            pass
    assert fine >= 2 or (name == "yaml" and fine)


def test_other_exceptions_and_slowness_are_told_and_errors_of_the_user_are_not(
    tmp_path, monkeypatch
):
    def bad(path):
        raise ValueError(f"{path}: damaged")

    def nameless(_):
        raise ValueError("damaged")

    def worse(_):
        return {}["key"]

    def endless(_):
        while True:
            pass

    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.05)
    assert fuzz.judge(bad, tmp_path) is None
    assert fuzz.judge(nameless, tmp_path)[0].startswith("Nameless test_fuzz.py:")
    assert fuzz.judge(lambda _: None, tmp_path) is None
    kind, details = fuzz.judge(worse, tmp_path)
    assert kind.startswith("KeyError test_fuzz.py:") and 'return {}["key"]' in details
    assert fuzz.judge(endless, tmp_path)[0].startswith("TooSlow")


def test_too_much_memory_is_told():
    taken = "import fuzz; fuzz.MOST_MEGABYTES = 64; print(fuzz.judge(lambda _: b'x' * 2**28, None))"
    done = subprocess.run(  # the peak of this process may lie above it
        [sys.executable, "-c", taken],
        cwd=Path(fuzz.__file__).parent,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("('memory'"), done.stderr
