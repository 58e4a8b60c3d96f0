"""Times our networks beside the PyTorch original's, in turn, with the same weights and inputs.

    .venv/bin/python scripts/benchmark.py --quick --out=benchmark
    .venv/bin/python scripts/benchmark.py --cases=forward,sample --sizes=128,256 --out=benchmark

Needs .venv/bin/pip install -e '.[parity]' for PyTorch and MONAI generative; --without-torch times
ours alone. Every measurement is one call of each after the other, in changing order, until there
are --pairs of them; the ratio is that of the medians (ours over the fastest of PyTorch's variants),
with a bootstrap interval of 95%. benchmark.json and .md hold that, the work (FLOP and bytes as XLA
counts them), the share of the device's own matrix product speed, memory, and compilation times.
"""

import argparse
import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# A thread pool that waits busily would take the other's cores. Read when libraries load.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from motfm_jax import build, cli
from motfm_jax.arrays import Batch, Condition
from motfm_jax.data.records import Facts
from motfm_jax.io.environment import environment
from motfm_jax.io.files import whole_file
from motfm_jax.io.torch_weights import to_torch
from motfm_jax.methods import flow
from motfm_jax.sampling.ode import Solver
from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.state import init_state
from motfm_jax.training.step import make_train_step

ROOT = Path(__file__).parents[1]
WORK = ("forward", "train", "sample")
NETWORKS = {2: ("unconditional", "mask_class"), 3: ("unconditional_3d",)}
SIZES = {2: (128, 256, 384), 3: (32, 64, 96)}
LARGEST_TRAINED_ON_CPU = {2: 256, 3: 64}
QUICK = (
    ("unconditional", "forward", 128), ("unconditional", "train", 128),
    ("unconditional", "sample", 128), ("mask_class", "forward", 128),
    ("mask_class", "sample", 128))  # fmt: skip
CLASSES = 4
SLOW_SECONDS = 20.0  # of one call: fewer pairs from here on
FEW_PAIRS = 3


class Case(NamedTuple):
    """What is timed: work of a network of configs/original/, at a side and a batch."""

    network: str
    work: str
    side: int
    batch: int

    @property
    def dims(self) -> int:
        return 3 if self.network.endswith("_3d") else 2

    @property
    def name(self) -> str:
        return f"{self.network} {self.work} {self.side}^{self.dims} batch {self.batch}"


class Inputs(NamedTuple):
    """numpy, channels last; mask and label are None where the network takes none."""

    x0: np.ndarray
    x1: np.ndarray
    t: np.ndarray
    mask: np.ndarray | None
    label: np.ndarray | None


class Ours(NamedTuple):
    """Our side of a case.

    Attributes:
      call: does the work once and waits for it.
      params: numpy by name, for PyTorch.
      facts: of compilation and program, for the report.
    """

    call: Callable[[], Any]
    params: dict[str, np.ndarray]
    facts: dict[str, float]


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="folder to write to")
    add("--quick", action="store_true", help="five cases at 128 x 128")
    add("--cases", default=",".join(WORK), help="of forward, train, sample")
    add("--networks", default="", help="of unconditional, mask_class, unconditional_3d")
    add("--sizes", default="", help="sides; default: 128 256 384, volumes 32 64 96")
    add("--batch", type=int, nargs="+", default=[1], help="images a call; default: 1")
    add("--calls", type=int, default=10, help="network calls of a sampling; default: 10")
    add("--pairs", type=int, default=15, help="measurements of each; default: 15")
    add("--without-torch", action="store_true", help="time ours alone")
    return parser.parse_args(arguments)


def chosen(asked: argparse.Namespace) -> Iterator[Case]:
    """The cases asked for; on a CPU without the trainings that take too long there."""
    if asked.quick:
        for network, work, side in QUICK:
            yield Case(network, work, side, asked.batch[0])
        return
    works = [work for work in asked.cases.split(",") if work]
    networks = [name for name in asked.networks.split(",") if name]
    known = [name for names in NETWORKS.values() for name in names]
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
                    if not networks or network in networks:
                        for batch in asked.batch:
                            yield Case(network, work, side, batch)


