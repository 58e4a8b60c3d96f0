"""Weights of a trained network for another one of its kind, whose data have other channels, mask
labels or classes.

Parameters of the same name and shape are taken. Some axes count what the data have; of these, the
entries of the same name are taken. The rest begins anew.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Params
from motfm_jax.nn.control import attach

# Parameter, its axis, and what stands along it, one after the other.
_AXES = (
    (r"encoder/conv_in/kernel", -2, ("image", "label")),
    (r"unet/conv_out/(kernel|bias)", -1, ("image", "label")),
    (r"mask_embedding/conv_in/kernel", -2, ("mask",)),
    (r"attn2/to_[kv]/kernel", -2, ("class",)),
    (r"generator/conv_in/kernel", -2, ("noise", "mask", "class")),
    (r"generator/conv_out/(kernel|bias)", -1, ("image",)),
    (r"shared/kernel", -2, ("mask", "class")),
    (r"discriminator/\d+/conv_in/kernel", -2, ("image", "mask", "class")),
)

# Of "image" channels, "label" channels made with them, "mask" channels and classes ("class").
Names = Mapping[str, tuple[str, ...]]


class Inherited(NamedTuple):
    """What a network has from another.

    Attributes:
      params: by name, as numpy arrays.
      names: of its parameters that are "taken", "in_part" and "anew", and of the other's that are
        "left" since it has no use for them.
    """

    params: dict[str, np.ndarray]
    names: dict[str, list[str]]


def inherit(parent: Params, fresh: Params, theirs: Names, ours: Names) -> Inherited:
    """The fresh parameters with what can be taken of a trained network.

    A mask UNet that the trained network lacks starts as a copy of the UNet's encoder.

    Args:
      parent: trained parameters.
      fresh: of the new network's `init`.
      theirs, ours: what the axes of the data mean in both.
    """
    params, taken, in_part, anew = {}, [], [], []
    for name, leaf in fresh.items():
        params[name], share = _merged(name, parent.get(name), np.array(leaf), theirs, ours)
        (taken if share == 1 else in_part if share else anew).append(name)
    if not any(name.startswith("controlnet/") for name in parent):
        params = {name: np.asarray(leaf) for name, leaf in attach(params, {}).items()}
        copied = [name for name in anew if name.startswith("controlnet/encoder/")]
        taken += copied
        anew = [name for name in anew if name not in copied]
    left = [name for name in parent if name not in fresh]
    names = {"taken": taken, "in_part": in_part, "anew": anew, "left": left}
    return Inherited(params, names)


def _merged(
    name: str, old: Any, new: np.ndarray, theirs: Names, ours: Names
) -> tuple[np.ndarray, float]:
    """A parameter, and the share of it that was taken."""
    if old is None:
        return new, 0
    axis, kinds = next(
        ((axis, kinds) for pattern, axis, kinds in _AXES if re.search(f"{pattern}$", name)),
        (0, ()),
    )
    if not kinds:
        return (np.asarray(old), 1) if old.shape == new.shape else (new, 0)
    there, here = (
        _entries(kinds, names, leaf.shape[axis]) for names, leaf in ((theirs, old), (ours, new))
    )
    old, merged = np.moveaxis(np.asarray(old), axis, 0), np.moveaxis(new, axis, 0)
    if old.shape[1:] != merged.shape[1:]:
        return new, 0
    shared = [entry for entry in here if entry in there]
    for entry in shared:
        merged[here.index(entry)] = old[there.index(entry)]
    return new, len(shared) / len(here)


def _entries(kinds: tuple[str, ...], names: Names, length: int) -> list[tuple[str, str]]:
    """What stands along an axis of this length; the noise of a generator fills what is left."""
    listed = [(kind, name) for kind in kinds for name in names.get(kind, ())]
    noise = [("noise", str(number)) for number in range(length - len(listed))]
    return noise + listed
