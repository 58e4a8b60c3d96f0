"""Everything a training step carries from one update to the next.

A network has more than a thousand parameters, most of them short. As separate arrays each brings a
dozen operations of the optimiser into the program and four buffers into every call; joined into a
few long arrays they compile and run faster. Only this file and the step know: losses, checkpoints
and samplers see parameters by name.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from motfm_jax.core import Array, Params

Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # (name, shape) of each parameter, sorted


@functools.partial(jax.tree_util.register_dataclass, data_fields=["groups"], meta_fields=["shapes"])
@dataclasses.dataclass(frozen=True)
class Packed:
    """Parameters joined into long arrays; a pytree, so that optimisers see the long arrays.

    Attributes:
      groups: one array for each first part of the names ("unet", "controlnet") and each of kernels
        [N, 1] and vectors [N]. An optimiser can still tell these apart, by name and number of axes.
      shapes: of the parameters.
    """

    groups: dict[str, Any]
    shapes: Shapes

    def named(self) -> dict[str, Any]:
        """The parameters by name; views if the long arrays are numpy's."""
        named = {}
        for group, members in _members(self.shapes).items():
            named |= _split(self.groups[group], members)
        return {name: named[name] for name, _ in self.shapes}


def pack(params: Mapping[str, Any]) -> Packed:
    """Parameters by name -> long arrays."""
    shapes = tuple((name, tuple(params[name].shape)) for name in sorted(params))
    return _join(params, shapes)


def _join(params: Mapping[str, Any], shapes: Shapes) -> Packed:
    groups = {}
    for group, members in _members(shapes).items():
        leaves = [params[name] for name, _ in members]
        if not _is_array(leaves[0]):  # an optimiser keeps nothing for frozen parameters
            groups[group] = leaves[0]
            continue
        library = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
        joined = library.concatenate([leaf.reshape(-1) for leaf in leaves])
        groups[group] = joined[:, None] if group.endswith("kernels") else joined
    return Packed(groups, shapes)


def _split(leaf: Any, members: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """Parts of a long array by name. The gradient is one concatenation."""
    if not _is_array(leaf):
        return {name: leaf for name, _ in members}
    ends = np.cumsum([math.prod(shape) for _, shape in members])[:-1]
    split = np.split if isinstance(leaf, np.ndarray) else jnp.split
    parts = split(leaf.reshape(-1), ends)
    return {name: part.reshape(shape) for (name, shape), part in zip(members, parts)}


def _members(shapes: Shapes) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    groups: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, shape in shapes:
        kind = "kernels" if len(shape) > 1 else "vectors"
        groups.setdefault(f"{name.partition('/')[0]}/{kind}", []).append((name, shape))
    return groups


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")


def _is_packed(tree: Any) -> bool:
    return isinstance(tree, Packed)


class TrainState(NamedTuple):
    """The state of training.

    Attributes:
      step: number of updates made, int32 scalar.
      params: float32 parameters.
      ema: their moving average, or None.
      opt_state: the optimiser's state.
      halted: bool scalar. True once a loss or a gradient was not finite: from then on steps change
        nothing, so that what the loop reads a few steps late is still the last good state.
    """

    step: Array
    params: Packed
    ema: Packed | None
    opt_state: Any
    halted: Array

    @property
    def weights(self) -> Packed:
        """What to evaluate and sample with: the moving average, or the parameters without one."""
        return self.params if self.ema is None else self.ema


def init_state(params: Params, optimizer: optax.GradientTransformation, ema: float) -> TrainState:
    """State before the first update.

    Args:
      params: float32 parameters by name.
      optimizer: as `optim.make_optimizer` returns it.
      ema: decay or relative width of the moving average; 0 keeps none.
    """
    packed: Any = pack(params)  # optax's types know dicts alone
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=packed,
        # Copies: the step donates its state, and a buffer can be donated once.
        ema=jax.tree.map(jnp.copy, packed) if ema else None,
        opt_state=optimizer.init(packed),
        halted=jnp.zeros((), bool),
    )


def by_name(tree: Any) -> Any:
    """A state, or a part of it, with parameters and the optimiser's moments by name: what a
    checkpoint holds. Fast on numpy arrays (`jax.device_get`), and traceable."""
    return jax.tree.map(
        lambda leaf: leaf.named() if _is_packed(leaf) else leaf, tree, is_leaf=_is_packed
    )


def restored(named: Any, like: Any) -> Any:
    """The reverse of `by_name`.

    Args:
      named: what `by_name` returned, or a checkpoint holds.
      like: a state of the same structure, of arrays or shapes.
    """
    return jax.tree.map(
        lambda leaf, values: _join(values, leaf.shapes) if _is_packed(leaf) else values,
        like,
        named,
        is_leaf=_is_packed,
    )
