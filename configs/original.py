"""The PyTorch original's networks, data scaling and training settings.

    motfm train --config=original:cond=mask+class --config.data.root=dataset.pkl \
        --workdir=runs/original

The five settings of the original, with the parameters of their networks:

    mask and class (its default)    --config=original:cond=mask+class     102,412,833
    mask                            --config=original:cond=mask            36,159,457
    class                           --config=original:cond=class           71,224,609
    unconditional                   --config=original:cond=none            25,877,601
    unconditional, 3-D              --config=original:cond=none,dims=3    132,456,929

config.data.root is a file in the original's layout. Attention has a single head, times are rounded
down to multiples of 1/999, and masks are one scaled channel. Images are scaled to [0, 1] by the
training split in 2-D, and each to [-1, 1] in 3-D. Training is Adam at 1e-4, a batch of 1
accumulated 8 times, without a moving average.
"""

from motfm_jax import presets
from motfm_jax.settings import default, parse_arguments


def get_config(arguments: str = ""):
    chosen = parse_arguments(arguments, cond="mask+class", dims="2")
    config = default()
    config.cond = chosen["cond"]
    presets.apply_original(config, int(chosen["dims"]))
    return config
