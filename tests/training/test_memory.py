"""What an update needs of memory, before it runs."""

import jax
import numpy as np
import pytest
import two_layers

from motfm_jax import parallel
from motfm_jax.training import memory
from motfm_jax.training.memory import Memory, describe

GB = 10**9


def of_batch(rows: int) -> Memory:
    state, update = two_layers.make_training(lr=1.0)
    compiled = update.compile(state, two_layers.batch_at(0, rows), jax.random.key(0))
    return memory.of_training(compiled, state.params)


@pytest.mark.nightly
def test_memory_of_a_batch_foretells_that_of_a_larger_one():
    small, large = of_batch(64), of_batch(256)
    foretold = small.fixed + (small.needed - small.fixed) * 4
    assert small.fixed < small.needed < large.needed
    assert foretold == pytest.approx(large.needed, rel=0.2)


def test_images_are_those_that_fill_the_device_but_a_tenth():
    assert Memory(needed=4 * GB, fixed=2 * GB, limit=20 * GB).images(2) == 16
    assert Memory(needed=4 * GB, fixed=2 * GB, limit=2 * GB).images(2) == 0


def test_a_line_says_what_an_update_needs_and_what_would_fit():
    line = describe(Memory(4 * GB, 2 * GB, 20 * GB), batch_size=8, accumulation=2, devices=2)
    assert line == (
        "memory: an update of 2 images a device needs 4 GB of 20 GB; about 16 would "
        "fit (train.batch_size=64)"
    )


@pytest.mark.parametrize(
    "fixed, message",
    [
        (2, "train.batch_size=8 fits, and so does train.accumulation=2 with this batch"),
        (9, "too much; model.remat=auto"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_with_a_way_out(fixed, message):
    too_much = Memory((fixed + 8) * GB, fixed * GB, 9 * GB)
    with pytest.raises(ValueError, match=message) as error:
        describe(too_much, batch_size=12, accumulation=1, devices=2)
    assert f"an update of 6 images a device needs {fixed + 8} GB of 9 GB" in str(error.value)


def test_the_program_examined_is_the_one_that_runs():
    state = two_layers.make_training(lr=1.0)[0]
    update = parallel.TrainStep(lambda state, batch, key: (state, batch.image.sum()))
    program = update.compile(state, two_layers.batch_at(0), jax.random.key(0))
    assert memory.needed(program) > np.prod(two_layers.SIZE)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event)
    )
    for step in range(2):
        state, _ = update(state, two_layers.batch_at(step), jax.random.key(0))
    assert not any(event.endswith("backend_compile_duration") for event in compiled)