def draw(case: Case) -> Inputs:
    """Inputs of a case."""
    random = np.random.default_rng(0)
    space = (case.batch, *(case.side,) * case.dims, 1)
    conditioned = case.network == "mask_class"
    normal = lambda: random.standard_normal(space, dtype=np.float32)  # noqa: E731
    return Inputs(
        normal(), normal(), random.uniform(size=case.batch).astype(np.float32),
        (random.uniform(size=space) > 0.5).astype(np.float32) if conditioned else None,
        np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, case.batch)]
        if conditioned else None)  # fmt: skip


def ours(case: Case, inputs: Inputs, calls: int) -> Ours:
    """Compiles our side."""
    config = runpy.run_path(str(ROOT / "configs" / "original" / f"{case.network}.py"))[
        "get_config"]()
    config.train.dtype = "bfloat16" if jax.devices()[0].platform == "gpu" else "float32"
    facts = Facts(
        size=inputs.x0.shape[1:-1], channels=1, classes=tuple("abcd"),
        mask_labels=("background", "inside"), intensity=None)  # fmt: skip
    network, init = build.model(config, facts)[:2]
    shapes = jax.eval_shape(init, jax.random.key(0))
    random = np.random.default_rng(1)
    # None is zero, so that no part of the network can be left out.
    params = {name: (random.standard_normal(leaf.shape) * 0.02).astype(np.float32)
              for name, leaf in shapes.items()}  # fmt: skip
    condition = Condition(inputs.mask, inputs.label)

    if case.work == "forward":
        def work(params, x, t, condition):
            return network.apply(params, x, t, network.encode(params, condition), None)

        arguments = (params, inputs.x0, inputs.t, condition)
        compiled, spent = _compiled(jax.jit(work), arguments)
        held = jax.device_put(arguments)
        return Ours(lambda: jax.block_until_ready(compiled(*held)), params, spent)
    if case.work == "sample":
        def work(params, x0, condition):
            return flow.sample(network, params, x0, condition, Solver("euler", calls)).x

        arguments = (params, inputs.x0, condition)
        compiled, spent = _compiled(jax.jit(work), arguments)
        held = jax.device_put(arguments)
        # XLA counts the body of the loop over steps once.
        spent |= {name: calls * spent[name] for name in ("flop", "bytes")}
        return Ours(lambda: jax.block_until_ready(compiled(*held)), params, spent)

    optimizer = make_optimizer("adam", make_schedule(1e-6))

    def loss(params, batch, keys, dropout_key):
        return flow.loss(network, params, batch, condition, keys, dropout_key)

    batch = Batch(inputs.x1, None, None, np.ones(case.batch, bool), np.arange(case.batch))
    state = jax.jit(lambda params: init_state(params, optimizer, 0.0))(params)
    step = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
    key = jax.random.key(0)
    compiled, spent = _compiled(step, (state, batch, key))
    holder = [state]

    def call():
        holder[0], metrics = compiled(holder[0], batch, key)
        jax.block_until_ready(metrics)

    return Ours(call, params, spent)


def _compiled(function: Any, arguments: tuple) -> tuple[Any, dict[str, float]]:
    """The compiled program and what it took: compiled anew, without any cache."""
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        begin = time.perf_counter()
        lowered = function.lower(*arguments)
        traced = time.perf_counter()
        compiled = lowered.compile()
        done = time.perf_counter()
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    return compiled, {
        "trace_s": traced - begin, "compile_s": done - traced, "flop": cost.get("flops", np.nan),
        "bytes": cost.get("bytes accessed", np.nan),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", np.nan)}


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
        given = {name: value for name, value in (("mask", mask), ("label", label))
                 if value is not None}  # fmt: skip
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
                        run, x0, calls, **given)
            if on_gpu:
                torch.cuda.synchronize()

        return call

    made = {"eager": variant(False, False), "channels last": variant(True, False)}
    return made | ({"compiled": variant(True, True)} if on_gpu else {})


def measure(sides: dict[str, Callable[[], Any]], pairs: int, show: tqdm) -> dict[str, list[float]]:
    """Seconds of every side, one call each after the other, in an order drawn anew."""
    random, seconds = np.random.default_rng(0), {name: [] for name in sides}
    longest = 0.0
    for call in sides.values():
        call()  # compiles, allocates, warms caches
        begin = time.perf_counter()
        call()
        longest = max(longest, time.perf_counter() - begin)
    if longest > SLOW_SECONDS:
        pairs = min(pairs, FEW_PAIRS)
    for number in range(pairs):
        for name in random.permutation(list(sides)):
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
        show.set_postfix_str(f"pair {number + 1} of {pairs}")
    return seconds


