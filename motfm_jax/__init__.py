"""Flow matching for medical image synthesis, in JAX.

    import motfm_jax as motfm

    model = motfm.load("runs/camus")
    samples = model.sample(classes=["2CH_ED"] * 8, steps=10)
    samples.show()

Nothing heavy is imported until it is used.
"""

import importlib
from typing import Any

_PLACES = {
    **dict.fromkeys(("load", "config", "train", "export", "card", "Model"), "library"),
    **dict.fromkeys(("score", "audit", "downstream", "restore"), "assess"),
    "Samples": "sampling.sample",
    "Study": "evaluation.comparison",
    "Record": "data.source",
    "SOURCES": "data",
    "METHODS": "methods",
    "Method": "methods",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'motfm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"motfm_jax.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
