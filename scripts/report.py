"""Trains, samples and measures every system the paper compares, and writes its tables and figures.

    .venv/bin/python scripts/report.py --plan=configs/report/phantom.py --out=report
    .venv/bin/python scripts/report.py --plan=configs/report/camus.py --out=report \
        --echo-root=CAMUS --brain-root=Task01_BrainTumour

OUT/report/index.html shows all: tables 1 to 3, figures 2 to 4, times, the search for copies, and
every command that was run. The same call again goes on where an interrupted one stopped; a stage
that is done is not done again. --list prints the stages and does nothing; --so-far writes the page
of the stages that are done, with the rest marked as not run.
"""

import argparse
import dataclasses
import runpy
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli, datasets, settings
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.report import plan as plans
from motfm_jax.report.page import write_report
from motfm_jax.report.stages import carry_out, is_done, stages


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--plan", required=True, type=Path, help="one of configs/report/")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--echo-root", default="", help="of the plan's 2-D data")
    add("--brain-root", default="", help="of the plan's volumes")
    add("--list", action="store_true", help="print the stages and which are done")
    add("--so-far", action="store_true", help="write the page of what is done")
    return parser.parse_args(arguments)


def read_plan(path: Path, roots: dict[str, str]) -> plans.Plan:
    """The plan of a file, with the folders of its data.

    Raises:
      ValueError: no such file, or one without a plan that can be carried out.
    """
    if not path.is_file():
        raise ValueError(f"--plan={path}: there is no such file; see configs/report/")
    plan = runpy.run_path(str(path)).get("PLAN")
    if not isinstance(plan, plans.Plan):
        raise ValueError(f"--plan={path}: defines no PLAN of motfm_jax.report.plan.Plan")
    for name, root in roots.items():
        if root and name not in plans.anatomies(plan):
            raise ValueError(f"--{name}-root={root}: the plan has no {name}; leave it out")
        if root:
            changed = dataclasses.replace(plans.anatomies(plan)[name], root=root)
            plan = dataclasses.replace(plan, **{name: changed})
    plans.check(plan)
    return plan


def count_training(anatomy: plans.Anatomy) -> int:
    """Real training images; decodes all data, so that a missing file is found at the start."""
    made = runpy.run_path(anatomy.config)["get_config"](anatomy.arguments)
    fields = {**anatomy.settings, "data.root": anatomy.root or made.data.root}
    made.update_from_flattened_dict(fields)
    settings.check(made)
    for split in ("valid", "test"):
        datasets.arrays(made, split)
    return len(datasets.arrays(made, "train"))


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    plan = read_plan(asked.plan, {"echo": asked.echo_root, "brain": asked.brain_root})
    enable_compile_cache()
    counts = {name: count_training(each) for name, each in plans.anatomies(plan).items()}
    todo = stages(plan, asked.out, counts["echo"])
    if asked.list:
        for stage in todo:
            print(f"{'done' if is_done(asked.out, stage) else 'to do'}  {stage.said()}")
        return
    if not asked.so_far:
        carry_out(asked.out, Path(__file__).parent, todo)
    done = [stage for stage in todo if is_done(asked.out, stage)]
    if not done:
        raise ValueError(f"--so-far: no stage is done in {asked.out}; leave the flag out to begin")
    print(f"see {write_report(plan, asked.out, done)}")


if __name__ == "__main__":
    cli.run(main)
