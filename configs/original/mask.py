"""The PyTorch original's mask-conditional 2-D network: 36,159,457 parameters.

    .venv/bin/python scripts/train.py --config=configs/original/mask.py \
        --config.data.root=dataset.pkl --workdir=runs/original_mask

Single attention heads, floored time, images scaled to [0, 1] by the training split, masks as one
scaled channel. `--config.data.root` is a file in the original's layout. Training follows its
defaults: Adam at 1e-4, a batch of 1 accumulated 8 times, no moving average.
"""

from motfm_jax import presets
from motfm_jax.settings import default


def get_config():
    config = default()
    config.cond = "mask"
    presets.apply_original(config, 2)
    return config
