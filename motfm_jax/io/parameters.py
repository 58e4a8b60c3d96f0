"""Compares parameters of a file with those of a network."""

import re
from collections.abc import Mapping
from typing import Any


def shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """name -> shape, of arrays or of what has a shape."""
    return {name: tuple(leaf.shape) for name, leaf in tree.items()}


def check_parameters(saved: Mapping[str, Any], needed: Mapping[str, Any], where: str) -> None:
    """Compares parameters, name -> array or shape, by name and shape.

    Raises:
      ValueError: names `where` and the first ten that are missing, extra, or of another shape.
    """
    saved, needed = shapes(saved), shapes(needed)
    problems = [f"{name} missing" for name in needed if name not in saved]
    problems += [f"{name} extra" for name in saved if name not in needed]
    problems += [
        f"{name} is {saved[name]}, needs {shape}"
        for name, shape in needed.items()
        if saved.get(name, shape) != shape
    ]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"{where}: a checkpoint of another architecture ({len(problems)} differences "
            f"from the {len(needed)} parameters needed): {'; '.join(problems[:10])}{more}; use "
            "the config it was trained with"
        )


def renumbered(saved: Mapping[str, Any], needed: Mapping[str, Any]) -> dict[str, Any]:
    """What is saved under the names needed, where the chain of an optimiser had clipping before its
    rule and has none now, or the reverse: its parts count from another number."""

    def key(name: str) -> str:
        return re.sub(r"^(opt_state|opt_state/.*/inner_state)/\d+/", r"\1/", name)

    names = {key(name): name for name in needed}
    return {names.get(key(name), name): leaf for name, leaf in saved.items()}
