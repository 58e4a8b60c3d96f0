"""Our side of a benchmark: compiled programs, what compiling took, what they need."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from motfm_jax import build
from motfm_jax.benchmark.cases import Case, Inputs, config, draw
from motfm_jax.core import Batch, Condition
from motfm_jax.data.records import Facts
from motfm_jax.methods import flow
from motfm_jax.methods.ode import Solver
from motfm_jax.training import memory
from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.state import init_state
from motfm_jax.training.step import make_train_step


class Program(NamedTuple):
    """Our side of a case before it is compiled.

    Attributes:
      function: jitted.
      arguments: numpy; of a training step the state comes first and is donated.
      params: numpy by name, for PyTorch.
      loops: how often the program runs its network where XLA counts it once.
    """

    function: Any
    arguments: tuple
    params: dict[str, np.ndarray]
    loops: int


class Ours(NamedTuple):
    """Our side of a case.

    Attributes:
      call: does the work once and waits for it.
      params: numpy by name, for PyTorch.
      facts: of compilation and program, for the report.
    """

    call: Callable[[], Any]
    params: dict[str, np.ndarray]
    facts: dict[str, float]


def ours(case: Case, inputs: Inputs, calls: int, root: Path) -> Ours:
    """Compiles our side.

    Args:
      case: what is timed.
      inputs: of `cases.draw`.
      calls: network calls of a sampling.
      root: the project's folder.
    """
    made = program(case, inputs, calls, root)
    compiled, facts = _compiled(made)
    held = list(jax.device_put(made.arguments))
    if case.work != "train":
        return Ours(lambda: jax.block_until_ready(compiled(*held)), made.params, facts)

    def call():
        held[0], metrics = compiled(*held)
        jax.block_until_ready(metrics)

    return Ours(call, made.params, facts)


def program(case: Case, inputs: Inputs, calls: int, root: Path) -> Program:
    """The function of a case and its arguments; see `ours`."""
    chosen = config(case, root)
    chosen.train.dtype = "bfloat16" if jax.devices()[0].platform == "gpu" else "float32"
    facts = Facts(
        size=inputs.x0.shape[1:-1],
        channels=1,
        classes=tuple("abcd"),
        mask_labels=("background", "inside"),
        intensity=None,
    )
    built = build.architecture(chosen, facts)
    network, init = built.network, built.init
    random = np.random.default_rng(1)
    # None is zero, so that no part of the network can be left out.
    params = {
        name: (random.standard_normal(leaf.shape) * 0.02).astype(np.float32)
        for name, leaf in jax.eval_shape(init, jax.random.key(0)).items()
    }
    condition = Condition(inputs.mask, inputs.label)
    if case.conditioned and not case.has_original:  # its mask has a channel a label
        condition = Condition(np.concatenate([1 - inputs.mask, inputs.mask], axis=-1), inputs.label)
    if case.work == "forward":

        def forward(params, x, t, condition):
            return network.apply(params, x, t, network.encode(params, condition), None)

        return Program(jax.jit(forward), (params, inputs.x0, inputs.t, condition), params, 1)
    if case.work == "sample":

        def sample(params, x0, condition):
            return flow.sample(network, params, x0, condition, Solver("euler", calls)).x

        return Program(jax.jit(sample), (params, inputs.x0, condition), params, calls)
    optimizer = make_optimizer("adam", make_schedule(1e-6))

    def loss(params, batch, keys, dropout_key):
        return flow.loss(network, params, batch, condition, keys, dropout_key)

    batch = Batch(inputs.x1, None, None, np.ones(case.batch, bool), np.arange(case.batch))
    state = jax.jit(lambda params: init_state(params, optimizer, 0.0))(params)
    step = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
    return Program(step, (state, batch, jax.random.key(0)), params, 1)


def _compiled(made: Program) -> tuple[Any, dict[str, float]]:
    """The compiled program and what it took, without and with a cache on disk."""
    with tempfile.TemporaryDirectory() as folder, _cache_in(folder):
        begin = time.perf_counter()
        lowered = made.function.lower(*made.arguments)
        traced = time.perf_counter()
        compiled = lowered.compile()
        done = time.perf_counter()
        jax.clear_caches()
        again = time.perf_counter()
        made.function.lower(*made.arguments).compile()
        warm = time.perf_counter() - again
    cost = compiled.cost_analysis() or {}
    return compiled, {
        "trace_s": traced - begin,
        "compile_s": done - traced,
        "warm_s": warm,
        "flop": made.loops * cost.get("flops", np.nan),
        "bytes": made.loops * cost.get("bytes accessed", np.nan),
        "temporary_bytes": getattr(compiled.memory_analysis(), "temp_size_in_bytes", np.nan),
    }


@contextlib.contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    """Compiled programs go to a folder and come from it."""
    wanted = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0}
    before = {name: getattr(jax.config, name) for name in wanted}

    def set_to(values: dict[str, Any]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    set_to(wanted)
    try:
        yield
    finally:
        set_to(before)


def largest_batch(case: Case, calls: int, root: Path) -> int:
    """The largest power of two of images that the device's memory holds, as XLA estimates it.

    Memory grows by the same amount with each image, so that two small batches say it.

    Raises:
      ValueError: one image does not fit.
    """
    needed = []
    for batch in (1, 2):
        small = case._replace(batch=batch)
        made = program(small, draw(small), calls, root)
        needed.append(memory.needed(made.function.lower(*made.arguments).compile()))
    one, two = needed
    held = memory.Memory(one, one - max(two - one, 0), memory.limit())
    fitting = held.images(1)
    if fitting < 1:
        raise ValueError(
            f"{case.name}: needs {one / 1e9:.2g} GB of the device's {held.limit / 1e9:.2g} GB; "
            "leave it out, --cases or --sizes"
        )
    return 1 << fitting.bit_length() - 1
