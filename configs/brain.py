"""Brain MRI in 3-D: any folder in the layout of the Medical Segmentation Decathlon.

    motfm train --config=brain:cond=none,size=small \
        --config.data.root=Task01_BrainTumour --config.data.channel=T1w --workdir=runs/brain

Arguments after the colon: method=flow|ddpm|spade; cond=none|mask (such a folder has no classes);
size=debug (16 voxels a side), small (32) or paper (96 and the 3-D network of MOTFM: a GPU). The
channel is named as in `modality` of dataset.json, and can be left out where there is one; several
become the channels of one image: T1w,FLAIR. Volumes are brought to RAS axes.
"""

from motfm_jax import presets
from motfm_jax.settings import default, parse_arguments


def get_config(arguments: str = ""):
    chosen = parse_arguments(arguments, method="flow", cond="none", size="paper")
    config = default()
    config.method, config.cond = chosen["method"], chosen["cond"]
    config.data.source = "decathlon"
    config.data.crop_foreground = True
    config.data.intensity.mode = "percentile"
    config.data.intensity.scope = "sample"  # MRI has no units: each volume has its own scale
    presets.apply(config, 3, chosen["size"])
    return config
