"""Says how much memory a training needs, before there are data.

    motfm plan --config=brain:cond=none,size=paper [--config.train.batch_size=4 ...]

Compiles the update for this machine, with each of model.remat, and sampling, and prints what XLA
plans: memory, and the largest batch that fits. Nothing runs. Images have --channels channels.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from motfm_jax import build, cli, runs, updates
from motfm_jax.core import Batch
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.nn.blocks import REMAT
from motfm_jax.sampling import generate
from motfm_jax.training import memory

NAMES = ("0", "1", "2", "3")  # of classes and labels: their number hardly matters


def main(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    flags.DEFINE_integer("channels", 1, "of the images", lower_bound=1, flag_values=values)
    config = cli.parse_config_flags(arguments, values, __doc__, needs_data=False)
    enable_compile_cache()
    size = tuple(config.data.size)
    scaling = Intensity("minmax", "dataset", (-1.0, 1.0), (0.5, 99.5), 0.0, 255.0).to_json()
    labels = NAMES if config.data.generate == "image+mask" else ()
    facts = Facts(size, values.channels, NAMES, NAMES, scaling, label_channels=len(labels))
    rows = config.train.batch_size // config.train.accumulation // jax.device_count()
    device = jax.local_devices()[0]
    print(
        f"{' x '.join(map(str, size))}, {rows} images a device, on {device.device_kind} with "
        f"{memory.limit() / 1e9:.3g} GB: as XLA plans it"
    )
    for remat in REMAT:
        planned = update(config, facts, remat, rows)
        print(
            f"  update, model.remat={remat:<6}  {planned.needed / 1e9:6.2f} GB, "
            f"{planned.images(rows)} images would fit"
        )
    print(f"  sampling, the same batch      {sampling(config, facts, rows) / 1e9:6.2f} GB")


def update(config: Any, facts: Facts, remat: str, rows: int) -> memory.Memory:
    """Memory of an update of `rows` images a device, with a choice of model.remat."""
    optimizer, _ = build.update(config, 1000)
    model = build.architecture(config, facts)
    start = functools.partial(updates.initial_state, config, model, optimizer)
    state = jax.eval_shape(start, jax.random.key(0), {})
    total = rows * jax.local_device_count()
    batch = Batch(
        np.zeros((total, *facts.size, facts.channels), np.float32),
        np.zeros((total, *facts.size), np.uint8),
        np.zeros(total, np.int32),
        np.ones(total, bool),
        np.arange(total, dtype=np.int32),
    )
    step = updates.make(config, facts, optimizer, remat)
    return memory.of_training(step.compile(state, batch, jax.random.key(0)), state.params)


def sampling(config: Any, facts: Facts, rows: int) -> int:
    """Bytes of a solve of `rows` images."""
    model = build.architecture(config, facts)
    bundle = runs.bundle(model, {}, facts, config, Path("plan"))
    solve = functools.partial(generate.solve_rows, bundle, bundle.solver(), False, False)
    params = jax.eval_shape(model.init, jax.random.key(0))
    shaped = functools.partial(jax.ShapeDtypeStruct, dtype=np.float32)
    keys = generate.fresh_keys(0, np.arange(rows), bundle.solver())
    rows_of = generate.Rows(
        shaped((rows, *bundle.shape)),
        jax.ShapeDtypeStruct((rows, *facts.size), np.uint8),
        jax.ShapeDtypeStruct((rows,), np.int32),
        keys,
    )
    return memory.needed(jax.jit(solve).lower(params, rows_of).compile())
