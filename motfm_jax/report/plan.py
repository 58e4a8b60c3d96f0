"""The plan of a report: the systems of the paper's tables, with their sizes."""

import dataclasses
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from motfm_jax import presets

SPLITS = ("valid", "test")
SPACINGS = ("leading", "trailing")


class System(NamedTuple):
    """A row of the paper's tables.

    Attributes:
      method, cond: arguments of a config file.
      base: the system whose UNet it keeps (ControlNet proper); "" for none.
      teacher: the flow that a flow map starts from; "" for none.
    """

    method: str
    cond: str
    base: str = ""
    teacher: str = ""


# As table 1 names them: D diffusion, M flow matching (MOTFM), SD-M ControlNet; C class, M mask.
# Not of the paper: F, the flow map of M.
SYSTEMS = {
    "D": System("ddpm", "none"),
    "M": System("flow", "none"),
    "D-C": System("ddpm", "class"),
    "M-C": System("flow", "class"),
    "SPADE": System("spade", "mask"),
    "D-M": System("ddpm", "mask"),
    "SD-M": System("ddpm", "mask", base="D"),
    "M-M": System("flow", "mask"),
    "D-CM": System("ddpm", "mask+class"),
    "M-CM": System("flow", "mask+class"),
    "F": System("flow_map", "none", teacher="M"),
    "F-C": System("flow_map", "class", teacher="M-C"),
    "F-M": System("flow_map", "mask", teacher="M-M"),
    "F-CM": System("flow_map", "mask+class", teacher="M-CM"),
}
# What table 3 trains downstream networks on: task -> (system, calls). Not of the paper: F.
SYNTHETIC = {
    "classify": (("D-C", 50), ("M-C", 10), ("F-C", 1)),
    "segment": (("D-M", 50), ("M-M", 10), ("F-M", 1)),
}


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Images of one kind and the systems compared on them.

    Attributes:
      config: config file, or the name of a built-in one, such as "camus".
      arguments: after its colon, beside method and cond, such as "size=small".
      root: of the data; "" where the config file needs none.
      settings: fields that every training changes, such as {"train.steps": 1000}.
      of_method: those that trainings of one method change too, by method.
      systems: names of SYSTEMS.
      num: images a cell of the tables.
    """

    config: str
    arguments: str = "size=paper"
    root: str = ""
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    of_method: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)
    systems: tuple[str, ...] = tuple(SYSTEMS)
    num: int = 2000


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything a report does.

    Attributes:
      title: of the page.
      echo: 2-D images with masks and classes, for tables 1 and 3 and the denoising.
      brain: volumes, for table 2; None for none.
      steps: network calls of a flow and steps of DDIM.
      spacings: DDIM's choices of levels, each a row of its own; see `methods.diffusion.DDIM`.
      reference: split that scores compare with, and that masks and classes come from.
      depths: of the downstream ResNets; () for no table 3.
      width: of their first stage.
      epochs, seeds: of the downstream networks.
      denoise: settings of the denoising run beside those of `echo`; None for no denoising.
      notes: what a reader must know of this plan.
      seed: of trainings and noise.
      repeats: trainings of each flow and flow map, of seeds `seed`, `seed` + 1, ...: the tables
        show mean and standard deviation. Table 3 and the figures are of the first.
    """

    title: str
    echo: Anatomy
    brain: Anatomy | None = None
    steps: tuple[int, ...] = (1, 10, 50)
    spacings: tuple[str, ...] = SPACINGS
    reference: str = "test"
    depths: tuple[int, ...] = (18, 50)
    width: int = 64
    epochs: int = 50
    seeds: int = 3
    denoise: Mapping[str, object] | None = dataclasses.field(default_factory=dict)
    notes: str = ""
    seed: int = 0
    repeats: int = 1


class Cell(NamedTuple):
    """One generated set.

    Attributes:
      anatomy: "echo" or "brain".
      system: of SYSTEMS.
      steps: requested; a generator makes one.
      spacing: of a diffusion, else "".
      repeat: which training of the system, from 0.
    """

    anatomy: str
    system: str
    steps: int
    spacing: str = ""
    repeat: int = 0

    @property
    def name(self) -> str:
        again = f"repeat{self.repeat}" if self.repeat else ""
        return "_".join(filter(None, (self.system, str(self.steps), self.spacing, again)))


