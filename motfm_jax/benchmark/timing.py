"""Seconds of several sides in turn, their ratio, and what the device could do at best."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

SLOW_SECONDS = 20.0  # of one call: fewer pairs from here on
FEW_PAIRS = 3


def measure(sides: dict[str, Callable[[], Any]], pairs: int, show: tqdm) -> dict[str, list[float]]:
    """Seconds of every side, one call each after the other, in an order drawn anew."""
    random, seconds = np.random.default_rng(0), {name: [] for name in sides}
    longest = 0.0
    for call in sides.values():
        call()  # compiles, allocates, warms caches
        begin = time.perf_counter()
        call()
        longest = max(longest, time.perf_counter() - begin)
    if longest > SLOW_SECONDS:
        pairs = min(pairs, FEW_PAIRS)
    for number in range(pairs):
        for name in random.permutation(list(sides)):
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
        show.set_postfix_str(f"pair {number + 1} of {pairs}")
    return seconds


def ratio(seconds: dict[str, list[float]], draws: int = 2000) -> dict[str, Any]:
    """Ours over the fastest other side, of medians, with its bootstrap interval over pairs."""
    mine = np.array(seconds["ours"])
    others = {name: np.array(values) for name, values in seconds.items() if name != "ours"}
    if not others:
        return {}
    fastest = min(others, key=lambda name: np.median(others[name]))
    rows = np.random.default_rng(0).integers(0, len(mine), (draws, len(mine)))
    spread = np.median(mine[rows], axis=1) / np.median(others[fastest][rows], axis=1)
    low, high = np.quantile(spread, (0.025, 0.975))
    value = np.median(mine) / np.median(others[fastest])
    return {"fastest": fastest, "ratio": float(value), "low": float(low), "high": float(high)}


def matrix_peak() -> float:
    """FLOP/s of a large matrix product in the type that networks compute in."""
    kind = jnp.bfloat16 if jax.devices()[0].platform == "gpu" else jnp.float32
    side = 8192 if kind == jnp.bfloat16 else 2048
    a = jnp.ones((side, side), kind)
    product = jax.jit(lambda a: a @ a).lower(a).compile()
    best = np.inf
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(product(a))
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
