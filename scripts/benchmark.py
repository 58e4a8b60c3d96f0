"""Times our networks beside the PyTorch original's, in turn, with the same weights and inputs.

    .venv/bin/python scripts/benchmark.py --quick --out=benchmark
    .venv/bin/python scripts/benchmark.py --cases=forward,sample --sizes=128,256 --out=benchmark

Needs .venv/bin/pip install -e '.[parity]' for PyTorch and MONAI generative; --without-torch times
ours alone. Each pair of measurements is one call of each side, in random order; the ratio is that
of the medians (ours over the fastest of PyTorch's variants), with a bootstrap interval of 95%.
benchmark.json and .md hold that, the work (FLOP and bytes as XLA counts them), the share of the
device's own matrix product speed, memory, the times of tracing and compiling, without a cache and
with one, and how many examples a second the data path yields.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# A thread pool that waits busily would take the other's cores. Read when libraries load.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))

import jax
import jax.numpy as jnp
import numpy as np
from programs import (
    NETWORKS,
    PAIRED,
    WORK,
    Case,
    call_of,
    compiled,
    draw,
    program,
    theirs,
)
from tqdm import tqdm

from motfm_jax import cli, datasets, presets, settings
from motfm_jax.data import pipeline
from motfm_jax.evaluation.tables import Table
from motfm_jax.io import malloc
from motfm_jax.io.environment import environment
from motfm_jax.io.folders import whole_file, write_json

SIZES = {2: (128, 256, 384), 3: (32, 64, 96)}
LARGEST_TRAINED_ON_CPU = {2: 256, 3: 64}
QUICK = (
    ("unconditional", "forward"),
    ("unconditional", "train"),
    ("unconditional", "sample"),
    ("mask_class", "forward"),
    ("mask_class", "sample"),
)
SLOW_SECONDS, FEW_PAIRS = 20.0, 3  # calls slower than this are measured so often

# The data path: axes -> side, batch, simulated patients, and seconds measured.
FEED = {2: (256, 16, 120), 3: (96, 4, 40)}
FEED_SECONDS, WARM_BATCHES = 4.0, 20


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="folder to write to")
    add("--quick", action="store_true", help="five cases at 128 x 128")
    add("--cases", default=",".join(WORK), help="of forward, train, sample")
    add("--networks", default=",".join(NETWORKS), help="default: all")
    add("--sizes", default="", help="sides; default: 128 256 384, volumes 32 64 96")
    add("--batch", type=int, default=1, help="images a call; default: 1")
    add("--calls", type=int, default=10, help="network calls of a sampling; default: 10")
    add("--pairs", type=int, default=15, help="measurements of each; default: 15")
    add("--without-torch", action="store_true", help="time ours alone")
    args = parser.parse_args(arguments)
    for name, least in (("batch", 1), ("calls", 1), ("pairs", 2)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name}={getattr(args, name)}: needed a number from {least}")
    for name, choices in (("cases", WORK), ("networks", NETWORKS)):
        names = [part for part in getattr(args, name).split(",") if part]
        setattr(args, name, names)
        for unknown in set(names) - set(choices):
            raise ValueError(f"--{name}={unknown}: use {', '.join(choices)}")
    return args


def chosen(args: argparse.Namespace) -> list[Case]:
    """The cases of the flags; on a CPU without the trainings that take too long there."""
    sides = [int(side) for side in args.sizes.split(",") if side]
    if args.quick:
        side = sides[0] if sides else 128
        return [Case(network, work, side, args.batch) for network, work in QUICK]
    cases = [
        Case(network, work, side, args.batch)
        for network in args.networks
        for side in sides or SIZES[Case(network, "", 0, 0).dims]
        for work in args.cases
    ]
    on_cpu = jax.devices()[0].platform == "cpu"
    return [
        case
        for case in cases
        if not on_cpu or case.work != "train" or case.side <= LARGEST_TRAINED_ON_CPU[case.dims]
    ]


def measure(sides: Mapping[str, Callable[[], Any]], pairs: int) -> dict[str, list[float]]:
    """Seconds of every side: one call of each in random order, `pairs` times."""
    random, longest = np.random.default_rng(0), 0.0
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()  # compiles, allocates, warms caches
        begin = time.perf_counter()
        call()
        longest = max(longest, time.perf_counter() - begin)
    for _ in range(min(pairs, FEW_PAIRS) if longest > SLOW_SECONDS else pairs):
        for name in random.permutation(list(sides)):
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(seconds: Mapping[str, list[float]], draws: int = 2000) -> dict[str, Any]:
    """Ours over the fastest other side, of medians, with its bootstrap interval over pairs."""
    ours = np.array(seconds["ours"])
    others = {name: np.array(values) for name, values in seconds.items() if name != "ours"}
    if not others:
        return {}
    fastest = min(others, key=lambda name: np.median(others[name]))
    rows = np.random.default_rng(0).integers(0, len(ours), (draws, len(ours)))
    spread = np.median(ours[rows], axis=1) / np.median(others[fastest][rows], axis=1)
    low, high = np.quantile(spread, (0.025, 0.975))
    value = np.median(ours) / np.median(others[fastest])
    return {"fastest": fastest, "ratio": float(value), "low": float(low), "high": float(high)}


def matrix_peak() -> float:
    """FLOP/s of a large matrix product in the type that networks compute in."""
    on_gpu = jax.devices()[0].platform == "gpu"
    side = 8192 if on_gpu else 2048
    a = jnp.ones((side, side), jnp.bfloat16 if on_gpu else jnp.float32)
    product, best = jax.jit(lambda a: a @ a).lower(a).compile(), np.inf
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(product(a))
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def feed(dims: int, seconds: float = FEED_SECONDS) -> dict[str, Any]:
    """Examples a second of the training pipeline on simulated scans, from a warm cache."""
    side, batch, patients = FEED[dims]
    config = settings.default()
    presets.apply(config, dims, "paper")
    config.cond = "mask"
    config.data.source = "phantom_echo" if dims == 2 else "phantom_brain"
    config.data.update(size=(side,) * dims, phantom_patients=patients)
    if dims == 3:
        config.data.intensity.update(mode="percentile", scope="sample")
    data = datasets.data(config)
    augment = datasets.augmentation(config)
    examples = data.examples("train")
    batches = pipeline.train_batches(examples, batch_size=batch, seed=0, augment=augment)
    for _ in range(WARM_BATCHES):
        next(batches)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += batch
    rate = count / (time.perf_counter() - begin)
    return {"data": f"{side}^{dims}", "batch": batch, "examples_per_second": rate}


def table(rows: Sequence[Mapping[str, Any]], peak: float) -> Table:
    """The results as they are shown."""
    lines = []
    for row in rows:
        medians = {name: np.median(values) for name, values in row["seconds"].items()}
        ours = medians.pop("ours")
        torch = ", ".join(f"{1e3 * value:.0f} {name}" for name, value in medians.items())
        interval = f"{row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f})" if torch else None
        lines.append(
            {
                "case": row["case"],
                "ours [ms]": f"{1e3 * ours:.0f}",
                "PyTorch [ms]": torch or None,
                "ratio (95%)": interval,
                "GFLOP": f"{row['flop'] / 1e9:.1f}",
                "of peak": f"{row['flop'] / ours / peak:.0%}",
                "GB moved": f"{row['bytes'] / 1e9:.1f}",
                "temporary MB": f"{row['temporary_bytes'] / 1e6:.0f}",
                "trace + compile [s]": f"{row['trace_s']:.1f} + {row['compile_s']:.1f}",
                "both with a cache [s]": f"{row['warm_s']:.1f}",
            }
        )
    best = {(number, "ratio (95%)") for number, line in enumerate(lines) if line["ratio (95%)"]}
    return Table(f"Matrix products reach {peak / 1e9:.0f} GFLOP/s here.", lines, best)


def write(out: Path, report: dict[str, Any]) -> None:
    """benchmark.json and benchmark.md."""
    text = table(report["rows"], report["matrix_peak"]).markdown() + "\n"
    text += "".join(
        f"The data path yields {each['examples_per_second']:.0f} examples a second at "
        f"{each['data']}, in batches of {each['batch']}.\n"
        for each in report["feed"]
    )
    write_json(out / "benchmark.json", report)
    with whole_file(out / "benchmark.md") as draft:
        draft.write_text(text)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    malloc.keep_freed()  # as training and sampling do
    cases = chosen(args)
    if not cases:
        raise ValueError("the flags leave no case; see --help")
    if not args.without_torch:
        try:
            import generative  # noqa: F401
            import torch  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"{error.name} is not installed: pip install -e '.[parity]', or --without-torch"
            ) from error
    report = {
        "environment": environment(),
        "matrix_peak": matrix_peak(),
        "feed": [feed(dims) for dims in FEED],
        "rows": [],
    }
    for case in tqdm(cases, unit="case", disable=None):
        inputs = draw(case)
        ours = program(case, inputs, args.calls)
        function, facts = compiled(ours)
        sides = {"ours": call_of(case, function, ours.arguments)}
        if case.network in PAIRED and not args.without_torch:
            sides |= theirs(case, inputs, ours.params, args.calls)
        seconds = measure(sides, args.pairs)
        row = {"case": case.name, "calls": args.calls, "seconds": seconds}
        report["rows"].append(row | ratio(seconds) | facts)
        write(args.out, report)
        del ours, function, sides
        jax.clear_caches()
    print((args.out / "benchmark.md").read_text(), end="")


if __name__ == "__main__":
    cli.run(main)
