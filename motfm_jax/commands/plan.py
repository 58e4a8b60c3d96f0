"""Says how much memory a training needs, before there are data.

    motfm plan --config=brain:cond=none,size=paper [--config.train.batch_size=4 ...]
    motfm plan --gpu=24GB

The first compiles the update for this machine, with each of model.remat, and sampling, and prints
what XLA plans: memory, and the largest batch that fits. Nothing runs. Images have --channels
channels. The second tells the largest batches of size=paper for a GPU that is not at hand, from a
table of what XLA planned for an H100.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from motfm_jax import build, cli, parallel, runs, updates
from motfm_jax.core import Batch
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.nn.blocks import REMAT
from motfm_jax.sampling import generate
from motfm_jax.training import memory

# By network and model.remat, GB: what does not grow with the images, and each image. XLA's plan for
# an H100, not measured: docs/results/2026-11-29-gpu-programs.md.
H100 = {
    "camus:cond=mask+class,size=paper": {"none": (2.05, 1.85)},
    "brain:cond=none,size=paper": {
        "none": (2.66, 2.70),
        "norms": (2.66, 1.54),
        "blocks": (2.66, 1.26),
    },
}
POOL = 0.75  # of a card's memory that JAX takes
NAMES = ("0", "1", "2", "3")  # of classes and labels: their number hardly matters


def main(arguments: Sequence[str]) -> None:
    values = flags.FlagValues()
    flags.DEFINE_integer("channels", 1, "of the images", lower_bound=1, flag_values=values)
    flags.DEFINE_string("gpu", "", "memory of a GPU that is not at hand: 24GB", flag_values=values)
    if any(argument.startswith("--gpu") for argument in arguments):
        if len(arguments) > 1:
            raise ValueError("--gpu=24GB reads a table of its own: give it alone")
        print("\n".join(of_table(arguments[0].partition("=")[2])))
        return
    config = cli.parse_config_flags(arguments, values, __doc__, needs_data=False)
    enable_compile_cache()
    size = tuple(config.data.size)
    scaling = Intensity("minmax", "dataset", (-1.0, 1.0), (0.5, 99.5), 0.0, 255.0).to_json()
    labels = NAMES if config.data.generate == "image+mask" else ()
    facts = Facts(size, values.channels, NAMES, NAMES, scaling, label_channels=len(labels))
    fields = config.train
    parallel.check_batch_size(fields.batch_size, fields.accumulation)
    rows = fields.batch_size // fields.accumulation // jax.device_count()
    device = jax.local_devices()[0]
    print(
        f"{' x '.join(map(str, size))}, {rows} images a device, on {device.device_kind} with "
        f"{memory.limit() / 1e9:.3g} GB: as XLA plans it"
    )
    for remat in REMAT:
        planned = update(config, facts, remat)
        print(
            f"  update, model.remat={remat:<6}  {planned.needed / 1e9:6.2f} GB, "
            f"{planned.images(rows)} images would fit"
        )
    print(f"  sampling, the same batch      {sampling(config, facts, rows) / 1e9:6.2f} GB")


def of_table(memory_of_gpu: str) -> list[str]:
    """The largest batches of the networks in the table.

    Args:
      memory_of_gpu: such as 24GB.

    Raises:
      ValueError: not such a text.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?GB", memory_of_gpu)
    if not found:
        raise ValueError(f"--gpu={memory_of_gpu}: a memory such as 24GB needed")
    room = memory.USED * POOL * float(found[1])
    lines = [f"a GPU of {found[1]} GB, as XLA plans for an H100, not measured:"]
    for network, plans in H100.items():
        lines.append(f"  {network}")
        for remat, (fixed, each) in plans.items():
            images = max(int((room - fixed) // each), 0)
            lines.append(f"    update, model.remat={remat:<6}  {images} images fit")
    return lines


def update(config: Any, facts: Facts, remat: str) -> memory.Memory:
    """Memory of an update on each device, with a choice of model.remat."""
    optimizer, _ = build.update(config, 1000)
    model = build.architecture(config, facts)
    start = functools.partial(updates.initial_state, config, model, optimizer)
    state = jax.eval_shape(start, jax.random.key(0), {})
    total = config.train.batch_size // jax.process_count()
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
