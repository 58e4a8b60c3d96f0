"""Whole files and folders, locks, and comparing settings."""

import fcntl
import os
import subprocess
import sys

import pytest

from motfm_jax.io.folders import (
    differences,
    locked,
    read_json,
    whole_file,
    whole_folder,
    write_json,
)


class Stopped(Exception):
    pass


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with whole_file(path) as draft:
            draft.write_text("half")
            raise Stopped

    with pytest.raises(Stopped):
        fail()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_draft_keeps_the_suffix_and_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "x.nii.gz"
    for text in ("old", "new"):
        with whole_file(path) as draft:
            assert draft.name.endswith(".x.nii.gz") and draft.parent == path.parent
            draft.write_text(text)
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def fill(path, text, **options):
    with whole_folder(path, **options) as draft:
        (draft / "file").write_text(text)
        if text == "half":
            raise Stopped


def test_a_folder_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "x"
    with pytest.raises(Stopped):
        fill(path, "half")
    assert list(path.parent.iterdir()) == []
    path.mkdir()  # an empty folder is in nobody's way
    fill(path, "old")
    with pytest.raises(FileExistsError, match="by another process meanwhile"):
        fill(path, "new")
    with pytest.raises(Stopped):
        fill(path, "half", replace=True)
    assert (path / "file").read_text() == "old"
    fill(path, "new", replace=True)
    assert (path / "file").read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_replacing_follows_a_link(tmp_path):
    fill(tmp_path / "x", "old")
    (tmp_path / "link").symlink_to("x")
    fill(tmp_path / "link", "new", replace=True)
    assert (tmp_path / "x" / "file").read_text() == "new" and (tmp_path / "link").is_symlink()


HOLD = """
import sys
from motfm_jax.io.folders import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_process_and_goes_when_it_dies(tmp_path):
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {process.pid} on"):
            locked(path).__enter__()
    finally:
        process.kill()
        process.wait()
    assert path.exists()
    with locked(path, wait=True) as held:
        assert held and path.read_text().startswith(f"process {os.getpid()} on")
    assert not path.exists()


def test_a_lock_file_deleted_while_waiting_is_created_again(tmp_path, monkeypatch):
    path, flock, calls = tmp_path / "lock", fcntl.flock, []

    def wait(file, how):
        calls.append(how)
        if len(calls) == 1:
            path.unlink()  # as the process that held it does
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", wait)
    with locked(path, wait=True) as held:
        assert held and path.exists()
    assert calls == [fcntl.LOCK_EX] * 2


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "lock") as held:
        assert not held


def test_a_lock_is_neither_a_link_nor_below_a_file(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "lock").symlink_to("outside")
    for path in (tmp_path / "lock", tmp_path / "outside" / "lock"):
        with pytest.raises(ValueError, match="cannot be written"):
            locked(path).__enter__()
    assert (tmp_path / "outside").read_text() == "mine"


def test_differences_name_changed_missing_and_new_fields():
    old = {"size": [8, 8], "train": {"lr": 1e-4, "steps": 5, "ema": 0.9}, "note": None}
    new = {"size": (8, 8), "train": {"lr": 2e-4, "steps": 7}, "seed": 0, "note": None}
    assert differences(old, new, ignore=["train.steps"]) == [
        "seed was absent, is 0",
        "train.ema was 0.9, is absent",
        "train.lr was 0.0001, is 0.0002",
    ]
    assert differences(old, old) == []


@pytest.mark.parametrize("text", [None, "{", "\udc80", "[" * 100_000])
def test_json_that_cannot_be_read_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"x\.json: cannot be read .*; ask Bob") as error:
        read_json(path, "ask Bob")
    assert "\n" not in str(error.value)


def test_json_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, None]})
    assert read_json(tmp_path / "x.json") == {"a": [1, None]}
