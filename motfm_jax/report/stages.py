"""A plan as commands, each carried out once.

Every stage is a command that a reader can repeat, in a separate process: a long report does not
gather compiled programs, and what kills one stage loses that stage's last minutes at most.
"""

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from motfm_jax import datasets, presets, settings
from motfm_jax.io.folders import read_json, write_json
from motfm_jax.report.plan import (
    SYNTHETIC,
    SYSTEMS,
    Anatomy,
    Cell,
    Plan,
    anatomies,
    cells,
    repeats,
    synthetic,
)

logger = logging.getLogger(__name__)
RESTORE = "restore"  # the stage of denoising's results


class Stage(NamedTuple):
    """One command.

    Attributes:
      name: of the stage, such as "train echo/M-C".
      command: such as "train".
      arguments: of the call.
    """

    name: str
    command: str
    arguments: tuple[str, ...]

    def command_line(self) -> str:
        """The call as a reader would type it, in a shell."""
        return shlex.join(("motfm", self.command, *self.arguments))


def anchor(name: str) -> str:
    """Where the page shows a stage's command."""
    return re.sub(r"[^\w-]+", "-", name)


def of_training(anatomy: str, system: str, repeat: int = 0) -> str:
    """The name of the stage that trains a system."""
    return f"train {anatomy}/{_repeated(system, repeat)}"


def of_sampling(cell: Cell, split: str) -> str:
    """The name of the stage that makes a set."""
    return f"sample {cell.anatomy}_{split}/{cell.name}"


def of_downstream(task: str, depth: int) -> str:
    """The name of the stage that trains table 3's networks of a kind."""
    return f"downstream {task}{depth}"


def _repeated(system: str, repeat: int) -> str:
    return f"{system}_repeat{repeat}" if repeat else system


def run_folder(out: Path, anatomy: str, system: str, repeat: int = 0) -> Path:
    """Where a system's training is."""
    return out / "runs" / anatomy / _repeated(system, repeat)


def sample_folder(out: Path, cell: Cell, split: str) -> Path:
    """Where a generated set is."""
    return out / "samples" / f"{cell.anatomy}_{split}" / cell.name


def sampled(plan: Plan, out: Path, anatomy: str) -> list[Cell]:
    """The generated sets of an anatomy's table that are there."""
    return [
        cell
        for cell in cells(plan, anatomy)
        if (sample_folder(out, cell, plan.reference) / "samples.json").is_file()
    ]


def downstream_folder(out: Path, task: str, depth: int) -> Path:
    """Where table 3's networks of a kind are."""
    return out / "downstream" / f"{task}{depth}"


def count_training(anatomy: Anatomy) -> int:
    """Real training images; decodes all data, so that a missing file is found at the start."""
    config = presets.read_config(f"{anatomy.config}:{anatomy.arguments}")
    config.update_from_flattened_dict(anatomy.settings)
    config.data.root = anatomy.root or config.data.root
    settings.check(config)
    for split in ("valid", "test"):
        datasets.arrays(config, split)
    return len(datasets.arrays(config, "train"))


def stages(plan: Plan, out: Path, num_train: int) -> list[Stage]:
    """Everything to be done before the report can be written, in order.

    Args:
      plan: checked.
      out: folder of the report.
      num_train: real training images of `plan.echo`: as many are generated for table 3.
    """
    listed = []
    for name, anatomy in anatomies(plan).items():
        listed += [
            _training(plan, out, name, system, repeat)
            for system in anatomy.systems
            for repeat in range(repeats(plan, system))
        ]
        listed += [
            _sampling(plan, out, cell, plan.reference, anatomy.num) for cell in cells(plan, name)
        ]
        if name == "echo":
            listed += _downstream(plan, out, num_train)
            listed += _denoising(plan, out) if plan.denoise is not None else []
    return listed


def _fields(values: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"--config.{name}={value}" for name, value in values.items())


def _config(anatomy: Anatomy, arguments: str) -> tuple[str, ...]:
    chosen = ",".join(filter(None, (arguments, anatomy.arguments)))
    root = (f"--config.data.root={anatomy.root}",) if anatomy.root else ()
    return f"--config={anatomy.config}:{chosen}", *root, *_fields(anatomy.settings)


def _training(plan: Plan, out: Path, name: str, system: str, repeat: int) -> Stage:
    anatomy, (method, cond, base, teacher) = anatomies(plan)[name], SYSTEMS[system]
    others = tuple(
        f"--config.train.{role}={run_folder(out, name, other, repeat)}"
        for role, other in (("base", base), ("teacher", teacher))
        if other
    )
    workdir = run_folder(out, name, system, repeat)
    return Stage(
        of_training(name, system, repeat),
        "train",
        (
            *_config(anatomy, f"method={method},cond={cond}"),
            *_fields(anatomy.of_method.get(method, {})),
            f"--config.seed={plan.seed + repeat}",
            *others,
            f"--workdir={workdir}",
            "--resume",
        ),
    )


