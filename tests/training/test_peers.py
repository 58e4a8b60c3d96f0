"""Processes that watch over one another: who stops when one of them ends, and who does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKER = """
import os, pathlib, socket, struct, sys, time
import numpy as np
from motfm_jax import peers

number, folder, fate = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
peers.GRACE_S = 0.5

def gather(values):
    if number == 0:
        port = struct.unpack_from("!H", values, 16)[0]
        with socket.create_connection(("localhost", port)) as stranger:
            stranger.sendall(b"x" * 20)
        (folder / "draft").write_bytes(values.tobytes())
        (folder / "draft").rename(folder / "first")
    while not (folder / "first").exists():
        time.sleep(0.01)
    return np.frombuffer((folder / "first").read_bytes(), np.uint8)[None]

watched = peers.Peers(number, 3, "localhost", gather)
(folder / f"ready{number}").touch()
while len(list(folder.glob("ready*"))) < 3:
    time.sleep(0.01)
if fate == "die":
    os.kill(os.getpid(), 9)
if fate == "fail":
    watched.leave(done=False)
    os._exit(2)
time.sleep({"work": 20, "done": 0, "late": 1.5}[fate])
watched.leave(done=True)
"""


@pytest.mark.parametrize(
    "fates, codes, ended",
    [
        ("work die work", (75, -9, 75), 1),
        ("die work work", (-9, 75, 75), 0),
        ("work work fail", (75, 75, 2), 2),
        ("fail work work", (2, 75, 75), 0),
        ("fail fail fail", (2, 2, 2), None),
        ("late done done", (0, 0, 0), None),
        ("done late late", (0, 0, 0), None),
    ],
)
def test_when_one_ends_before_its_time_the_others_stop_and_say_so(tmp_path, fates, codes, ended):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number), str(tmp_path), fate],
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
        )
        for number, fate in enumerate(fates.split())
    ]
    said = [process.communicate(timeout=60)[1] for process in running]
    assert tuple(process.returncode for process in running) == codes, said
    for number, code in enumerate(codes):
        if code == 75:
            assert said[number].startswith(f"error: process {ended} of this run ended before its")
            assert said[number].count("\n") == 1 and "--resume" in said[number]
        else:
            assert said[number] == ""
