"""Trains a tiny model for long and watches whether memory, open files or time per step grow.

    .venv/bin/python tests/faults/long_run.py --out=long_run            # 10,000 steps: minutes

It runs scripts/train.py, with checkpoints, validation and samples, and prints a row each 500 steps:
resident memory, open files, and the time per step since the row before, all of that included. The
verdicts compare the means of the last quarter and of the second one (of open files the fewest,
since each save has some open): what start-up allocates is there by then.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from kill import ROOT, TRAIN

from motfm_jax.io.run_folder import read_metrics

EVERY = 500
SMALLEST = (
    "--config=configs/phantom.py:cond=none,size=debug",
    *TRAIN[1:],
    "--config.train.batch_size=2",
)
# What is compared of a quarter, and the most that the last may be over the second.
LIMITS = {
    "memory": (np.mean, 1.05),
    "open files": (np.min, 1.0),
    "time per step": (np.mean, 1.2),
}


class Row(NamedTuple):
    """What is seen once `step` updates are done.

    Attributes:
      step: updates done.
      rss_mib: resident memory of the process [MiB].
      files: its open file handles.
      step_ms: mean time per step since the row before [ms].
    """

    step: int
    rss_mib: float
    files: int
    step_ms: float


def watch(process: subprocess.Popen, run: Path) -> Iterator[Row]:
    """A row each EVERY steps, while the training runs."""
    proc, step, began = Path(f"/proc/{process.pid}"), 0, 0.0
    while process.poll() is None:
        time.sleep(0.1)
        logged = [row["step"] for row in read_metrics(run) if "loss" in row]
        if not logged or logged[-1] == step:
            continue
        now, done = time.perf_counter(), logged[-1]
        try:
            pages = int((proc / "statm").read_text().split()[1])
            files = len(os.listdir(proc / "fd"))
        except OSError:  # it has just ended
            return
        if step:  # the first row has the compilation in it
            yield Row(
                done,
                pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                files,
                1000 * (now - began) / (done - step),
            )
        step, began = done, now


def verdicts(rows: Sequence[Row]) -> Iterator[tuple[str, float, bool]]:
    """(what, last quarter over second quarter, whether that is within its limit)"""
    quarter = len(rows) // 4
    columns = np.array(rows)[:, 1:].T
    for (name, (of, limit)), column in zip(LIMITS.items(), columns):
        ratio = of(column[-quarter:]) / of(column[quarter : 2 * quarter])
        yield name, ratio, ratio <= limit


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000, help=f"at least {8 * EVERY}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the run, new")
    args = parser.parse_args(arguments)
    if args.steps < 8 * EVERY:
        parser.error(f"--steps={args.steps}: at least {8 * EVERY} needed, for four quarters")
    args.out.mkdir(parents=True)
    run = args.out.absolute() / "run"
    with open(args.out / "log", "w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "scripts/train.py",
                *SMALLEST,
                f"--workdir={run}",
                f"--config.train.steps={args.steps}",
                f"--config.train.log_every={EVERY}",
                "--config.train.eval_every=250",
                "--config.train.save_every=250",
                "--config.train.sample_every=1000",
            ],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        )
    print("| step | resident memory [MiB] | open files | time per step [ms] |\n|---|---|---|---|")
    rows = []
    try:
        for row in watch(process, run):
            rows.append(row)
            print(
                f"| {row.step} | {row.rss_mib:.1f} | {row.files} | {row.step_ms:.1f} |", flush=True
            )
    finally:
        process.kill()
    if process.wait():
        print(f"the training ended with exit code {process.returncode}, see {args.out / 'log'}")
        return 1
    good = True
    print()
    for name, ratio, within in verdicts(rows):
        good &= within
        print(
            f"{name}: {ratio:.3f} of the second quarter's in the last: "
            f"{'does not grow' if within else 'GROWS'}"
        )
    return not good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
