"""Devices and processes: the only file that uses pmap.

Every process holds the whole state, replicated over its own devices, and feeds its own rows of the
global batch; the mean over devices inside the step keeps all copies equal.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from motfm_jax.core import Array, Batch, Params

AXIS = "data"
TIMEOUT_S = 20  # how long a process may be silent, or wait at its end for the others


def connect(
    coordinator: str, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others; call it before anything touches a device.

    When a process dies or fails, JAX's coordination service aborts the others after `TIMEOUT_S`.

    Args:
      coordinator: "" for a single process; "auto" under SLURM, Open MPI or Kubernetes, where JAX
        finds the numbers itself; else "host:port" of process 0.
      num_processes: number of processes, with "host:port".
      process_id: this process's number from 0, with "host:port".

    Raises:
      ValueError: numbers that do not fit, or of several processes without a coordinator.
    """
    if not coordinator:
        if (num_processes or 1) > 1 or process_id:
            raise ValueError(
                f"num_processes={num_processes}, process_id={process_id} without a coordinator: "
                "give --coordinator=HOST:PORT of process 0 too, or neither"
            )
        return
    if coordinator == "auto":
        num_processes = process_id = None
    elif num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise ValueError(
            f"coordinator {coordinator!r} with num_processes={num_processes}, "
            f"process_id={process_id}: give the number of processes and this one's, from 0"
        )
    # JAX's own handler of SIGTERM would keep a process alive before training has begun.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        None if coordinator == "auto" else coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=TIMEOUT_S,
        shutdown_timeout_seconds=TIMEOUT_S,
    )
    # Both groups of devices meet here, all of them and those of one number (`gather`), while the
    # processes are at the same point: gloo waits 30 s at a group's first collective, and compiling
    # may separate the processes by more than that.
    ones = np.ones(jax.local_device_count(), np.float32)
    jax.block_until_ready(jax.pmap(lambda one: jax.lax.psum(one, AXIS), axis_name=AXIS)(ones))
    gather(ones)
    barrier("connected")


def check_batch_size(batch_size: int, accumulation: int = 1) -> None:
    """Raises ValueError where a global batch cannot be shared out evenly."""
    devices = jax.device_count()
    if batch_size % (devices * accumulation):
        parts = f"{devices} device{'s' * (devices > 1)} x {accumulation} accumulation"
        below = batch_size // (devices * accumulation) * devices * accumulation
        nearest = max(below, devices * accumulation)
        raise ValueError(
            f"train.batch_size={batch_size} does not divide over {parts}; nearest that does: "
            f"{nearest}"
        )


def replicate(tree: Any) -> Any:
    """A copy of every leaf on each of this process's devices, as the compiled steps expect it."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(batch: Any) -> Any:
    """This process's rows [B, ...] -> [D, B / D, ...] for its D devices."""
    devices = jax.local_device_count()

    def split(leaf):
        if leaf.shape[0] % devices:
            raise ValueError(
                f"{leaf.shape[0]} rows do not divide over the {devices} devices of this process"
            )
        return leaf.reshape(devices, leaf.shape[0] // devices, *leaf.shape[1:])

    return jax.tree.map(split, batch)


class TrainStep:
    """`step.make_train_step(..., axis_name=AXIS)` over all devices of all processes.

    A call is (replicated state, this process's rows of the batch, key) -> (state, metrics). It
    donates the state: use the one returned.
    """

    def __init__(self, step: Callable):
        self._mapped = jax.pmap(
            step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0
        )

    def __call__(self, state: Any, batch: Batch, key: Array) -> tuple[Any, Any]:
        return self._mapped(state, shard(batch), key)

    def compile(self, state: Any, batch: Batch, key: Array) -> Any:
        """The program that calls run; they do not compile it again."""
        return self._mapped.lower(state, shard(batch), key).compile()


def evaluator(
    step: Callable, batches: Callable[[], Iterable[Batch]], key: Array
) -> Callable[[Any], float]:
    """Mean validation loss over all valid examples of all processes.

    Args:
      step: as `step.make_eval_step` returns it.
      batches: returns this process's validation batches.
      key: the fixed key of noise and times.

    Returns:
      replicated weights of a state -> loss.
    """
    # This process's devices alone: the processes may have different numbers of batches.
    compiled = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), devices=jax.local_devices())

    def evaluate(weights: Any) -> float:
        parts = []
        for batch in batches():
            parts.append(compiled(weights, shard(batch), key))
            jax.block_until_ready(parts[-3:-2])  # at most two batches wait on the device
        sums = [np.sum(part, dtype=np.float64) for part in zip(*jax.device_get(parts))]
        loss, count = gather(np.array(sums or [0.0, 0.0])).sum(axis=0)
        if not count:
            raise ValueError("no validation examples: the split is empty")
        return float(loss / count)

    return evaluate


def map_batches(function: Callable[[Params, Any], Any]) -> Callable[[Params, Any], Any]:
    """Compiles a function of rows over this process's devices.

    Args:
      function: (params, tree of [b, ...] arrays) -> tree of [b, ...] arrays, rows independent.

    Returns:
      (replicated params, tree of [B, ...]) -> tree of numpy [B, ...], B a multiple of the devices.
    """
    compiled = jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), devices=jax.local_devices())

    def mapped(params: Params, rows: Any) -> Any:
        results = jax.device_get(compiled(params, shard(rows)))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)

    return mapped


def gather(values: np.ndarray) -> np.ndarray:
    """Every process's array, stacked: [processes, ...]."""
    if jax.process_count() == 1:
        return np.asarray(values)[None]
    return np.asarray(multihost_utils.process_allgather(values))


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any process; all must ask at the same point."""
    return bool(gather(np.array(flag)).any())


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
