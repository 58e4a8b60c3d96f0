"""The simulated scans that come with the library: nothing to download.

    motfm train --config=phantom:cond=mask+class,size=small \
        --workdir=runs/phantom

Arguments after the colon: anatomy=echo (2-D, the default) or brain (3-D);
method=flow, or the baselines ddpm and spade; cond=none|class|mask|mask+class;
size=debug|small|paper.
"""

from motfm_jax import presets
from motfm_jax.settings import default, parse_arguments


def get_config(arguments: str = ""):
    chosen = parse_arguments(
        arguments, method="flow", cond="mask+class", size="small", anatomy="echo"
    )
    dims = {"echo": 2, "brain": 3}.get(chosen["anatomy"])
    if dims is None:
        raise ValueError(f"config argument anatomy={chosen['anatomy']}: use echo or brain")
    config = default()
    config.method, config.cond = chosen["method"], chosen["cond"]
    config.data.source = f"phantom_{chosen['anatomy']}"
    presets.apply(config, dims, chosen["size"])
    return config
