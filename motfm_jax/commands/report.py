"""Trains, samples and measures every system the paper compares, and writes its tables and figures.

    motfm report --plan=phantom --out=report
    motfm report --plan=camus --out=report --echo-root=CAMUS --brain-root=Task01_BrainTumour

--plan is a file, or the name of a built-in one (configs/report/). OUT/report/index.html shows all:
tables 1 to 3, figures 2 to 4, times, the search for copies, and every command that was run. The
same call again continues an interrupted one; a stage that is done is not done again. --list prints
the stages and does nothing; --so-far writes the page of the stages that are done, with the rest
marked as not run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.report.page import write_report
from motfm_jax.report.plan import anatomies, read_plan
from motfm_jax.report.stages import carry_out, count_training, is_done, stages


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--plan", required=True, help="a file, or one of configs/report/ by name")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--echo-root", default="", help="of the plan's 2-D data")
    add("--brain-root", default="", help="of the plan's volumes")
    add("--list", action="store_true", help="print the stages and which are done")
    add("--so-far", action="store_true", help="write the page of what is done")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    plan = read_plan(args.plan, {"echo": args.echo_root, "brain": args.brain_root})
    enable_compile_cache()
    counts = {name: count_training(each) for name, each in anatomies(plan).items()}
    todo = stages(plan, args.out, counts["echo"])
    if args.list:
        for stage in todo:
            print(f"{'done' if is_done(args.out, stage) else 'to do'}  {stage.command_line()}")
        return
    if not args.so_far:
        carry_out(args.out, todo)
    done = [stage for stage in todo if is_done(args.out, stage)]
    if not done:
        raise ValueError(f"--so-far: no stage is done in {args.out}; leave the flag out to begin")
    print(f"see {write_report(plan, args.out, done)}")
