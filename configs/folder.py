"""Your own images: a folder of pictures or volumes in almost any format and layout.

    motfm prepare check --layout=folder --root=DIR
    motfm train --config=folder:cond=class,size=small \
        --config.data.root=DIR --workdir=runs/mine

Arguments after the colon: method=flow|ddpm|spade; cond=none|class|mask|mask+class;
size=debug|small|paper; dims=2 (pictures, or volumes in slices: data.slices=axial) or 3 (volumes).
docs/data.md says which layouts there are; `check` says what it finds, and which data.size suits.
"""

from motfm_jax import presets
from motfm_jax.settings import default, parse_arguments


def get_config(arguments: str = ""):
    chosen = parse_arguments(arguments, method="flow", cond="none", size="small", dims="2")
    config = default()
    config.method, config.cond = chosen["method"], chosen["cond"]
    config.data.source = "folder"
    dims = int(chosen["dims"])
    if dims == 3:
        config.data.intensity.mode = "percentile"
        config.data.intensity.scope = "sample"  # MRI has no units: each volume has its own scale
    presets.apply(config, dims, chosen["size"])
    return config
