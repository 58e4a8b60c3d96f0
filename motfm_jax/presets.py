"""Sizes of network, image and training that config files offer: debug, small and paper."""

from ml_collections import ConfigDict

_DEBUG = dict(
    model=dict(
        channels=(16, 32), attention=(False, True), res_blocks=1, norm_groups=8,
        transformer_layers=1, head_dim=16),
    train=dict(
        batch_size=8, lr=1e-3, steps=20, ema=0.9,
        log_every=5, eval_every=10, sample_every=20, save_every=10),
)  # fmt: skip
_SMALL = dict(
    model=dict(
        channels=(16, 32, 64), attention=(False, False, True), res_blocks=1, norm_groups=8,
        transformer_layers=1),
    train=dict(lr=3e-4, ema=0.995, eval_every=200, save_every=200, sample_every=1000),
)

# Keyed by the number of spatial axes. "paper" is the network of MOTFM with heads that cuDNN's
# flash attention takes; its batch of 8 is the original's 1 with 8 accumulated.
_SIZES = {
    2: dict(
        debug=[_DEBUG, dict(data=dict(size=(32, 32)))],
        small=[_SMALL, dict(
            data=dict(size=(64, 64)), train=dict(batch_size=16, epochs=30))],
        paper=[dict(data=dict(size=(384, 384)), train=dict(epochs=200))],
    ),
    3: dict(
        debug=[_DEBUG, dict(data=dict(size=(16, 16, 16)), train=dict(batch_size=4))],
        small=[_SMALL, dict(
            data=dict(size=(32, 32, 32)), train=dict(batch_size=4, epochs=60))],
        paper=[dict(
            data=dict(size=(96, 96, 96)),
            model=dict(
                channels=(32, 64, 160, 480), attention=(False, False, False, True),
                transformer_layers=6, head_dim=96, remat=True),
            train=dict(epochs=100))],
    ),
}  # fmt: skip


def apply(config: ConfigDict, dims: int, size: str) -> None:
    """Sets the fields of a size, in place."""
    for fields in _SIZES[dims][size]:
        config.update(fields)
