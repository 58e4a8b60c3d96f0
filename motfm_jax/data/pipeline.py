"""Cached arrays to batches: Grain for training, a plain pass in order for evaluation."""

import functools
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from motfm_jax.core import Batch
from motfm_jax.data.augment import Augment, layout
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.speckle import Speckle

Start = Speckle | Intensity  # see `Examples`
READ_THREADS = 4


class Examples:
    """Random access to scaled examples, for Grain: dicts of "image", if any "mask", "label" and
    "source", and what `augment.layout` gives.

    Args:
      arrays: raw examples.
      intensity: scales the images.
      start: what a flow starts from instead of noise, which becomes `Batch.source`. A Speckle is
        put on the (augmented) image; an Intensity scales `arrays.sources`.
    """

    def __init__(self, arrays: Arrays, intensity: Intensity, start: Start | None = None):
        self.arrays = arrays
        self.intensity = intensity
        self.speckle = start if isinstance(start, Speckle) else None
        self.source_intensity = start if isinstance(start, Intensity) else None

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        arrays = self.arrays
        meta, image = arrays.meta[index], np.asarray(arrays.images[index])
        name = meta["name"]
        example = {"image": self.intensity.apply(image, name), **layout(meta, image.ndim - 1)}
        if arrays.masks is not None:
            example["mask"] = np.asarray(arrays.masks[index])
        if arrays.labels is not None:
            example["label"] = arrays.labels[index]
        if self.source_intensity is not None:
            example["source"] = self.source_intensity.apply(np.asarray(arrays.sources[index]), name)
        return example


def train_batches(
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    start_image: int = 0,
    augment: Augment | None = None,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless shuffled batches; each pass over the data has its own order and augmentation.

    The images stand in one order, which depends on (examples, seed) alone: not on the batch size,
    the number of processes, workers or threads, nor on where an earlier run stopped.
    A pass may end inside a batch: a data set smaller than the batch appears in it more than once.

    Args:
      batch_size: over all processes; a process gets batch_size / process_count rows, of which
        row r stands at r * process_count + process_index in the global batch (`Batch.index`).
      start_image: images to skip: those that a resumed run has seen.
      augment: changes image, source and mask alike in space; if it is `told`, its numbers become
        `Batch.augment`.
      num_workers: Grain worker processes, 0 for threads. They are spawned: the caller's script
        needs its `if __name__ == "__main__"` guard, and absl flags must have been parsed.

    Raises:
      ValueError: a batch size that does not divide over the processes, a seed beyond 32 bits, or
        workers before the flags were parsed.
    """
    num_rows = _rows_per_process(batch_size, process_count)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed}: Grain takes 0 to {2**32 - 1}")
    if num_workers and not flags.FLAGS.is_parsed():
        raise ValueError(
            f"num_workers={num_workers}: Grain's processes need parsed absl flags; start with "
            "absl.app.run, call absl.flags.FLAGS.mark_as_parsed(), or use 0 workers"
        )
    dataset = grain.MapDataset.source(examples).seed(seed).shuffle()
    # Not without end: Grain then counts sys.maxsize examples, which batches of 1 overflow.
    dataset = dataset.repeat(2**62 // len(examples))
    if augment is not None:
        dataset = dataset.random_map(functools.partial(_augment, augment))
    if examples.speckle is not None:
        dataset = dataset.random_map(functools.partial(_speckled, examples.speckle))
    dataset = dataset[start_image + process_index :: process_count].batch(num_rows)
    threads = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=4 * READ_THREADS)
    dataset = dataset.to_iter_dataset(threads)
    if num_workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers))
    index = np.arange(num_rows, dtype=np.int32) * process_count + process_index
    return (_to_batch(rows, np.ones(num_rows, bool), index.copy()) for rows in dataset)


def eval_batches(
    examples: Examples,
    *,
    batch_size: int,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order, in full batches: the last example is repeated to fill the last
    one, with valid False. `Batch.index` is the position in the split; processes take rows in turn,
    as in training, and get equally many batches. Speckle is drawn from (seed, position in the
    split) alone.

    Raises:
      ValueError: a batch size that does not divide over the processes.
    """
    num_rows, total = _rows_per_process(batch_size, process_count), len(examples)

    def batch(start: int) -> Batch:
        positions = start + np.arange(num_rows, dtype=np.int32) * process_count + process_index
        index = np.minimum(positions, total - 1).astype(np.int32)
        rows = [_for_evaluation(examples, position, seed) for position in index]
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return _to_batch(stacked, positions < total, index)

    return map(batch, range(0, total, batch_size))


def read_pairs(
    examples: Examples, positions: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sources and images of some examples as `eval_batches` yields them: two [B, *S, C], scaled."""
    rows = [_for_evaluation(examples, int(position), seed) for position in positions]
    return tuple(np.stack([row[name] for row in rows]) for name in ("source", "image"))


def _rows_per_process(batch_size: int, process_count: int) -> int:
    if batch_size <= 0 or batch_size % process_count:
        raise ValueError(
            f"batch size {batch_size} does not divide over {process_count} processes: "
            "use a multiple of their number"
        )
    return batch_size // process_count


def _to_batch(rows: dict[str, np.ndarray], valid: np.ndarray, index: np.ndarray) -> Batch:
    optional = (rows.get(name) for name in ("source", "augment"))
    return Batch(rows["image"], rows.get("mask"), rows.get("label"), valid, index, *optional)


def _for_evaluation(examples: Examples, position: int, seed: int) -> dict[str, np.ndarray]:
    example = examples[position]
    if examples.speckle is None:
        return example
    return _speckled(examples.speckle, example, np.random.default_rng([seed, position]))


def _augment(augment: Augment, example: dict, rng: np.random.Generator) -> dict:
    names = [name for name in ("image", "source") if name in example]
    stacked = np.concatenate([example[name] for name in names], axis=-1)
    stacked, mask, numbers = augment(
        stacked, example.get("mask"), rng, example["left_right"], example["spacing_mm"]
    )
    changed = dict(zip(names, np.split(stacked, len(names), axis=-1)))
    changed |= {} if mask is None else {"mask": mask}
    return {**example, **changed, **({"augment": numbers} if augment.told else {})}


def _speckled(speckle: Speckle, example: dict, rng: np.random.Generator) -> dict:
    return {**example, "source": speckle(example["image"], rng)}
