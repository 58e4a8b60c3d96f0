"""A module as pure functions of a flat parameter dict."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from motfm_jax.core import Array, Params
from motfm_jax.nn.layers import Draws

M = TypeVar("M", bound=nnx.Module)
_ANY_COUNT = 2**31 - 1  # numbers to draw while the parameters are not yet counted


def functional(
    make: Callable[[Draws], M],
) -> tuple[Callable[[Params], M], Callable[[Array], Params]]:
    """Splits a module from its parameters.

    Args:
      make: builds the module with initial values from the draws.

    Returns:
      `module(params)`, the module with these parameters, and `init(key) -> params`,
      {"stem/kernel": float32, ...}; both may be traced.
    """
    abstract = nnx.eval_shape(lambda key: make(Draws(key, _ANY_COUNT)), jax.random.key(0))
    graphdef, state = nnx.split(abstract, nnx.Param)
    paths = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    count = sum(math.prod(leaf.shape) for _, leaf in nnx.to_flat_state(state))

    def module(params: Params) -> M:
        return nnx.merge(
            graphdef,
            nnx.from_flat_state((path, nnx.Param(params[name])) for name, path in paths.items()),
        )

    @jax.jit
    def init(key: Array) -> Params:
        _, state = nnx.split(make(Draws(key, count)), nnx.Param)
        return {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}

    return module, init
