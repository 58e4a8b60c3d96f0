"""A program taken from the cache computes bit for bit what a fresh one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, jax, jax.numpy as jnp, numpy as np
from motfm_jax.io.compile_cache import enable_compile_cache
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
assert str(enable_compile_cache(sys.argv[1])) == sys.argv[1]

def loss(w, x):
    return jnp.mean(jnp.tanh(jax.lax.conv(x, w, (1, 1), "SAME")) ** 2)

@jax.pmap
def train(w, x):
    return jax.lax.fori_loop(0, 20, lambda i, w: w - jax.grad(loss)(w, x), w)

x = np.random.default_rng(0).normal(size=(1, 2, 3, 16, 16)).astype(np.float32)
w = np.random.default_rng(1).normal(size=(1, 3, 3, 3, 3)).astype(np.float32)
result = np.asarray(train(w, x))
assert not np.array_equal(result, w)
print(events.count("/jax/compilation_cache/cache_hits"), result.tobytes().hex())
"""


@pytest.mark.slow
def test_fresh_and_cached_programs_agree_bit_for_bit(tmp_path):
    def run():
        output = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            check=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
        ).stdout
        hits, result = output.split()
        return int(hits), result

    hits, fresh = run()
    again, cached = run()
    assert hits == 0 and again > 0
    assert fresh == cached
