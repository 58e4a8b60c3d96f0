"""Parameters in a few long arrays while they are trained, by name everywhere else.

A network has more than a thousand parameters, most of them short. As arrays of their own each
brings a dozen operations of the optimiser into the program and four buffers into every call; joined
they bring a handful in all: the program of the paper's network has 13,000 instructions, where it
had 32,000. What is saved has names, so that no checkpoint depends on this.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from motfm_jax.arrays import Params


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
        self._group = {
            name: f"{name.partition('/')[0]}/{'kernels' if len(shape) > 1 else 'vectors'}"
            for name, shape in self._shapes.items()}
        self._members: dict[str, list[str]] = {}
        for name, group in self._group.items():
            self._members.setdefault(group, []).append(name)
        self._unpack = jax.custom_vjp(self._split)
        # Of each slice autodiff would make an array as long as the whole.
        self._unpack.defvjp(lambda packed: (self._split(packed), None),
                            lambda _, named: (self.pack(named),))  # fmt: skip

    def pack(self, params: Params) -> Params:
        """By name -> long arrays; numpy stays numpy."""
        library = np if all(isinstance(leaf, np.ndarray) for leaf in params.values()) else jax.numpy
        packed = {}
        for key, names in self._members.items():
            joined = library.concatenate([params[name].reshape(-1) for name in names])
            packed[key] = joined[:, None] if key.endswith("kernels") else joined
        return packed

    def unpack(self, packed: Params) -> Params:
        """Long arrays -> by name; of numpy arrays views."""
        numpy = all(isinstance(leaf, np.ndarray) for leaf in packed.values())
        return self._split(packed) if numpy else self._unpack(packed)

    def _split(self, packed: Params) -> Params:
        named = {}
        for key, names in self._members.items():
            flat, start = packed[key].reshape(-1), 0
            for name in names:
                end = start + int(np.prod(self._shapes[name], dtype=int))
                named[name] = flat[start:end].reshape(self._shapes[name])
                start = end
        return {name: named[name] for name in self._shapes}

    def taking(self, function: Callable) -> Callable:
        """(params by name, ...) -> anything, as a function of long arrays."""
        return lambda packed, *others: function(self.unpack(packed), *others)

    def within(self, change: Callable[[Params], Params]) -> Callable[[Params], Params]:
        """A change of parameters by name, as one of long arrays."""
        return lambda packed: self.pack(change(self.unpack(packed)))

    def by_name(self, state: Any) -> Any:
        """A training state with every set of long arrays in it (parameters, their average, the
        optimiser's moments) by name, as it is saved."""

        def named(packed: Any) -> Any:
            if not self._is_packed(packed):
                return packed
            part, arrays = self._trained(packed)
            found = part.unpack(arrays)
            return {name: found[name] if name in found else packed[self._group[name]]
                    for name in self._shapes}  # fmt: skip

        return jax.tree.map(named, state, is_leaf=self._is_packed)

    def by_group(self, state: Any) -> Any:
        """The reverse of `by_name`."""

        def packed(named: Any) -> Any:
            if not self._is_named(named):
                return named
            part, _ = self._trained({key: named[names[0]] for key, names in self._members.items()})
            found = part.pack({name: named[name] for name in part._shapes})
            return {key: found[key] if key in found else named[names[0]]
                    for key, names in self._members.items()}  # fmt: skip

        return jax.tree.map(packed, state, is_leaf=self._is_named)

    def _trained(self, groups: Mapping[str, Any]) -> tuple["Packing", dict[str, Any]]:
        """The groups that hold arrays and their packing: an optimiser marks those it leaves alone
        by something else."""
        arrays = {key: leaf for key, leaf in groups.items() if hasattr(leaf, "shape")}
        return Packing({
            name: jax.ShapeDtypeStruct(shape, np.float32)
            for name, shape in self._shapes.items() if self._group[name] in arrays}), arrays

    def _is_packed(self, tree: Any) -> bool:
        return isinstance(tree, dict) and tree.keys() == self._members.keys()

    def _is_named(self, tree: Any) -> bool:
        return isinstance(tree, dict) and tree.keys() == self._shapes.keys()
