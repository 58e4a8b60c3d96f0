"""Times our networks beside the PyTorch original's, in turn, with the same weights and inputs.

    .venv/bin/python scripts/benchmark.py --quick --out=benchmark
    .venv/bin/python scripts/benchmark.py --cases=forward,sample --sizes=128,256 --out=benchmark

Needs .venv/bin/pip install -e '.[parity]' for PyTorch and MONAI generative; --without-torch times
ours alone. Every measurement is one call of each after the other, in changing order, until there
are --pairs of them; the ratio is that of the medians (ours over the fastest of PyTorch's variants),
with a bootstrap interval of 95%. benchmark.json and .md hold that, the work (FLOP and bytes as XLA
counts them), the share of the device's own matrix product speed, memory, the times of tracing and
compiling without a cache and of both with one, and how many examples a second the data path yields.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# A thread pool that waits busily would take the other's cores. Read when libraries load.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import jax
import numpy as np
from tqdm import tqdm

from motfm_jax import cli, datasets, settings
from motfm_jax.benchmark.cases import NETWORKS, SIZES, WORK, Case, Inputs, draw
from motfm_jax.benchmark.feed import feed
from motfm_jax.benchmark.ours import largest_batch, ours
from motfm_jax.benchmark.timing import matrix_peak, measure, ratio
from motfm_jax.evaluation.tables import Table
from motfm_jax.interop.torch_weights import to_torch
from motfm_jax.io.environment import environment
from motfm_jax.io.folders import whole_file

ROOT = Path(__file__).parents[1]
LARGEST_TRAINED_ON_CPU = {2: 256, 3: 64}
QUICK = (
    ("unconditional", "forward", 128),
    ("unconditional", "train", 128),
    ("unconditional", "sample", 128),
    ("mask_class", "forward", 128),
    ("mask_class", "sample", 128),
)
FEED = ((2, 256), (3, 96))  # axes and side of the data path's measurements


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="folder to write to")
    add("--quick", action="store_true", help="five cases at 128 x 128")
    add("--cases", default=",".join(WORK), help="of forward, train, sample")
    add("--networks", default="", help=f"of {', '.join(sum(NETWORKS.values(), ()))}")
    add("--sizes", default="", help="sides; default: 128 256 384, volumes 32 64 96")
    add("--batch", nargs="+", default=["1"], help='images a call, or "largest"; default: 1')
    add("--calls", type=int, default=10, help="network calls of a sampling; default: 10")
    add("--pairs", type=int, default=15, help="measurements of each; default: 15")
    add("--without-torch", action="store_true", help="time ours alone")
    asked = parser.parse_args(arguments)
    wrong = [text for text in asked.batch if text != "largest" and not text.isdecimal()]
    if wrong or "0" in asked.batch:
        raise ValueError(f'--batch {" ".join(asked.batch)}: numbers from 1, or "largest"')
    return asked


def chosen(asked: argparse.Namespace) -> Iterator[Case]:
    """The cases asked for; on a CPU without the trainings that take too long there."""
    if asked.quick:
        for network, work, side in QUICK:
            yield Case(network, work, side, 1)
        return
    works = [work for work in asked.cases.split(",") if work]
    networks = [name for name in asked.networks.split(",") if name]
    known = sum(NETWORKS.values(), ())
    for given, choices, flag in ((works, WORK, "--cases"), (networks, known, "--networks")):
        for name in given:
            if name not in choices:
                raise ValueError(f"{flag}={name}: use {', '.join(choices)}")
    sides = [int(side) for side in asked.sizes.split(",") if side]
    on_cpu = jax.devices()[0].platform == "cpu"
    for dims, names in NETWORKS.items():
        for network in names:
            for side in sides or SIZES[dims]:
                for work in works:
                    if on_cpu and work == "train" and side > LARGEST_TRAINED_ON_CPU[dims]:
                        continue
                    if networks and network not in networks:
                        continue
                    for batch in asked.batch:
                        case = Case(network, work, side, 1)
                        yield case._replace(
                            batch=largest_batch(case, asked.calls, ROOT)
                            if batch == "largest"
                            else int(batch)
                        )


def theirs(
    case: Case, inputs: Inputs, params: dict[str, np.ndarray], calls: int
) -> dict[str, Callable[[], Any]]:
    """PyTorch's variants of the same work, by name."""
    sys.path.insert(0, str(ROOT / "tests" / "parity"))  # the networks that tests compare ours with
    import torch
    from live import LIVE
    from torch_original import Original, euler, flow_loss

    on_gpu = torch.cuda.is_available() and jax.devices()[0].platform == "gpu"
    device = "cuda" if on_gpu else "cpu"
    state = {name: torch.from_numpy(value.copy()) for name, value in to_torch(params).items()}
    inner = torch.channels_last if case.dims == 2 else torch.channels_last_3d

    def tensor(array, last=False):
        if array is None:
            return None
        first = np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.ndim > 2 else array
        made = torch.from_numpy(first).to(device)
        return made.to(memory_format=inner) if last and array.ndim > 2 else made

    def variant(last: bool, compiles: bool) -> Callable[[], Any]:
        network = Original(LIVE[case.network].structure)
        network.load_state_dict(state)
        network = network.to(device)
        network = network.to(memory_format=inner) if last else network
        run = torch.compile(network) if compiles else network
        x0, x1, t, mask, label = (tensor(array, last) for array in inputs)
        given = {
            name: value for name, value in (("mask", mask), ("label", label)) if value is not None
        }
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)
        context = torch.autocast(device, dtype=torch.bfloat16, enabled=on_gpu)

        def call():
            if case.work == "train":
                with context:
                    loss = flow_loss(run, torch.randn_like(x1), x1, torch.rand_like(t), **given)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            else:
                with torch.inference_mode(), context:
                    run(x0, t, **given) if case.work == "forward" else euler(
                        run, x0, calls, **given
                    )
            if on_gpu:
                torch.cuda.synchronize()

        return call

    made = {"eager": variant(False, False), "channels last": variant(True, False)}
    return made | ({"compiled": variant(True, True)} if on_gpu else {})