def _downstream(plan: Plan, out: Path, num_train: int) -> list[Stage]:
    listed = []
    for task in SYNTHETIC if plan.depths else ():
        sets = synthetic(plan, task)
        if not sets:
            continue
        listed += [_sampling(plan, out, cell, "train", num_train) for cell in sets]
        for depth in plan.depths:
            listed.append(
                Stage(
                    of_downstream(task, depth),
                    "downstream",
                    (
                        f"--run={run_folder(out, 'echo', sets[-1].system)}",
                        f"--out={downstream_folder(out, task, depth)}",
                        f"--task={task}",
                        f"--depth={depth}",
                        f"--width={plan.width}",
                        f"--epochs={plan.epochs}",
                        f"--seeds={plan.seeds}",
                        "--synthetic",
                        *(
                            f"{cell.system}({cell.steps})={sample_folder(out, cell, 'train')}"
                            for cell in sets
                        ),
                    ),
                )
            )
    return listed


def _denoising(plan: Plan, out: Path) -> list[Stage]:
    run = run_folder(out, "echo", "denoise")
    return [
        Stage(
            "train echo/denoise",
            "train",
            (
                *_config(plan.echo, "method=flow,cond=none"),
                f"--config.seed={plan.seed}",
                "--config.flow.source=speckle",
                *_fields(plan.denoise),
                f"--workdir={run}",
                "--resume",
            ),
        ),
        Stage(RESTORE, "evaluate", ("restore", f"--run={run}", f"--out={out / 'denoised'}")),
    ]


def _sampling(plan: Plan, out: Path, cell: Cell, split: str, num: int) -> Stage:
    steps = () if SYSTEMS[cell.system].method == "spade" else (f"--steps={cell.steps}",)
    spacing = (f"--spacing={cell.spacing}",) if cell.spacing else ()
    return Stage(
        of_sampling(cell, split),
        "sample",
        (
            f"--run={run_folder(out, cell.anatomy, cell.system, cell.repeat)}",
            f"--num={num}",
            *steps,
            *spacing,
            f"--split={split}",
            f"--seed={plan.seed + cell.repeat}",
            "--no-nifti",
            f"--out={sample_folder(out, cell, split)}",
        ),
    )


def marker(out: Path, stage: Stage) -> Path:
    """The file written when a stage is done."""
    return out / "stages" / (stage.name.replace(" ", "_").replace("/", "_") + ".json")


def is_done(out: Path, stage: Stage) -> bool:
    """Whether the stage was carried out.

    Raises:
      ValueError: it was, by another call.
    """
    path = marker(out, stage)
    if not path.is_file():
        return False
    before = read_json(path)["command"]
    if shlex.split(before) != shlex.split(stage.command_line()):
        raise ValueError(
            f"{path}: this stage is done, by another call:\n  {before}\nnow it would be\n  "
            f"{stage.command_line()}\ngive another --out, or delete that file to do it again"
        )
    return True


def carry_out(out: Path, todo: Sequence[Stage]) -> None:
    """Runs the stages that are not done.

    Args:
      out: folder of the report.
      todo: of `stages`.

    Raises:
      ValueError: a stage that failed, or was done by another call.
    """
    for stage in todo:
        is_done(out, stage)
    for number, stage in enumerate(todo, start=1):
        if is_done(out, stage):
            continue
        logger.info("[%d/%d] %s\n  %s", number, len(todo), stage.name, stage.command_line())
        begin = time.perf_counter()
        code = _call([sys.executable, "-m", "motfm_jax", stage.command, *stage.arguments])
        if code:
            raise ValueError(
                f"stage {stage.name!r} ended with exit code {code}; the same call of the report "
                "continues with it"
            )
        seconds_taken = time.perf_counter() - begin
        write_json(marker(out, stage), {"command": stage.command_line(), "seconds": seconds_taken})


def _call(command: Sequence[str]) -> int:
    """A child process; a signal to stop is passed on, and its own saving waited for."""
    child = subprocess.Popen(command)
    stopped = []

    def stop(number: int, _) -> None:
        stopped.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the child by itself
            child.send_signal(number)

    previous = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = child.wait()
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
    if stopped:
        os.kill(os.getpid(), stopped[0])
    return code


def seconds(out: Path, stage: Stage) -> float:
    """How long a stage that is done took."""
    return read_json(marker(out, stage))["seconds"]
