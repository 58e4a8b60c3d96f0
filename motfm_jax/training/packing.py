"""Parameters in a few long arrays while they are trained, by name everywhere else.

A network has more than a thousand parameters, most of them short. As arrays of their own each
brings a dozen operations of the optimiser into the program and four buffers into every call; joined
they bring a handful in all: the program of the paper's network has 13,000 instructions, where it
had 32,000. What is saved has names, so that no checkpoint depends on this.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.arrays import Array, Params


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
        return {group: self._join(group, [params[name] for name in names])
                for group, names in self._members.items()}  # fmt: skip

    def unpack(self, packed: Params) -> Params:
        """Long arrays -> by name."""
        named = {}
        for group in self._members:
            named |= self._split(group, packed[group])
        return {name: named[name] for name in self._shapes}

    def _join(self, group: str, arrays: Sequence[Array]) -> Array:
        library = np if all(isinstance(array, np.ndarray) for array in arrays) else jnp
        joined = library.concatenate([array.reshape(-1) for array in arrays])
        return joined[:, None] if group.endswith("kernels") else joined

    def _split(self, group: str, array: Array) -> Params:
        """Of a numpy array views. The gradient is one concatenation."""
        names = self._members[group]
        sizes = [math.prod(self._shapes[name]) for name in names]
        split = np.split if isinstance(array, np.ndarray) else jnp.split
        parts = split(array.reshape(-1), np.cumsum(sizes[:-1]))
        return {name: part.reshape(self._shapes[name]) for name, part in zip(names, parts)}

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

        def named(tree: Any) -> Any:
            if not _has_keys(tree, self._members):
                return tree
            found = {}
            for group, names in self._members.items():
                found |= (self._split(group, tree[group]) if _is_array(tree[group])
                          else dict.fromkeys(names, tree[group]))  # fmt: skip
            return {name: found[name] for name in self._shapes}

        return jax.tree.map(named, state, is_leaf=lambda tree: _has_keys(tree, self._members))

    def by_group(self, state: Any) -> Any:
        """The reverse of `by_name`."""

        def packed(tree: Any) -> Any:
            if not _has_keys(tree, self._shapes):
                return tree
            return {
                group: self._join(group, [tree[name] for name in names])
                if _is_array(tree[names[0]]) else tree[names[0]]
                for group, names in self._members.items()}

        return jax.tree.map(packed, state, is_leaf=lambda tree: _has_keys(tree, self._shapes))


def _has_keys(tree: Any, keys: Mapping[str, Any]) -> bool:
    return isinstance(tree, dict) and tree.keys() == keys.keys()


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")
