import dataclasses
import itertools

import numpy as np
import pytest
from absl import flags

from motfm_jax.data.augment import Augment
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pipeline import Examples, eval_batches, read_pairs, train_batches
from motfm_jax.data.speckle import Speckle

IDENTITY = Intensity.fit([], mode="none")
AUGMENT = Augment(flip=True, affine=0.2, gamma=0.3)


def arrays_of(count, shape=(8, 8), conditioned=True):
    """Image i holds i everywhere but for one gradient; so do its mask (mod 4) and label (mod 3)."""
    images = np.zeros((count, *shape, 1), np.int16)
    images += np.arange(count, dtype=np.int16).reshape(-1, *(1 for _ in shape), 1) * 100
    images += np.arange(shape[-1], dtype=np.int16)[:, None]
    masks = np.zeros((count, *shape), np.uint8)
    masks += (np.arange(count, dtype=np.uint8) % 4).reshape(-1, *(1 for _ in shape))
    return Arrays(
        images=images,
        masks=masks if conditioned else None,
        labels=np.arange(count, dtype=np.int32) % 3 if conditioned else None,
        meta=[{"name": f"r{index}", "patient": f"p{index}"} for index in range(count)],
    )


def first(batches, count):
    return list(itertools.islice(batches, count))


def numbers(batch):
    """Which example each row is."""
    return (batch.image[:, 0, 0, 0] // 100).astype(int).tolist()


def assert_equal(one, two):
    for left, right in zip(one, two, strict=True):
        for name in ("image", "mask", "label", "valid", "index"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def test_a_training_batch_is_what_the_step_expects():
    arrays = arrays_of(20)
    [batch] = first(train_batches(Examples(arrays, IDENTITY), batch_size=6, seed=0), 1)
    assert batch.image.shape == (6, 8, 8, 1) and batch.image.dtype == np.float32
    assert batch.mask.shape == (6, 8, 8) and batch.mask.dtype == np.uint8
    assert batch.label.shape == (6,) and batch.label.dtype == np.int32
    assert batch.valid.all() and batch.index.tolist() == list(range(6)) and batch.source is None
    for row, number in enumerate(numbers(batch)):
        np.testing.assert_array_equal(batch.image[row], arrays.images[number])
        assert (batch.mask[row] == number % 4).all() and batch.label[row] == number % 3
    bare = next(
        train_batches(Examples(arrays_of(4, conditioned=False), IDENTITY), batch_size=2, seed=0)
    )
    assert bare.mask is None and bare.label is None


def test_every_pass_holds_each_example_once_in_its_own_order():
    batches = first(train_batches(Examples(arrays_of(12), IDENTITY), batch_size=4, seed=0), 6)
    rows = [number for batch in batches for number in numbers(batch)]
    assert sorted(rows[:12]) == sorted(rows[12:]) == list(range(12))
    assert rows[:12] != rows[12:] and rows[:12] != list(range(12))
    other = first(train_batches(Examples(arrays_of(12), IDENTITY), batch_size=4, seed=1), 3)
    assert [number for batch in other for number in numbers(batch)] != rows[:12]


def test_images_come_scaled():
    arrays = arrays_of(6)
    intensity = Intensity.fit(arrays.images, "minmax", "dataset", (-1, 1))
    [batch] = first(train_batches(Examples(arrays, intensity), batch_size=6, seed=0), 1)
    np.testing.assert_allclose((batch.image.min(), batch.image.max()), (-1, 1), atol=1e-6)


def test_a_data_set_smaller_than_the_batch_is_repeated_within_it():
    batches = first(train_batches(Examples(arrays_of(3), IDENTITY), batch_size=8, seed=0), 3)
    rows = [number for batch in batches for number in numbers(batch)]
    assert len(rows) == 24
    for start in range(0, 24, 3):
        assert sorted(rows[start : start + 3]) == [0, 1, 2]


@pytest.mark.parametrize("augment", [None, AUGMENT], ids=["plain", "augmented"])
def test_two_processes_see_the_global_batch_of_one(augment):
    arrays = arrays_of(10)
    whole = first(
        train_batches(Examples(arrays, IDENTITY), batch_size=6, seed=5, augment=augment), 5
    )
    parts = [
        first(
            train_batches(
                Examples(arrays, IDENTITY),
                batch_size=6,
                seed=5,
                augment=augment,
                process_index=process,
                process_count=2,
            ),
            5,
        )
        for process in range(2)
    ]
    for step, batch in enumerate(whole):
        for process in range(2):
            part = parts[process][step]
            assert part.index.tolist() == [process, process + 2, process + 4]
            np.testing.assert_array_equal(part.image, batch.image[part.index])
            np.testing.assert_array_equal(part.mask, batch.mask[part.index])
            np.testing.assert_array_equal(part.label, batch.label[part.index])


@pytest.mark.parametrize("start_step", [3, 7])
def test_resuming_continues_exactly(start_step):
    arrays, options = arrays_of(10), dict(batch_size=4, seed=2, augment=AUGMENT)
    whole = first(train_batches(Examples(arrays, IDENTITY), **options), 10)
    resumed = train_batches(Examples(arrays, IDENTITY), start_image=4 * start_step, **options)
    assert_equal(first(resumed, 10 - start_step), whole[start_step:])


def test_another_batch_size_continues_after_the_images_seen():
    examples, options = Examples(arrays_of(10), IDENTITY), dict(seed=2, augment=AUGMENT)
    whole = first(train_batches(examples, batch_size=4, **options), 5)
    resumed = first(train_batches(examples, batch_size=2, start_image=12, **options), 4)
    np.testing.assert_array_equal(
        np.concatenate([batch.image for batch in resumed]),
        np.concatenate([batch.image for batch in whole[3:]]),
    )


def test_augmentation_differs_between_passes():
    batches = first(
        train_batches(Examples(arrays_of(2), IDENTITY), batch_size=2, seed=0, augment=AUGMENT), 4
    )
    seen = {image.tobytes() for batch in batches for image in batch.image}
    assert len(seen) == 8


@pytest.mark.nightly
def test_worker_processes_give_the_same_batches_and_resume():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    arrays, options = arrays_of(10), dict(batch_size=4, seed=2, augment=AUGMENT)
    whole = first(train_batches(Examples(arrays, IDENTITY), **options), 7)
    assert_equal(
        first(train_batches(Examples(arrays, IDENTITY), num_workers=2, **options), 7), whole
    )
    resumed = train_batches(Examples(arrays, IDENTITY), num_workers=2, start_image=12, **options)
    assert_equal(first(resumed, 4), whole[3:])


@pytest.mark.parametrize("count, batch_size", [(10, 4), (8, 4), (3, 4), (1, 2)])
@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_visits_each_example_once_in_order(count, batch_size, process_count):
    arrays = arrays_of(count)
    processes = [
        list(
            eval_batches(
                Examples(arrays, IDENTITY),
                batch_size=batch_size,
                process_index=process,
                process_count=process_count,
            )
        )
        for process in range(process_count)
    ]
    assert {len(batches) for batches in processes} == {-(-count // batch_size)}
    seen = []
    for batches in processes:
        for batch in batches:
            assert len(batch.image) == batch_size // process_count
            assert numbers(batch) == batch.index.tolist()
            seen += batch.index[batch.valid].tolist()
    assert sorted(seen) == list(range(count))
    if process_count == 1:
        assert seen == sorted(seen)


def test_a_constant_image_is_named_where_its_own_range_is_needed():
    arrays = arrays_of(3)
    intensity = Intensity.fit(arrays.images, "minmax", "sample")
    arrays.images[1] = 5
    with pytest.raises(ValueError, match="r1: intensities from 5 to 5"):
        list(eval_batches(Examples(arrays, intensity), batch_size=3))


def test_impossible_batches_and_seeds_are_refused():
    with pytest.raises(ValueError, match="batch size 5 does not divide over 2 processes"):
        train_batches(Examples(arrays_of(3), IDENTITY), batch_size=5, seed=0, process_count=2)
    with pytest.raises(ValueError, match="batch size 5"):
        eval_batches(Examples(arrays_of(3), IDENTITY), batch_size=5, process_count=2)
    with pytest.raises(ValueError, match="seed"):
        train_batches(Examples(arrays_of(3), IDENTITY), batch_size=5, seed=2**32)


def test_workers_need_parsed_flags(monkeypatch):
    monkeypatch.setattr("motfm_jax.data.pipeline.flags.FLAGS", flags.FlagValues())
    with pytest.raises(ValueError, match=r"num_workers=1: .*absl\.app\.run"):
        train_batches(Examples(arrays_of(3), IDENTITY), batch_size=3, seed=0, num_workers=1)


def test_batches_of_one_resume_anywhere():
    rows = [
        numbers(batch)[0]
        for batch in first(train_batches(Examples(arrays_of(3), IDENTITY), batch_size=1, seed=0), 6)
    ]
    assert sorted(rows[:3]) == sorted(rows[3:]) == [0, 1, 2]
    later = first(
        train_batches(Examples(arrays_of(3), IDENTITY), batch_size=1, seed=0, start_image=4), 2
    )
    assert [numbers(batch)[0] for batch in later] == rows[4:]


def paired(count):
    """Sources are the images' negatives."""
    arrays = arrays_of(count)
    return dataclasses.replace(arrays, sources=-arrays.images.astype(np.float32))


def test_sources_of_another_channel_are_scaled_on_their_own_and_move_with_the_image():
    twice = dataclasses.replace(IDENTITY, mode="minmax", low=0.0, high=1.0, range=(0.0, 2.0))
    moving = Augment(flip=True, affine=0.2)
    for batches in (
        train_batches(Examples(paired(6), IDENTITY, twice), batch_size=6, seed=0, augment=moving),
        eval_batches(Examples(paired(6), IDENTITY, twice), batch_size=6),
    ):
        batch = next(batches)
        assert batch.source.dtype == np.float32
        inside = batch.image[:, 3:5, 3:5]  # beyond the edge each fills with its own smallest value
        np.testing.assert_allclose(batch.source[:, 3:5, 3:5], -2 * inside, rtol=1e-5, atol=1e-3)


def test_speckle_of_an_example_depends_on_the_seed_and_its_position_alone():
    scale = Intensity.fit(arrays_of(6).images, "minmax", "dataset", (-1.0, 1.0))
    examples = Examples(arrays_of(6), scale, Speckle((0.02, 0.2)))

    def sources(batch_size, seed):
        batches = eval_batches(examples, batch_size=batch_size, seed=seed)
        return np.concatenate([batch.source[batch.valid] for batch in batches])

    whole = sources(6, 0)
    np.testing.assert_array_equal(whole, sources(4, 0))
    assert np.abs(whole - sources(6, 1)).mean() > 0.01
    pairs = read_pairs(examples, np.array([4, 1]))
    np.testing.assert_array_equal(pairs[0], whole[[4, 1]])
    np.testing.assert_array_equal(pairs[1], scale.apply(arrays_of(6).images[[4, 1]]))


def test_training_draws_new_speckle_at_every_pass_and_the_same_after_resuming():
    scale = Intensity.fit(arrays_of(4).images, "minmax", "dataset", (-1.0, 1.0))
    options = dict(batch_size=4, seed=0, augment=AUGMENT)
    examples = Examples(arrays_of(4), scale, Speckle((0.05, 0.05)))
    batches = first(train_batches(examples, **options), 3)
    noise = [batch.source - batch.image for batch in batches]
    assert np.abs(noise[0] - noise[1]).mean() > 0.01 and np.abs(noise[0]).mean() > 0.01
    resumed = first(train_batches(examples, start_image=8, **options), 1)
    np.testing.assert_array_equal(resumed[0].source, batches[2].source)
    shared = [
        first(train_batches(examples, process_index=index, process_count=2, **options), 1)[0].source
        for index in (0, 1)
    ]
    np.testing.assert_array_equal(
        np.stack(shared, 1).reshape(batches[0].source.shape), batches[0].source
    )