def check(plan: Plan) -> None:
    """Raises ValueError for a plan that cannot be carried out."""
    for name, anatomy in anatomies(plan).items():
        unknown = [system for system in anatomy.systems if system not in SYSTEMS]
        if unknown:
            raise ValueError(f"plan: {name}.systems has {unknown[0]!r}; use {', '.join(SYSTEMS)}")
        for system in anatomy.systems:
            before = SYSTEMS[system].base or SYSTEMS[system].teacher
            if before and before not in anatomy.systems:
                raise ValueError(f"plan: {name}.systems has {system!r}, which needs {before!r} too")
        methods = sorted({system.method for system in SYSTEMS.values()})
        unknown = [method for method in anatomy.of_method if method not in methods]
        if unknown:
            raise ValueError(f"plan: {name}.of_method has {unknown[0]!r}; use {', '.join(methods)}")
        if anatomy.num < 2:
            raise ValueError(f"plan: {name}.num={anatomy.num}: two images or more needed")
        presets.config_file(anatomy.config, flag=f"plan: {name}.config")
    if plan.reference not in SPLITS:
        raise ValueError(f"plan: reference={plan.reference!r}: use {' or '.join(SPLITS)}")
    if not plan.steps or min(plan.steps) < 1:
        raise ValueError(f"plan: steps={plan.steps}: whole numbers from 1 needed")
    if not plan.spacings or set(plan.spacings) - set(SPACINGS):
        raise ValueError(f"plan: spacings={plan.spacings}: use {' or '.join(SPACINGS)}")
    if plan.repeats < 1:
        raise ValueError(f"plan: repeats={plan.repeats}: at least 1 needed")
    if set(plan.depths) - {18, 50}:
        raise ValueError(f"plan: depths={plan.depths}: use 18 or 50")


def anatomies(plan: Plan) -> dict[str, Anatomy]:
    """Those the plan has."""
    both = {"echo": plan.echo, "brain": plan.brain}
    return {name: anatomy for name, anatomy in both.items() if anatomy}


def cells(plan: Plan, anatomy: str) -> list[Cell]:
    """The generated sets of an anatomy's table, row by row."""
    listed = []
    for system in anatomies(plan)[anatomy].systems:
        method = SYSTEMS[system].method
        steps = (1,) if method == "spade" else plan.steps
        listed += [
            Cell(anatomy, system, count, spacing, repeat)
            for repeat in range(repeats(plan, system))
            for spacing in (plan.spacings if method == "ddpm" else ("",))
            for count in steps
        ]
    return listed


def repeats(plan: Plan, system: str) -> int:
    """How often a system is trained."""
    return plan.repeats if SYSTEMS[system].method in ("flow", "flow_map") else 1


def synthetic(plan: Plan, task: str) -> list[Cell]:
    """The generated sets that a task's networks are trained on, of the systems the plan has."""
    return [
        Cell("echo", system, steps, plan.spacings[-1] if SYSTEMS[system].method == "ddpm" else "")
        for system, steps in SYNTHETIC[task]
        if system in plan.echo.systems
    ]


def read_plan(text: str, roots: Mapping[str, str]) -> Plan:
    """The plan of a file or of a built-in one, with the folders of its data.

    Raises:
      ValueError: no such file, or one without a plan that can be carried out.
    """
    path = Path(presets.config_file(text, "report", "--plan"))
    plan = runpy.run_path(str(path)).get("PLAN")
    if not isinstance(plan, Plan):
        raise ValueError(f"--plan={path}: defines no PLAN of motfm_jax.report.plan.Plan")
    for name, root in roots.items():
        if root and name not in anatomies(plan):
            raise ValueError(f"--{name}-root={root}: the plan has no {name}; leave it out")
        if root:
            changed = dataclasses.replace(anatomies(plan)[name], root=root)
            plan = dataclasses.replace(plan, **{name: changed})
    check(plan)
    return plan