def table(rows: Sequence[dict[str, Any]], peak: float) -> Table:
    """The results as they are shown."""
    shown = []
    for row in rows:
        mine = np.median(row["seconds"]["ours"])
        others = ", ".join(
            f"{1e3 * np.median(values):.0f} {name}"
            for name, values in row["seconds"].items()
            if name != "ours"
        )
        compared = f"{row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f})" if others else None
        shown.append(
            {
                "case": row["case"],
                "ours [ms]": f"{1e3 * mine:.0f}",
                "PyTorch [ms]": others or None,
                "ratio (95%)": compared,
                "GFLOP": f"{row['flop'] / 1e9:.1f}",
                "of peak": f"{row['flop'] / mine / peak:.0%}",
                "GB moved": f"{row['bytes'] / 1e9:.1f}",
                "temporary MB": f"{row['temporary_bytes'] / 1e6:.0f}",
                "trace + compile [s]": f"{row['trace_s']:.1f} + {row['compile_s']:.1f}",
                "both with a cache [s]": f"{row['warm_s']:.1f}",
            }
        )
    return Table(
        f"Matrix products reach {peak / 1e9:.0f} GFLOP/s here.",
        shown,
        {(number, "ratio (95%)") for number, row in enumerate(shown) if row["ratio (95%)"]},
    )


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    if asked.pairs < 2 or asked.calls < 1:
        raise ValueError("--pairs from 2 and --calls from 1 needed")
    if not asked.without_torch:
        try:
            import generative  # noqa: F401
            import torch  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"{error.name} is not installed: pip install -e '.[parity]', or --without-torch"
            ) from error
    cases = list(chosen(asked))
    if not cases:
        raise ValueError("no case is left of those flags; see --help")
    cache = datasets.cache_dir(settings.default())
    feeds = [feed(dims, side, cache) for dims, side in FEED]
    rows, peak = [], matrix_peak()
    with tqdm(cases, unit="case", disable=None) as bar:
        for case in bar:
            bar.set_description(case.name)
            inputs = draw(case)
            mine = ours(case, inputs, asked.calls, ROOT)
            sides = {"ours": mine.call}
            if case.has_original and not asked.without_torch:
                sides |= theirs(case, inputs, mine.params, asked.calls)
            seconds = measure(sides, asked.pairs, bar)
            rows.append(
                {
                    "case": case.name,
                    "calls": asked.calls,
                    "seconds": seconds,
                    **ratio(seconds),
                    **mine.facts,
                }
            )
            write(
                asked.out,
                {"environment": environment(), "matrix_peak": peak, "rows": rows, "feed": feeds},
            )
            del mine, sides
            jax.clear_caches()
    print((asked.out / "benchmark.md").read_text(), end="")


def write(out: Path, report: dict[str, Any]) -> None:
    """benchmark.json and benchmark.md."""
    text = table(report["rows"], report["matrix_peak"]).markdown() + "\n"
    text += "".join(
        f"The data path yields {each['examples_per_second']:.0f} examples a second at "
        f"{each['data']}, in batches of {each['batch']}.\n"
        for each in report["feed"]
    )
    for suffix, content in ((".json", json.dumps(report, indent=2) + "\n"), (".md", text)):
        with whole_file(out / f"benchmark{suffix}") as draft:
            draft.write_text(content)


if __name__ == "__main__":
    cli.run(main)
