"""What a compiled program needs of its device's memory, known before it runs."""

import os
from typing import Any, NamedTuple

import jax

USED = 0.9  # of a device's memory, by the largest batch that is proposed


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
      needed: by the program with its arguments and results, as XLA planned it.
      fixed: of these, what does not grow with the images.
      limit: what the device has.
    """

    needed: int
    fixed: int
    limit: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.limit

    def images(self, now: int) -> int:
        """How many images the device holds where it needs this for `now` of them; 0 for none."""
        each = max((self.needed - self.fixed) / now, 1)
        return max(int((USED * self.limit - self.fixed) // each), 0)


def needed(compiled: Any) -> int:
    """Bytes a device that a compiled program needs: arguments, results and what is between."""
    plan = compiled.memory_analysis()
    return (
        plan.temp_size_in_bytes
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )


def of_training(compiled: Any, params: Any) -> Memory:
    """Of a compiled update. The state and one gradient of each parameter are there however few the
    images; activations grow with them."""
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    planned = needed(compiled)
    working = compiled.memory_analysis().temp_size_in_bytes
    return Memory(planned, planned - max(working - gradients, 0), limit())


def limit() -> int:
    """Bytes of this process's first device; of a CPU, the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def describe(memory: Memory, batch_size: int, accumulation: int, devices: int) -> str:
    """A line for the log: what an update needs, and the largest batch that would fit.

    Args:
      memory: of an update of batch_size images.
      batch_size, accumulation, devices: the config's, and all devices of the run.

    Raises:
      ValueError: it does not fit.
    """
    now = batch_size // devices // accumulation
    fitting = memory.images(now)
    largest = f"train.batch_size={fitting * devices * accumulation}"
    images = f"{now} image{'s' * (now > 1)}"
    says = (
        f"an update of {images} a device needs {memory.needed / 1e9:.2g} GB "
        f"of {memory.limit / 1e9:.2g} GB"
    )
    if memory.fits:
        return f"memory: {says}; about {fitting} would fit ({largest})"
    ways = ["model.remat=True, if it is not yet (slower)", "smaller data.size or model.channels"]
    if fitting:
        parts = next(
            parts
            for parts in range(accumulation, batch_size + 1)
            if batch_size % (devices * parts) == 0 and batch_size // devices // parts <= fitting
        )
        ways.insert(
            0, f"{largest} fits, and so does train.accumulation={parts} with the batch as it is"
        )
    raise ValueError(f"{says}: too much; {'; '.join(ways)}")