def ratio(seconds: dict[str, list[float]], draws: int = 2000) -> dict[str, Any]:
    """Ours over the fastest other side, of medians, with its bootstrap interval over pairs."""
    mine = np.array(seconds["ours"])
    others = {name: np.array(values) for name, values in seconds.items() if name != "ours"}
    if not others:
        return {}
    fastest = min(others, key=lambda name: np.median(others[name]))
    rows = np.random.default_rng(0).integers(0, len(mine), (draws, len(mine)))
    spread = np.median(mine[rows], axis=1) / np.median(others[fastest][rows], axis=1)
    low, high = np.quantile(spread, (0.025, 0.975))
    value = np.median(mine) / np.median(others[fastest])
    return {"fastest": fastest, "ratio": float(value), "low": float(low), "high": float(high)}


def matrix_peak() -> float:
    """FLOP/s of a large matrix product in the type that networks compute in."""
    kind = jnp.bfloat16 if jax.devices()[0].platform == "gpu" else jnp.float32
    side = 8192 if kind == jnp.bfloat16 else 2048
    a = jnp.ones((side, side), kind)
    product = jax.jit(lambda a: a @ a).lower(a).compile()
    best = np.inf
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(product(a))
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def table(rows: Sequence[dict[str, Any]], peak: float) -> str:
    """The results as Markdown."""
    lines = [
        f"Matrix products reach {peak / 1e9:.0f} GFLOP/s here.", "",
        "| case | ours [ms] | PyTorch [ms] | fastest | ratio (95%) | GFLOP | of peak | "
        "temporary MB | trace + compile [s] |",
        "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        mine = np.median(row["seconds"]["ours"])
        others = ", ".join(
            f"{1e3 * np.median(values):.0f} {name}"
            for name, values in row["seconds"].items() if name != "ours")
        compared = "n/a"
        if "ratio" in row:
            compared = f"**{row['ratio']:.2f}** ({row['low']:.2f}-{row['high']:.2f})"
        lines.append(
            f"| {row['case']} | {1e3 * mine:.0f} | {others or 'n/a'} | {row.get('fastest', 'n/a')} "
            f"| {compared} | {row['flop'] / 1e9:.1f} | {row['flop'] / mine / peak:.0%} | "
            f"{row['temporary_bytes'] / 1e6:.0f} | {row['trace_s']:.1f} + {row['compile_s']:.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    if asked.pairs < 2 or asked.calls < 1 or min(asked.batch) < 1:
        raise ValueError("--pairs from 2, --calls and --batch from 1 needed")
    cases = list(chosen(asked))
    if not cases:
        raise ValueError("no case is left of those flags; see --help")
    if not asked.without_torch:
        try:
            import generative  # noqa: F401
            import torch  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"{error.name} is not installed: pip install -e '.[parity]', or --without-torch"
            ) from error
    rows, peak = [], matrix_peak()
    with tqdm(cases, unit="case", disable=None) as bar:
        for case in bar:
            bar.set_description(case.name)
            inputs = draw(case)
            mine = ours(case, inputs, asked.calls)
            sides = {"ours": mine.call}
            if not asked.without_torch:
                sides |= theirs(case, inputs, mine.params, asked.calls)
            seconds = measure(sides, asked.pairs, bar)
            rows.append({"case": case.name, "calls": asked.calls, "seconds": seconds,
                         **ratio(seconds), **mine.facts})  # fmt: skip
            report = {"environment": environment(), "matrix_peak": peak, "rows": rows}
            for suffix, text in ((".json", json.dumps(report, indent=2) + "\n"),
                                 (".md", table(rows, peak))):  # fmt: skip
                with whole_file(asked.out / f"benchmark{suffix}") as draft:
                    draft.write_text(text)
            del mine, sides
            jax.clear_caches()
    print((asked.out / "benchmark.md").read_text(), end="")


if __name__ == "__main__":
    cli.run(main)
