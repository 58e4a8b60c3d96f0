"""Echocardiography: the CAMUS data set.

    motfm train --config=camus:cond=mask+class,size=small \
        --config.data.root=CAMUS --workdir=runs/camus

CAMUS is the folder that holds `database_nifti` (or `training`). Arguments after the colon:
method=flow, or the baselines ddpm and spade; cond=none|class|mask|mask+class; size=debug (32 px,
seconds on a CPU), small (64 px, an hour on a CPU) or paper (384 px and the networks of MOTFM: a
GPU).
"""

from motfm_jax import presets
from motfm_jax.settings import default, parse_arguments


def get_config(arguments: str = ""):
    chosen = parse_arguments(arguments, method="flow", cond="mask+class", size="paper")
    config = default()
    config.method, config.cond = chosen["method"], chosen["cond"]
    config.data.source = "camus"
    config.data.fit = "stretch"  # to a square, as MOTFM does; "pad" keeps the aspect ratio
    presets.apply(config, 2, chosen["size"])
    return config
