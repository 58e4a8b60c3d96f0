"""Built-in config files, and the sizes that they offer: debug, small, paper, original."""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

_DEBUG = dict(
    model=dict(
        channels=(16, 32),
        attention=(False, True),
        res_blocks=1,
        norm_groups=8,
        transformer_layers=1,
        head_dim=16,
    ),
    spade=dict(hidden=16, width=16),
    train=dict(
        batch_size=8,
        lr=1e-3,
        steps=20,
        ema=0.9,
        log_every=5,
        eval_every=10,
        sample_every=20,
        save_every=10,
    ),
)
_SMALL = dict(
    model=dict(
        channels=(16, 32, 64),
        attention=(False, False, True),
        res_blocks=1,
        norm_groups=8,
        transformer_layers=1,
    ),
    spade=dict(hidden=32, width=32),
    train=dict(lr=3e-4, ema=0.995, eval_every=200, save_every=200, sample_every=1000),
)

# Keyed by the number of spatial axes. "paper" is the network of MOTFM with heads that cuDNN's
# flash attention takes; its batch of 8 is the original's 1 with 8 accumulated.
_SIZES = {
    2: dict(
        debug=[_DEBUG, dict(data=dict(size=(32, 32)))],
        small=[
            _SMALL,
            dict(
                data=dict(size=(64, 64)),
                flow=dict(shift=0.5),  # docs/results/2026-11-30-ten-calls.md
                train=dict(batch_size=16, epochs=30),
            ),
        ],
        paper=[dict(data=dict(size=(384, 384)), train=dict(epochs=200))],
    ),
    3: dict(
        debug=[_DEBUG, dict(data=dict(size=(16, 16, 16)), train=dict(batch_size=4))],
        small=[_SMALL, dict(data=dict(size=(32, 32, 32)), train=dict(batch_size=4, epochs=60))],
        paper=[
            dict(
                data=dict(size=(96, 96, 96)),
                model=dict(
                    channels=(32, 64, 160, 480),
                    attention=(False, False, False, True),
                    transformer_layers=6,
                    head_dim=96,
                    remat="auto",
                ),
                train=dict(epochs=100),
            )
        ],
    ),
}

# Network, data and training as the PyTorch original has them, for weights that come from there and
# for comparisons. Keyed as above. Its batch of 1 is accumulated 8 times by default.
_ORIGINAL = dict(
    data=dict(source="pickle", mask_encoding="scalar"),
    model=dict(head_dim=0, time="floor"),
    train=dict(batch_size=8, accumulation=8, lr=1e-4, clip=0.0, ema=0.0),
)
_ORIGINAL_SIZES = {
    2: dict(
        data=dict(
            size=(384, 384), intensity=dict(mode="minmax", scope="dataset", range=(0.0, 1.0))
        ),
        model=dict(channels=(32, 64, 128, 224, 256), transformer_layers=4),
        train=dict(epochs=200),
    ),
    3: dict(
        data=dict(
            size=(96, 96, 96), intensity=dict(mode="minmax", scope="sample", range=(-1.0, 1.0))
        ),
        model=dict(
            channels=(32, 64, 160, 480), attention=(False, False, False, True), transformer_layers=6
        ),
        train=dict(epochs=100),
    ),
}


def apply_original(config: ConfigDict, dims: int) -> None:
    """Sets the fields that the original's configs set, in place."""
    config.update(_ORIGINAL)
    config.update(_ORIGINAL_SIZES[dims])


def apply(config: ConfigDict, dims: int, size: str) -> None:
    """Sets the fields of a size, in place.

    Raises:
      ValueError: there is no such size.
    """
    if size not in _SIZES[dims]:
        raise ValueError(f"size={size!r}: use one of {', '.join(_SIZES[dims])}")
    for fields in _SIZES[dims][size]:
        config.update(fields)


def built_in(kind: str = "") -> dict[str, Path]:
    """Config files by name: in the installed package, or beside it in a checkout.

    Args:
      kind: a folder of them: "" for trainings, "report" for plans.
    """
    package = Path(__file__).parent
    for folder in (package / "configs" / kind, package.parent / "configs" / kind):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    return {}


def config_file(text: str, kind: str = "", flag: str = "--config") -> str:
    """FILE.py or FILE.py:ARGUMENTS, where a built-in config may go by its name.

    Raises:
      ValueError: there is no such file, and no built-in config of this name.
    """
    name, colon, arguments = text.partition(":")
    if Path(name).is_file():
        return text
    files = built_in(kind)
    if name in files:
        return f"{files[name]}{colon}{arguments}"
    raise ValueError(
        f"{flag}={text}: there is no file {name}; give one, or a built-in config: "
        f"{', '.join(files)}"
    )


def read_config(text: str) -> ConfigDict:
    """The config of FILE.py:ARGUMENTS or NAME:ARGUMENTS, unlocked; not checked.

    Raises:
      ValueError: see `config_file`; arguments that the file does not take.
    """
    name, _, arguments = config_file(text).partition(":")
    return runpy.run_path(name)["get_config"](arguments)
