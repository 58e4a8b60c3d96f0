"""Parameters in a few long arrays while they are trained, by name everywhere else.

A network has more than a thousand parameters, most of them short. As arrays of their own each
brings a dozen operations of the optimiser into the program and four buffers into every call; joined
they bring a handful in all. What is saved has names, so that no checkpoint depends on this.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Params


class Packing:
    """How parameters lie in long arrays.

    There is one array for each first part of the names ("unet", "controlnet") and each of kernels
    [N, 1] and vectors [N]: an optimiser that treats any of these differently still can, by name
    and number of axes.

    Args:
      params: name -> array or its shape, float32.
    """

    def __init__(self, params: Mapping[str, Any]):
        self._shapes = {name: tuple(params[name].shape) for name in sorted(params)}
        self._members: dict[str, list[str]] = {}
        for name, shape in self._shapes.items():
            kind = "kernels" if len(shape) > 1 else "vectors"
            self._members.setdefault(f"{name.partition('/')[0]}/{kind}", []).append(name)

    def pack(self, params: Params) -> Params:
        """By name -> long arrays."""
        return {
            group: self._join(group, [params[name] for name in names])
            for group, names in self._members.items()
        }

    def unpack(self, packed: Params) -> Params:
        """Long arrays -> by name; of numpy arrays views."""
        named = {}
        for group in self._members:
            named |= self._split(group, packed[group])
        return {name: named[name] for name in self._shapes}

    def taking(self, function: Callable) -> Callable:
        """(params by name, ...) -> anything, as a function of long arrays."""
        return lambda packed, *others: function(self.unpack(packed), *others)

    def within(self, change: Callable[[Params], Params]) -> Callable[[Params], Params]:
        """A change of parameters by name, as one of long arrays."""
        return lambda packed: self.pack(change(self.unpack(packed)))

    def by_name(self, state: Any) -> Any:
        """A training state with every set of long arrays in it (parameters, their average, the
        optimiser's moments) by name, as it is saved. Where an optimiser leaves a group alone, what
        it has in place of the array stands for each of its names."""
        return _change(state, self._members, self.unpack)

    def by_group(self, state: Any) -> Any:
        """The reverse of `by_name`."""
        return _change(state, self._shapes, self.pack)

    def _join(self, group: str, leaves: Sequence[Any]) -> Any:
        if not _is_array(leaves[0]):
            return leaves[0]
        library = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
        joined = library.concatenate([leaf.reshape(-1) for leaf in leaves])
        return joined[:, None] if group.endswith("kernels") else joined

    def _split(self, group: str, leaf: Any) -> dict[str, Any]:
        """The gradient is one concatenation."""
        names = self._members[group]
        if not _is_array(leaf):
            return dict.fromkeys(names, leaf)
        sizes = [math.prod(self._shapes[name]) for name in names]
        split = np.split if isinstance(leaf, np.ndarray) else jnp.split
        parts = split(leaf.reshape(-1), np.cumsum(sizes[:-1]))
        return {name: part.reshape(self._shapes[name]) for name, part in zip(names, parts)}


def _change(state: Any, keys: Mapping[str, Any], function: Callable[[Any], Any]) -> Any:
    """`function` of each dict with these keys in the state."""
    found = lambda tree: isinstance(tree, dict) and tree.keys() == keys.keys()  # noqa: E731
    return jax.tree.map(lambda tree: function(tree) if found(tree) else tree, state, is_leaf=found)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")
