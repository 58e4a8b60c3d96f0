"""Times the networks of two checkouts in turn: each call of one is followed by one of the other.

    .venv/bin/python docs/results/2026-11-28-paired.py OLD NEW [pairs]

OLD is a checkout of cab96a5, NEW this tree. Prints the medians and their ratio, new over old.
"""

import json
import os
import statistics
import subprocess
import sys
import time

ROWS = {
    "forward, 128 px": ("forward", (128, 128)),
    "training step, 128 px": ("train", (128, 128)),
    "sampling, 10 calls, 128 px": ("sample", (128, 128)),
    "training step, 32 voxels a side": ("train", (32, 32, 32)),
}


def program(work, size):
    """A call of one kind of work with the original's unconditional network, float32, batch 1."""
    import jax
    import numpy as np

    from motfm_jax import build, presets
    from motfm_jax.methods import flow
    from motfm_jax.training.optim import make_optimizer, make_schedule
    from motfm_jax.training.state import init_state
    from motfm_jax.training.step import make_train_step

    try:
        from motfm_jax import settings
        from motfm_jax.core import Batch, Condition
        from motfm_jax.data.facts import Facts
        from motfm_jax.io.malloc import keep_freed
        from motfm_jax.methods.ode import Solver
    except ImportError:
        from motfm_jax.arrays import Batch, Condition
        from motfm_jax.data.records import Facts
        from motfm_jax.sampling.ode import Solver

        from motfm_jax import config as settings
        from motfm_jax.io.malloc import keep_freed

    keep_freed()
    config = settings.default()
    config.cond = "none"
    presets.apply_original(config, len(size))
    config.train.dtype = "float32"
    facts = Facts(size=size, channels=1, classes=(), mask_labels=(), intensity=None)
    model = getattr(build, "architecture", getattr(build, "model", None))(config, facts)
    network, rng = model.network, np.random.default_rng(1)
    params = {
        name: (rng.standard_normal(leaf.shape) * 0.02).astype(np.float32)
        for name, leaf in jax.eval_shape(model.init, jax.random.key(0)).items()
    }
    x = rng.standard_normal((1, *size, 1)).astype(np.float32)
    t, nothing = np.array([0.3], np.float32), Condition(None, None)

    def loss(params, batch, keys, dropout_key):
        return flow.loss(network, params, batch, nothing, keys, dropout_key)

    if work == "forward":
        call = jax.jit(lambda p, x: network.apply(p, x, t, network.encode(p, nothing), None))
    elif work == "sample":
        call = jax.jit(lambda p, x: flow.sample(network, p, x, nothing, Solver("euler", 10)).x)
    if work != "train":
        call = call.lower(params, x).compile()
        return lambda: jax.block_until_ready(call(params, x))

    optimizer = make_optimizer("adam", make_schedule(1e-6))
    try:  # before, packing was outside of the state
        from motfm_jax.training.packing import Packing

        packing = Packing(params)
        params, loss = packing.pack(params), packing.taking(loss)
    except ImportError:
        pass
    state = jax.jit(lambda p: init_state(p, optimizer, 0.0))(params)
    batch = Batch(x, None, None, np.ones(1, bool), np.arange(1))
    key = jax.random.key(0)
    update = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
    update = update.lower(state, batch, key).compile()

    def step():
        nonlocal state
        state, metrics = update(state, batch, key)
        jax.block_until_ready(metrics)

    return step


def serve():
    """Compiles the row that a line names; for an empty line calls it once and prints seconds."""
    for line in sys.stdin:
        if line.strip():
            call = program(*ROWS[line.strip()])
            call()
        wall, processor = time.perf_counter(), time.process_time()
        call()
        seconds = time.perf_counter() - wall, time.process_time() - processor
        print(json.dumps(seconds), flush=True)


def ask(process, line=""):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main(old, new, pairs=9):
    sides = [
        subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "serve"],
            env={**os.environ, "PYTHONPATH": os.path.abspath(tree), "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for tree in (old, new)
    ]
    print("| | wall [s] | ratio | processor [s] | ratio |\n|---|--:|--:|--:|--:|")
    for row in ROWS:
        for side in sides:
            ask(side, row)
        seconds = []
        for pair in range(int(pairs)):
            order = (0, 1) if pair % 2 else (1, 0)
            measured = {side: ask(sides[side]) for side in order}
            seconds.append((*measured[0], *measured[1]))
        before, used_before, after, used = map(statistics.median, zip(*seconds))
        print(
            f"| {row} | {before:.2f}, {after:.2f} | {after / before:.2f} "
            f"| {used_before:.2f}, {used:.2f} | {used / used_before:.2f} |",
            flush=True,
        )
    for side in sides:
        side.stdin.close()


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main(*sys.argv[1:])
