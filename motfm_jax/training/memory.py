"""Memory of a compiled program, estimated before it runs."""

import os
from typing import Any, NamedTuple

import jax

from motfm_jax.core import Array, Batch
from motfm_jax.training.step import LossFn

USED = 0.9  # part of a device's memory that is planned with


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
      needed: by the program with its arguments and results, as planned by XLA.
      fixed: the part of these that does not grow with the images.
      limit: memory of the device.
    """

    needed: int
    fixed: int
    limit: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.limit

    @property
    def roomy(self) -> bool:
        """Whether it fits with what else a device has to hold."""
        return self.needed <= USED * self.limit

    def images(self, now: int) -> int:
        """How many images fit, if `now` images need this much."""
        each = max((self.needed - self.fixed) / now, 1)
        return max(int((USED * self.limit - self.fixed) // each), 0)


def needed(compiled: Any) -> int:
    """Bytes of one device for a compiled program: arguments, results and intermediate arrays."""
    plan = compiled.memory_analysis()
    return (
        plan.temp_size_in_bytes
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )


def of_training(compiled: Any, params: Any) -> Memory:
    """Memory of a compiled update: activations grow with the images; the state and one gradient of
    each parameter do not."""
    gradients = _bytes(params)
    planned = needed(compiled)
    working = compiled.memory_analysis().temp_size_in_bytes
    return Memory(planned, planned - max(working - gradients, 0), limit())


def of_shapes(loss: LossFn, params: Any, batch: Batch) -> int:
    """Bytes of an update from shapes alone, without compiling: weights with average, gradient and
    two moments, and what the backward pass keeps of the forward pass. XLA plans more or less: on
    a CPU 0.5 GB where this says 0.7 (size=small, 16 images of 64 x 64), and 0.2 where it says 0.2.

    Args:
      loss: see `training.step`.
      params: `jax.ShapeDtypeStruct`s by name.
      batch: of `jax.ShapeDtypeStruct`s.
    """

    def pull(params: Any, batch: Batch, key: Array) -> Any:
        keys = jax.random.split(key, len(batch.valid))
        return jax.vjp(lambda params: loss(params, batch, keys, key).sum(), params)[1]

    kept = jax.eval_shape(pull, params, batch, jax.random.key(0))
    return _bytes(kept) + 5 * _bytes(params)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def limit() -> int:
    """Bytes of this process's first device, or of the machine for a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def needs(memory: Memory) -> str:
    """What a program needs, of what there is."""
    return f"{memory.needed / 1e9:.2g} GB of {memory.limit / 1e9:.2g} GB"


def describe(memory: Memory, batch_size: int, accumulation: int, devices: int) -> str:
    """A line for the log: the memory of an update, and the largest batch that would fit.

    Args:
      memory: of an update of batch_size images.
      batch_size, accumulation: of the config.
      devices: all devices of the run.

    Raises:
      ValueError: it does not fit.
    """
    now = batch_size // devices // accumulation
    fitting = memory.images(now)
    largest = f"train.batch_size={fitting * devices * accumulation}"
    images = f"{now} image{'s' * (now > 1)}"
    need = f"an update of {images} a device needs {needs(memory)}"
    if memory.fits:
        return f"memory: {need}; about {fitting} would fit ({largest})"
    ways = ["model.remat=auto, if it is none (slower)", "smaller data.size or model.channels"]
    if fitting:
        parts = next(
            parts
            for parts in range(accumulation, batch_size + 1)
            if batch_size % (devices * parts) == 0 and batch_size // devices // parts <= fitting
        )
        ways.insert(0, f"{largest} fits, and so does train.accumulation={parts} with this batch")
    raise ValueError(f"{need}: too much; {'; '.join(ways)}")
