"""The state and the update of a training, from a config, and the memory that they need."""

import logging
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from motfm_jax import build, parallel
from motfm_jax.core import Array, Batch
from motfm_jax.data.facts import Facts
from motfm_jax.methods import METHODS
from motfm_jax.methods.method import TEACHER
from motfm_jax.nn.blocks import REMAT
from motfm_jax.nn.control import attach
from motfm_jax.training import memory
from motfm_jax.training.state import TrainState, init_state
from motfm_jax.training.step import averaging, make_train_step

log = logging.getLogger(__name__)


def initial_state(
    config: ConfigDict,
    model: build.Architecture,
    optimizer: optax.GradientTransformation,
    key: Array,
    weights: Mapping[str, Array],
) -> TrainState:
    """The state before the first update.

    Args:
      config: resolved.
      model: of it.
      optimizer: of it.
      key: of fresh parameters.
      weights: what it begins with, by name; {} for fresh ones.
    """
    params = model.init(key)
    params = dict(weights) if weights.keys() == params.keys() else attach(params, weights)
    if METHODS[config.method].distils:
        params |= {TEACHER + name: jnp.copy(leaf) for name, leaf in params.items()}
    return init_state(params, optimizer, config.train.ema_length or config.train.ema)


def make(
    config: ConfigDict, facts: Facts, optimizer: optax.GradientTransformation, remat: str
) -> parallel.TrainStep:
    """The update of a config, not compiled yet.

    Args:
      config: resolved.
      facts: of the data.
      optimizer: of it.
      remat: of config.model.remat, in its place; not "auto".
    """
    config = config.copy_and_resolve_references()
    config.model.remat = remat
    model, fields = build.architecture(config, facts), config.train
    step = make_train_step(
        build.loss(config, model),
        optimizer,
        averaging(fields.ema, fields.ema_length),
        fields.accumulation,
        parallel.AXIS,
        model.parts.refresh,
    )
    return parallel.TrainStep(step)


def fitting(
    config: ConfigDict,
    facts: Facts,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
) -> parallel.TrainStep:
    """The update, compiled, with the memory it needs in the log; with model.remat=auto it computes
    again as little as fits the device. ValueError if nothing fits."""
    first = jax.process_index() == 0
    for remat in _policies(config):
        update = make(config, facts, optimizer, remat)
        planned = memory.of_training(update.compile(state, batch, jax.random.key(0)), state.params)
        # All processes take the same program.
        if remat == _policies(config)[-1] or not parallel.any_process(not planned.roomy):
            break
        if first:
            log.info(f"memory: {memory.needs(planned)} with model.remat={remat}: too much")
    line = memory.describe(
        planned, config.train.batch_size, config.train.accumulation, jax.device_count()
    )
    if first:
        log.info(line + f"; model.remat={remat}" * (config.model.remat == "auto"))
    return update


def _policies(config: ConfigDict) -> Sequence[str]:
    """What the update may compute again, the least first."""
    return REMAT if config.model.remat == "auto" else (config.model.remat,)
