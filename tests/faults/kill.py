"""Kills scripts at random moments, calls them again until they finish, and compares the results.

    .venv/bin/python tests/faults/kill.py --what=train --kills=50 --out=kills
    .venv/bin/python tests/faults/kill.py --what=sample --kills=20 --out=kills
    .venv/bin/python tests/faults/kill.py --what=report --kills=20 --out=kills
    .venv/bin/python tests/faults/kill.py --what=train --signals KILL TERM INT --out=kills

Every process group is ended by SIGKILL (or by the signals named, in turn), at a moment drawn
evenly from the time that an uninterrupted call takes, so that starting, decoding, compiling,
updating, saving, validating, drawing and the writing of caches are all hit. Where a trial finishes
before its moment, later moments are drawn from the time it took.
What has to be equal to the uninterrupted run, bit for bit: of a training every array of its last
checkpoint (weights, moving average, optimiser) and each logged loss (where a signal stops a
training at a step that is due for validation, that is left out); of a sampling all images; of a
report the last checkpoint and all images of every system, and the tables without their seconds. A
signal's exit code has to be 128 more than its number, or the process has to have died of it, within
a minute. And after no kill may there be fewer readable checkpoints than before. Every other trial
starts with empty caches. The first lines say whether a program just compiled and one from the cache
compute the same: without that nothing here would mean anything.
"""

import argparse
import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
TRAIN = (
    "--config=configs/phantom.py:cond=mask+class,size=debug",
    "--config.data.phantom_patients=20",
    "--config.data.size=(16,16)",
    "--config.model.channels=(8,8)",
    "--config.model.head_dim=8",
    "--config.model.norm_groups=4",
    "--config.train.batch_size=8",
    "--config.train.steps=200",
    "--config.train.save_every=10",
    "--config.train.eval_every=20",
    "--config.train.log_every=5",
    "--config.train.sample_every=50",
)
TIMES = ("images_per_second",)  # of a logged row, not compared
GRACE_S = 60  # on a busy machine


class Job(NamedTuple):
    """What is killed.

    Attributes:
      script: of scripts/.
      arguments: those that every call has.
      target: the flag that names the folder it writes to.
    """

    script: str
    arguments: tuple[str, ...]
    target: str

    def call(self, out: Path, caches: Path) -> subprocess.Popen:
        """Starts the script in a new process group."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "MOTFM_CACHE": str(caches / "decoded"),
            "JAX_COMPILATION_CACHE_DIR": str(caches / "compiled"),
        }
        with open(out.parent / f"{out.name}.log", "ab") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    f"scripts/{self.script}.py",
                    *self.arguments,
                    f"{self.target}={out}",
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, out: Path, caches: Path) -> float:
        """An uninterrupted call: seconds it took."""
        begin = time.perf_counter()
        code = self.call(out, caches).wait()
        if code:
            raise RuntimeError(f"{out}: exit code {code}, see {out}.log")
        return time.perf_counter() - begin


def kill_until_done(
    job: Job,
    out: Path,
    caches: Path,
    rng: random.Random,
    span: float,
    most: int,
    kinds: Iterator[signal.Signals],
):
    """Calls and kills until a call finishes, or finishes after `most` kills; yields after each
    kill how many seconds it took the process to end."""
    for _ in range(most):
        process = job.call(out, caches)
        try:
            code = process.wait(rng.uniform(0, span))
        except subprocess.TimeoutExpired:
            kind, sent = next(kinds), time.perf_counter()
            os.killpg(process.pid, kind)
            code = process.wait(GRACE_S)
            if code not in (0, -kind, 128 + kind):  # 0: it had just finished
                raise RuntimeError(
                    f"{out}: exit code {code} after {kind.name}, see {out}.log"
                ) from None
            yield time.perf_counter() - sent
            continue
        if code:
            raise RuntimeError(f"{out}: exit code {code}, see {out}.log")
        return
    job.finish(out, caches)


def readable(run: Path) -> list[int]:
    """Steps of a run's checkpoints that read back as they were saved."""
    from motfm_jax.io.checkpoints import Damaged, restore_weights

    steps = [entry.name for entry in (run / "checkpoints").glob("*") if entry.name.isdecimal()]
    whole = []
    for step in sorted(map(int, steps)):
        try:
            restore_weights(run, step)
        except Damaged:
            continue
        whole.append(step)
    return whole


