"""Measures everything on a new kind of card, step by step, and writes one page.

    bash scripts/gpu_first_run.sh --out=first_run

Each step is a process of its own: the GPU tests; memory (XLA's plan beside what was allocated) and
time of sampling and training, with the layout of volumes, rematerialisation and casts on and off;
ours beside PyTorch; a short training with its picture. OUT/page.md and results.json hold all, OUT/
NAME.log what a step printed. A step that has no time left waits for the next call, which does not
repeat what is done. --rehearse takes tiny sizes and any device: it shows that every step runs.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))

from motfm_jax import cli
from motfm_jax.io import xla_flags
from motfm_jax.io.folders import read_json, whole_file, write_json

ROOT = Path(__file__).parents[1]
CALLS, TIMED = 10, 12  # network calls of a sampling; measurements of a program
DONE = (0, 5)  # exit codes; pytest's 5: all were skipped
# Pools of their own would hide what a program allocates.
MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Step(NamedTuple):
    """A process.

    Attributes:
      name: of its files.
      seconds: that it may take.
      command: its arguments, the interpreter first.
      variables: of its environment, beside ours.
    """

    name: str
    seconds: int
    command: tuple[str, ...]
    variables: Mapping[str, str] = {}


def steps(out: Path, rehearse: bool) -> list[Step]:
    """All of them, the most telling first."""
    channels_first = {"XLA_FLAGS": f"--{xla_flags.FLAG}=false"}
    return [
        Step("tests", 90, (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n0")),
        case("camus_sample-1", 60, rehearse),
        case("camus_train-8", 90, rehearse),
        case("brain_sample-1", 60, rehearse),
        case("brain_train-4", 90, rehearse),
        case("brain_train-4-channels_first", 90, rehearse)._replace(
            variables=MEMORY | channels_first
        ),
        case("brain_train-4-norms", 90, rehearse, "--remat=norms"),
        case("brain_train-4-blocks", 90, rehearse, "--remat=blocks"),
        case("camus_sample-1-casts_each_call", 60, rehearse, "--casts-each-call"),
        case("camus_sample-32", 60, rehearse),
        case("brain_sample-8", 60, rehearse),
        *training(out, rehearse),
        beside_torch("mask_class", 32 if rehearse else 384, out, rehearse),
        beside_torch("unconditional_3d", 8 if rehearse else 96, out, rehearse),
    ]


def case(name: str, seconds: int, rehearse: bool, *options: str) -> Step:
    """A step that measures one of our programs, see `measure`.

    Args:
      name: NETWORK_WORK-BATCH, and what is special.
      seconds: that it may take.
      rehearse: with a tiny network.
      options: of `measure`.
    """
    program, batch, *_ = name.split("-")
    tiny = ("--rehearse",) if rehearse else ()
    script = (sys.executable, str(Path(__file__)), f"--measure={program}", f"--batch={batch}")
    return Step(name, seconds, (*script, *options, *tiny), MEMORY)


def training(out: Path, rehearse: bool) -> list[Step]:
    """A short training, on CAMUS where $MOTFM_DATA has it, and its samples."""
    motfm = (sys.executable, "-m", "motfm_jax")
    size, updates = ("debug", 4) if rehearse else ("small", 1500)
    data = Path(os.environ.get("MOTFM_DATA", "")) / "camus"
    source = (f"--config=phantom:cond=mask+class,size={size}",)
    if data.is_dir():
        source = (f"--config=camus:cond=mask+class,size={size}", f"--config.data.root={data}")
    recipe = (f"--config.train.steps={updates}", "--config.train.lr=1e-3")
    recipe += ("--config.train.schedule=cosine", f"--workdir={out / 'run'}", "--resume")
    sampling = (f"--run={out / 'run'}", "--num=16", "--steps=10", f"--out={out / 'samples'}")
    return [
        Step("train", 180, (*motfm, "train", *source, *recipe)),
        Step("sample", 60, (*motfm, "sample", *sampling, "--overwrite")),
    ]


def beside_torch(network: str, side: int, out: Path, rehearse: bool) -> Step:
    """A step of scripts/benchmark.py; of ours alone where PyTorch is not installed."""
    torch = all(importlib.util.find_spec(name) for name in ("torch", "generative"))
    options = [f"--networks={network}", f"--sizes={side}", f"--out={out / network}"]
    options += ["--pairs=2", "--cases=forward"] if rehearse else ["--pairs=8"]
    options += [] if torch else ["--without-torch"]
    return Step(network, 120, (sys.executable, "scripts/benchmark.py", *options))


def carry_out(step: Step, out: Path, left: float) -> dict[str, Any]:
    """Runs a step; its last line of output is kept, as JSON where it is that."""
    begin = time.perf_counter()
    with open(out / f"{step.name}.log", "w") as log:
        child = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=os.environ | dict(step.variables),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            code = child.wait(timeout=left)
        except subprocess.TimeoutExpired:
            child.terminate()  # a training saves before it ends
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            code = None
    lines = (out / f"{step.name}.log").read_text().strip().splitlines() or [""]
    try:
        said = json.loads(lines[-1])
    except ValueError:
        said = lines[-1][:200]
    return {"code": code, "seconds": time.perf_counter() - begin, "result": said}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Memory and time of one program: plan and peak [bytes], milliseconds a call."""
    import jax
    from programs import Case, call_of, draw
    from programs import program as build_program

    from motfm_jax.training.memory import needed

    name, work = args.measure.split("_")
    network = {"camus": "paper_mask_class", "brain": "paper_3d"}[name]
    changes: dict[str, Any] = {"model.remat": args.remat}
    side = {"camus": 384, "brain": 96}[name]
    if args.rehearse:
        side = 16
        changes |= {"model.channels": (8, 16), "model.attention": (False, True)}
        changes |= {"model.head_dim": 8, "model.norm_groups": 4, "model.res_blocks": 1}
        changes |= {"model.transformer_layers": 1}
    case = Case(network, work, side, args.batch, tuple(changes.items()), not args.casts_each_call)
    ours = build_program(case, draw(case), CALLS)
    begin = time.perf_counter()
    function = ours.function.lower(*ours.arguments).compile()
    compile_s = time.perf_counter() - begin
    call, times = call_of(case, function, ours.arguments), []
    for _ in range(2 if args.rehearse else TIMED):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "plan_bytes": needed(function),
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "ms": statistics.median(times[1:]),
        "ms_lowest": min(times),
        "compile_s": compile_s,
    }


