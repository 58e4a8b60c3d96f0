"""The PyTorch original's unconditional 3-D network: 132,456,929 parameters.

    .venv/bin/python scripts/train.py --config=configs/original/unconditional_3d.py \
        --config.data.root=dataset.pkl --workdir=runs/original_unconditional_3d

Single attention heads, floored time, each volume scaled to [-1, 1], as the original has them.
`--config.data.root` is a file in the original's layout. Training follows its defaults: Adam at
1e-4, a batch of 1 accumulated 8 times, no moving average.
"""

from motfm_jax import presets
from motfm_jax.settings import default


def get_config():
    config = default()
    presets.apply_original(config, 3)
    return config