def trained(run: Path) -> tuple[dict[str, str], list[dict]]:
    """Digests of all parts of the last checkpoint, and what was logged."""
    from motfm_jax.io.checkpoints import restore_weights
    from motfm_jax.io.run_folder import read_metrics

    path = restore_weights(run, "last").path
    rows = [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in read_metrics(run)
    ]
    return json.loads((path / "sums" / "metadata").read_text())["parts"], rows


def losses_alone(run: Path) -> tuple[dict[str, str], list[dict]]:
    """The same without validation."""
    arrays, rows = trained(run)
    return arrays, [row for row in rows if "loss" in row]


def sampled(out: Path) -> str:
    """The digest of a sampling's arrays."""
    from motfm_jax.io.hashes import hash_arrays

    with np.load(out / "samples.npz") as arrays:
        return hash_arrays(arrays)


def reported(out: Path) -> dict[str, Any]:
    """What a report's stages made, by folder, and its tables without columns of seconds."""
    runs = [path.parent for path in out.glob("runs/*/*/checkpoints")]
    sets = [path.parent for path in out.glob("samples/*/*/samples.npz")]
    made = {str(run.relative_to(out)): trained(run)[0] for run in runs}
    made |= {str(made_set.relative_to(out)): sampled(made_set) for made_set in sets}
    for path in out.glob("report/*.csv"):
        with open(path) as file:
            columns = zip(*csv.reader(file))
            made[path.name] = [column for column in columns if not column[0].startswith("seconds")]
    return made


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("train", "sample", "report"), default="train")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signals", nargs="+", choices=("KILL", "TERM", "INT"), default=["KILL"])
    parser.add_argument("--num", type=int, default=500, help="images of a sampling")
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it, new")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    out.mkdir(parents=True)
    rng = random.Random(args.seed)
    kinds = itertools.cycle(signal.Signals[f"SIG{name}"] for name in args.signals)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as in the background

    job, result = Job("train", (*TRAIN, "--resume"), "--workdir"), trained
    if args.signals != ["KILL"]:  # each stop logs a row
        job = job._replace(arguments=(*job.arguments, "--config.train.log_every=1"))
        result = losses_alone
    if args.what == "sample":
        job.finish(out / "run", out / "caches")
        shutil.rmtree(out / "caches")
        job = Job("sample", (f"--run={out / 'run'}", f"--num={args.num}", "--steps=10"), "--out")
        result = sampled
    if args.what == "report":
        job = Job("report", ("--plan=tests/report/tiny_plan.py",), "--out")
        result = reported
    cold = job.finish(out / "fresh", out / "caches")
    warm = job.finish(out / "cached", out / "caches")
    expected = result(out / "fresh")
    print(f"uninterrupted: {cold:.0f} s with empty caches, {warm:.0f} s with full ones", flush=True)
    if result(out / "cached") != expected:
        print("a cached program computes something else than a fresh one: no comparison possible")
        return 1

    kills, trials, failures, slowest_s, spans = 0, 0, [], 0.0, [cold, warm]
    while kills < args.kills:
        trials += 1
        target, before, had = out / f"trial{trials}", [], kills
        caches = out / f"caches{(trials - 1) // 2}"  # two trials share theirs: cold, then warm
        span, begin = spans[(trials - 1) % 2], time.perf_counter()
        for seconds in kill_until_done(job, target, caches, rng, span, args.kills - kills, kinds):
            kills, slowest_s = kills + 1, max(slowest_s, seconds)
            if args.what == "train":
                now = readable(target)
                if len(now) < min(len(before), 2) or (before and max(now) < max(before)):
                    failures.append(f"trial {trials}: checkpoints {before} became {now}")
                before = now
        if kills == had:
            spans[(trials - 1) % 2] = time.perf_counter() - begin
        if result(target) != expected:
            failures.append(f"trial {trials}: another result than the uninterrupted run's")
        print(
            f"trial {trials}: finished, {kills} kills in all, {len(failures)} failures", flush=True
        )
    print(
        f"{args.what}: {kills} kills in {trials} trials, the slowest end after "
        f"{slowest_s:.1f} s, {len(failures)} failures",
        *failures,
        sep="\n",
    )
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
