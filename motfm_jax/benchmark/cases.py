"""What is timed: a network's work on drawn inputs."""

import runpy
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from motfm_jax import presets, settings

WORK = ("forward", "train", "sample")
# Those of the original, beside PyTorch with the same weights, and those of size=paper, alone.
ORIGINAL = {2: ("unconditional", "mask_class"), 3: ("unconditional_3d",)}
PAPER = {2: ("paper_mask_class",), 3: ("paper_3d",)}
NETWORKS = {dims: ORIGINAL[dims] + PAPER[dims] for dims in ORIGINAL}
SIZES = {2: (128, 256, 384), 3: (32, 64, 96)}
CLASSES = 4


class Case(NamedTuple):
    """Work of a network at a side and a batch."""

    network: str
    work: str
    side: int
    batch: int

    @property
    def dims(self) -> int:
        return 3 if self.network.endswith("_3d") else 2

    @property
    def conditioned(self) -> bool:
        return self.network.endswith("mask_class")

    @property
    def has_original(self) -> bool:
        return self.network in ORIGINAL[self.dims]

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


def draw(case: Case) -> Inputs:
    """Inputs of a case."""
    random = np.random.default_rng(0)
    space = (case.batch, *(case.side,) * case.dims, 1)
    x0, x1 = (random.standard_normal(space, dtype=np.float32) for _ in range(2))
    t = random.uniform(size=case.batch).astype(np.float32)
    if not case.conditioned:
        return Inputs(x0, x1, t, None, None)
    mask = (random.uniform(size=space) > 0.5).astype(np.float32)
    label = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, case.batch)]
    return Inputs(x0, x1, t, mask, label)


def config(case: Case, root: Path) -> ConfigDict:
    """The network's config.

    Args:
      case: what is timed.
      root: the project's folder, for configs/original.py.
    """
    if case.has_original:
        cond = "mask+class" if case.conditioned else "none"
        path = root / "configs" / "original.py"
        return runpy.run_path(str(path))["get_config"](f"cond={cond},dims={case.dims}")
    made = settings.default()
    made.cond = "mask+class" if case.conditioned else "none"
    presets.apply(made, case.dims, "paper")
    return made