def page(out: Path, results: Mapping[str, Any]) -> None:
    """OUT/page.md: one table of programs, and what the other steps said."""
    lines = ["# A first run on this card", "", "```json"]
    lines += [json.dumps(results["environment"], indent=2), "```", ""]
    lines += ["| program | plan, GB | peak, GB | ms | compile, s |", "|---|--:|--:|--:|--:|"]
    done = results["steps"]
    for name, each in done.items():
        if isinstance(each["result"], dict) and "plan_bytes" in each["result"]:
            found = each["result"]
            peak = found["peak_bytes"]
            lines.append(
                f"| {name} | {found['plan_bytes'] / 1e9:.2f} | "
                f"{'n/a' if peak is None else f'{peak / 1e9:.2f}'} | {found['ms']:.1f} | "
                f"{found['compile_s']:.0f} |"
            )
    lines += ["", "| step | exit code | seconds | last line |", "|---|---|--:|---|"]
    for name, each in done.items():
        said = "measured" if isinstance(each["result"], dict) else each["result"]
        lines.append(
            f"| {name} | {'no time left' if each['code'] is None else each['code']} | "
            f"{each['seconds']:.0f} | {str(said).replace('|', '/')} |"
        )
    for beside in sorted(out.glob("*/benchmark.md")):
        lines += ["", f"## Beside PyTorch: {beside.parent.name}", "", beside.read_text()]
    if (out / "samples" / "grid.png").is_file():
        lines += ["", "![Samples of the short training](samples/grid.png)"]
    with whole_file(out / "page.md") as draft:
        draft.write_text("\n".join(lines) + "\n")


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, help="folder to write to")
    add("--rehearse", action="store_true", help="tiny sizes, on any device")
    add("--minutes", type=float, default=9.0, help="to be done in; default: 9")
    add("--spent", type=float, default=0.0, help="seconds of them that setting up took")
    add("--measure", help=argparse.SUPPRESS)  # what the steps call
    add("--batch", type=int, help=argparse.SUPPRESS)
    add("--remat", default="none", help=argparse.SUPPRESS)
    add("--casts-each-call", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    if args.measure:
        print(json.dumps(measure(args)))
        return
    if not args.out:
        raise ValueError("--out=FOLDER is needed, to write to")
    end = time.monotonic() + 60 * args.minutes - args.spent
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    results = read_json(path) if path.is_file() else {"environment": about(), "steps": {}}
    for step in steps(out, args.rehearse):
        before = results["steps"].get(step.name, {"code": None})
        if before["code"] in DONE:
            continue
        left = end - time.monotonic()
        if left < step.seconds / 3:
            print(f"{step.name}: left for the next call, {left:.0f} s remain")
            continue
        print(f"{step.name} ...", flush=True)
        results["steps"][step.name] = found = carry_out(step, out, min(left, step.seconds))
        print(
            f"  exit code {found['code']}, {found['seconds']:.0f} s: {found['result']}", flush=True
        )
        write_json(path, results)
        page(out, results)
    failed = [name for name, each in results["steps"].items() if each["code"] not in DONE]
    print(f"see {out / 'page.md'}" + f"; not done: {', '.join(failed)}" * bool(failed))


def about() -> dict[str, Any]:
    """The environment, asked in a process of its own: this one must not hold the card's memory."""
    code = (
        "import json; from motfm_jax.io.environment import environment as e; print(json.dumps(e()))"
    )
    asked = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return json.loads(asked.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    cli.run(main)
