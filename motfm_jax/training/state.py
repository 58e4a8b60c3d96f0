"""Everything a training step carries from one update to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from motfm_jax.core import Array, Params


class TrainState(NamedTuple):
    """The state of training.

    Attributes:
      step: number of updates made, int32 scalar; also the position in the data.
      params: float32 parameters by name.
      ema: their exponential moving average by the same names, or None.
      opt_state: the optimiser's state.
      halted: bool scalar. True once a loss or a gradient was not finite: from then on steps change
        nothing, so that what the loop reads a few steps late is still the last good state.
    """

    step: Array
    params: Params
    ema: Params | None
    opt_state: Any
    halted: Array

    @property
    def weights(self) -> Params:
        """What to evaluate and sample with: the average where there is one."""
        return self.params if self.ema is None else self.ema


def init_state(params: Params, optimizer: optax.GradientTransformation, ema: float) -> TrainState:
    """State before the first update.

    Args:
      params: float32 parameters by name.
      optimizer: as `optim.make_optimizer` returns it.
      ema: decay of the moving average; 0 keeps none.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # Copies: the step donates its state, and a buffer can be donated once.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
        halted=jnp.zeros((), bool),
    )
