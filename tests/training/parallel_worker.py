"""One process of test_parallel.py: trains a few steps and writes down what came of it.

python parallel_worker.py OUT.npz ACCUMULATION [PORT NUM_PROCESSES PROCESS_ID]
"""

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import two_layers

from motfm_jax import parallel
from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.io.run_folder import open_run
from motfm_jax.training.loop import Plan, Work, train
from motfm_jax.training.step import make_eval_step

ROWS, STEPS = 16, 4


def assert_replicas_equal(tree):
    for leaf in jax.tree.leaves(tree):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == jax.local_device_count()
        for copy in copies[1:]:
            np.testing.assert_array_equal(copies[0], copy)


def numbered(name, tree):
    return {f"{name}/{number}": leaf for number, leaf in enumerate(jax.tree.leaves(tree))}


def main(out, accumulation, port=None, num_processes="1", process_id="0"):
    parallel.connect(f"localhost:{port}" if port else "", int(num_processes), int(process_id))
    os.write(2, b"connected\n")
    process, processes = jax.process_index(), jax.process_count()
    assert processes == int(num_processes)
    key = jax.random.key(0)

    def batch(step, **settings):
        return two_layers.batch_at(step, ROWS, process=process, processes=processes, **settings)

    # At a learning rate of 1, plain descent moves the weights by exactly the gradient.
    state, update = two_layers.make_training(lr=1.0, accumulation=int(accumulation))
    before = jax.device_get(state.params).named()
    state, metrics = update(state, batch(0), key)
    after = jax.device_get(state.params).named()
    gradients = jax.tree.map(lambda old, new: old - new, before, after)
    result = {f"gradient/{name}": leaf for name, leaf in gradients.items()}
    result["grad_norm"] = metrics.grad_norm

    compilations = []
    state, update = two_layers.make_training(
        "adam", lr=0.03, ema=0.9, accumulation=int(accumulation), clip=0.5
    )
    losses = []
    for step in range(STEPS):
        if step == 1:
            jax.monitoring.register_event_duration_secs_listener(
                lambda event, *_, **__: compilations.append(event)
            )
        state, metrics = update(state, batch(step), key)
        losses.append(float(metrics.loss))
    assert_replicas_equal(state)

    # Saved, restored into a state that never trained, and trained on: nothing compiles again.
    checkpoints = Checkpoints(Path(out).parent / f"checkpoints_{processes}", {"a": 1}, {})
    checkpoints.save(STEPS, state, 0.5)
    checkpoints.wait()
    result |= numbered("saved", state)
    fresh, _ = two_layers.make_training("adam", ema=0.9, clip=0.5)
    copied = Path(out).parent / "copied"
    if copied.exists():  # written by another number of devices
        other = Checkpoints(copied, {"a": 1}, {})
        result |= numbered("copied", parallel.replicate(other.restore(fresh)))
        other.close()
    restored = parallel.replicate(checkpoints.restore(fresh))
    for left, right in zip(jax.tree.leaves(restored), jax.tree.leaves(state)):
        np.testing.assert_array_equal(left, right)
    following = batch(STEPS)
    compilations.clear()
    restored, metrics = update(restored, following, key)
    losses.append(float(metrics.loss))
    compiled = [event for event in compilations if event.endswith("backend_compile_duration")]
    assert not compiled, compiled
    checkpoints.close()

    evaluate = parallel.evaluator(
        make_eval_step(two_layers.loss_fn), lambda: [batch(100), batch(101, valid=13)], key
    )
    result["valid_loss"] = evaluate(restored.weights)
    scale = parallel.map_batches(lambda params, rows: {"x": rows["x"] * params["scale"]})
    rows = np.arange(8.0, dtype=np.float32)[:, None]
    scaled = scale(parallel.replicate({"scale": np.float32(2)}), {"x": rows})["x"]
    np.testing.assert_array_equal(scaled, 2 * rows)

    # A signal to the last process alone stops all of them after the same step.
    def batches():
        for step in range(STEPS + 1, 40):
            if step == 7 and process == processes - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch(step)

    folder = Path(out).parent / f"run_{processes}"
    with open_run(folder, {"a": 1}, writes=process == 0) as run:
        parallel.barrier("opened")
        run.start(STEPS + 1)
        checkpoints = Checkpoints(run.checkpoints, {"a": 1}, {})
        outcome = train(
            parallel.replicate(jax.tree.map(np.asarray, restored)),
            batches(),
            key,
            Work(update, lambda step: 0.1, evaluate),
            Plan(40, ROWS, log_every=5, eval_every=6, save_every=20, sample_every=40),
            run,
            checkpoints,
        )
        assert outcome.stopped_by
        assert outcome.step == int(outcome.state.step) == checkpoints.steps[-1]
        assert outcome.step == (8 if processes == 1 else 10), outcome.step
        checkpoints.close()

    assert parallel.any_process(process == processes - 1)
    assert not parallel.any_process(False)
    result["losses"] = losses
    result |= {
        f"weights/{name}": leaf for name, leaf in jax.device_get(restored.params).named().items()
    }
    result |= {f"ema/{name}": leaf for name, leaf in jax.device_get(restored.ema).named().items()}
    result["devices"] = jax.device_count()
    if process == 0:
        np.savez(out, **result)
    parallel.barrier("done")


main(*sys.argv[1:])
