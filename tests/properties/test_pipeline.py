"""The order of examples and their augmentation are one stream, however it is dealt out."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.data.augment import Augment
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pipeline import Examples, eval_batches, train_batches
from motfm_jax.data.speckle import Speckle

LONGEST = 72  # examples of a stream that are looked at
AUGMENT, SPECKLE = Augment(flip=True, affine=0.2, gamma=0.3), Speckle((0.02, 0.2))
COUNTS, SEEDS = st.sampled_from([1, 5, 12, 30]), st.integers(0, 2)
PROCESSES, ROWS = st.integers(1, 4), st.integers(1, 6)
FIELDS = ("image", "mask", "label", "source")


@functools.cache
def data(count):
    random = np.random.default_rng(count)
    arrays = Arrays(
        images=random.normal(size=(count, 6, 5, 1)).astype(np.float32),
        masks=random.integers(0, 4, (count, 6, 5)).astype(np.uint8),
        labels=random.integers(0, 3, count).astype(np.int32),
        meta=[{"name": f"r{index}", "patient": f"p{index}"} for index in range(count)],
    )
    return Examples(arrays, Intensity.fit(arrays.images), SPECKLE)


def joined(batches):
    """Their rows in a line."""
    return [np.concatenate([getattr(batch, name) for batch in batches]) for name in FIELDS]


@functools.cache
def stream(count, seed):
    """The first examples, one by one."""
    batches = train_batches(data(count), batch_size=1, seed=seed, augment=AUGMENT)
    return joined(list(itertools.islice(batches, LONGEST)))


def assert_dealt(count, seed, processes, rows, start, workers=0):
    """All processes' batches from step `start` on are the stream's rows, each at its place."""
    size = processes * rows
    for process in range(processes):
        batches = train_batches(
            data(count),
            batch_size=size,
            seed=seed,
            start_image=start * size,
            num_workers=workers,
            process_index=process,
            process_count=processes,
            augment=AUGMENT,
        )
        for step, batch in enumerate(itertools.islice(batches, 2), start):
            assert batch.index.tolist() == list(range(process, size, processes))
            assert batch.valid.all()
            for name, expected in zip(FIELDS, stream(count, seed)):
                np.testing.assert_array_equal(
                    getattr(batch, name), expected[step * size + batch.index], err_msg=name
                )


@pytest.mark.slow
@given(COUNTS, SEEDS, PROCESSES, ROWS, st.data())
def test_processes_batch_sizes_and_resuming_deal_out_one_stream(count, seed, processes, rows, data):
    last = LONGEST // (processes * rows) - 2
    assert_dealt(count, seed, processes, rows, start=data.draw(st.integers(0, last)))


@pytest.mark.nightly
@pytest.mark.parametrize("workers, processes, rows, start", [(1, 2, 3, 5), (3, 1, 4, 1)])
def test_so_do_worker_processes(workers, processes, rows, start):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    assert_dealt(12, 0, processes, rows, start, workers)


@given(COUNTS, SEEDS)
def test_every_pass_holds_each_example_once(count, seed):
    plain = train_batches(data(count), batch_size=count, seed=seed)
    whole = np.sort(data(count).intensity.apply(data(count).arrays.images).ravel())
    for batch in itertools.islice(plain, 2):
        np.testing.assert_array_equal(np.sort(batch.image.ravel()), whole)


@functools.cache
def evaluated(count, seed):
    batches = eval_batches(data(count), batch_size=1, seed=seed)
    return joined(list(batches))


@given(COUNTS, SEEDS, PROCESSES, ROWS)
def test_evaluation_is_one_pass_in_order_however_it_is_split(count, seed, processes, rows):
    seen = []
    for process in range(processes):
        batches = eval_batches(
            data(count),
            batch_size=processes * rows,
            seed=seed,
            process_index=process,
            process_count=processes,
        )
        for batch in batches:
            seen += batch.index[batch.valid].tolist()
            for name, expected in zip(FIELDS, evaluated(count, seed)):
                np.testing.assert_array_equal(
                    getattr(batch, name), expected[batch.index], err_msg=name
                )
    assert sorted(seen) == list(range(count))


@given(SEEDS)
def test_equal_images_get_speckle_of_their_own(seed):
    five = data(5)
    equal = dataclasses.replace(five.arrays, images=np.repeat(five.arrays.images[:1], 5, axis=0))
    examples = Examples(equal, five.intensity, SPECKLE)
    [batch] = eval_batches(examples, batch_size=5, seed=seed)
    assert len({source.tobytes() for source in batch.source}) == 5
