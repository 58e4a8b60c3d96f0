"""The original's five networks at full width, computed by PyTorch and built from our configs.

Structures and parameter counts are the original's, written down here apart from our configs.
"""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from differences import Case, make_case
from torch_original import Structure, record

from motfm_jax import build
from motfm_jax.data.facts import Facts

CONFIG = Path(__file__).parents[2] / "configs" / "original.py"
IN_2D = dict(
    dims=2,
    channels=(32, 64, 128, 224, 256),
    res_blocks=2,
    norm_groups=32,
    attention=(False, False, False, True, True),
)
CLASS = dict(num_classes=4, transformer_layers=4)
STEPS = 4  # 999 k / 4 is no integer, so that no rounding decides the floored level


class Live(NamedTuple):
    """A network of the original.

    Attributes:
      arguments: of configs/original.py.
      structure: of the network.
      size: of the images compared, a small one.
      parameters: how many numbers the network has.
    """

    arguments: str
    structure: Structure
    size: tuple[int, ...]
    parameters: int


LIVE = {
    "unconditional": Live("cond=none", Structure(**IN_2D), (32, 48), 25_877_601),
    "class": Live("cond=class", Structure(**IN_2D, **CLASS), (48, 32), 71_224_609),
    "mask": Live("cond=mask", Structure(**IN_2D, mask_channels=1), (32, 48), 36_159_457),
    "mask_class": Live(
        "cond=mask+class", Structure(**IN_2D, **CLASS, mask_channels=1), (48, 32), 102_412_833
    ),
    "unconditional_3d": Live(
        "cond=none,dims=3",
        Structure(3, (32, 64, 160, 480), 2, (False, False, False, True), 32),
        (16, 8, 24),
        132_456_929,
    ),
}


def live_model(name: str) -> build.Architecture:
    """Our network of configs/original.py, for data like the original's."""
    config = runpy.run_path(str(CONFIG))["get_config"](LIVE[name].arguments)
    config.train.dtype = "float32"
    facts = Facts(
        size=LIVE[name].size,
        channels=1,
        classes=("a", "b", "c", "d"),
        mask_labels=("background", "inside"),
        intensity=None,
    )
    return build.architecture(config, facts)


def live_case(name: str) -> Case:
    """What PyTorch computes now, and our network with the same weights."""
    live, model = LIVE[name], live_model(name)
    computed = record(live.structure, live.size, seed=0, steps=STEPS)
    return make_case(name, computed, model.network, model.init)


def live_cases() -> Iterator[Case]:
    return map(live_case, LIVE)
