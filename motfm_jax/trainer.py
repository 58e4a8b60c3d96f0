"""One training run, from a config to checkpoints."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from motfm_jax import build, datasets, parallel, runs, settings, updates
from motfm_jax.core import Array, Batch
from motfm_jax.data import pipeline
from motfm_jax.data.facts import Facts
from motfm_jax.fields import LARGEST
from motfm_jax.io import pictures
from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.io.folders import differences, read_json
from motfm_jax.io.progress import progress_bar
from motfm_jax.io.run_folder import (
    MAY_CHANGE,
    PARENT,
    Run,
    check_workdir,
    has_checkpoints,
    is_untrained,
    leaves,
    open_run,
)
from motfm_jax.io.tiles import shared_view
from motfm_jax.methods import METHODS
from motfm_jax.sampling import generate
from motfm_jax.training import loop
from motfm_jax.training.reports import (
    draw_losses,
    parent_lines,
    resume_lines,
    skipped,
    startup_lines,
)
from motfm_jax.training.state import Packed, TrainState, by_name, restored
from motfm_jax.training.step import make_eval_step

log = logging.getLogger(__name__)

GRID_IMAGES = 8


def num_steps(config: ConfigDict, num_examples: int, start: int = 0, images: int = 0) -> int:
    """Optimiser updates in all: `train.steps`, or `train.epochs` passes over the data.

    Args:
      config: resolved.
      num_examples: of the training split.
      start, images: updates made before a resume, and images seen in them.
    """
    batch = config.train.batch_size
    epochs = config.train.epochs * -(-num_examples // batch)
    left = -(-(epochs * batch - images) // batch)
    return config.train.steps or start + max(left, 0)


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    data: datasets.Data | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> loop.Outcome:
    """Trains a config's model; every process of a run calls it.

    Args:
      config: resolved and checked.
      workdir: run directory.
      data: of `datasets.data`; None reads what config.data names.
      resume: continue the run in it; start if there is none yet.
      overwrite: delete the run in it.
      progress: shows a bar in a terminal or notebook.

    Raises:
      ValueError: data, config and device do not fit together, or the directory is refused.
      NonFiniteError: the loss or a gradient was not finite.
    """
    first = jax.process_index() == 0
    if first:
        check_workdir(workdir, resume=resume, overwrite=overwrite)
    parallel.check_batch_size(config.train.batch_size, config.train.accumulation)
    if data is None:
        with progress_bar(show=progress and first) as decoding:
            past = datasets.facts_of(workdir) if resume else None
            data = datasets.data(config, decoding, facts=past)
    model = build.architecture(config, data.facts)
    weights, parent = {}, None
    begins = overwrite or not has_checkpoints(workdir)
    # Converted weights have no optimiser yet: training them is a new run of the same network.
    converted = resume and is_untrained(workdir)
    if converted:
        weights = runs.converted_weights(workdir, model, data.facts)
    elif config.train.base and begins:
        weights = runs.base_weights(config, data.facts)
    elif config.train.teacher and begins:
        weights = runs.teacher_weights(config, data.facts)
    elif config.train.init_from and begins:
        weights, parent = runs.inherited_weights(config, model, data.facts, _keys(config)[0])
    if not first:
        parallel.barrier("run directory")
    with open_run(
        workdir,
        config.to_dict(),
        resume=resume,
        overwrite=overwrite,
        writes=first,
        may_change=_may_change(config, converted),
        defaults=settings.default().to_dict(),
    ) as run:
        if first:
            parallel.barrier("run directory")
        if converted and first:
            log.info("starts from converted weights, with a fresh optimiser")
        elif resume and not converted:
            check_facts(run.path / "facts.json", data.facts)
        run.write_json("facts.json", data.facts.to_json())
        if parent and first:
            run.write_json(PARENT, parent)
            for line in parent_lines(parent):
                log.info(line)
        if config.data.on_fault == "skip":
            run.write_json("skipped.json", skipped(data))
        with _checkpoints(run, config, data.facts) as checkpoints:
            outcome = _train(config, data, model, weights, run, checkpoints, progress)
    parallel.barrier("done")  # JAX aborts a process that leaves long before another
    return outcome


def _train(
    config: ConfigDict,
    data: datasets.Data,
    model: build.Architecture,
    weights: Mapping[str, Array],
    run: Run,
    checkpoints: Checkpoints,
    progress: bool,
) -> loop.Outcome:
    fields, first = config.train, jax.process_index() == 0
    optimizer, _ = build.update(config, LARGEST)  # the state is the same for any number of updates
    init_key, run_key, valid_key = _keys(config)

    make_state = functools.partial(updates.initial_state, config, model, optimizer)
    if checkpoints.steps and not weights:
        state = _restore(checkpoints, jax.eval_shape(make_state, init_key, {}))
    else:
        state = jax.jit(make_state)(init_key, weights)
    start = int(state.step)
    check_same_step(start, run.checkpoints)
    images = int(parallel.gather(np.int32(run.start(start, fields.batch_size))).max())
    total = num_steps(config, len(data.train), start, images)
    optimizer, learning_rate = build.update(config, total)
    if first:
        lines = startup_lines(config, data, model, total)
        if start:
            lines += resume_lines(start, images, run.changes, fields.schedule)
        for line in lines:
            log.info(line)
    state, evaluate = parallel.replicate(state), None
    if METHODS[config.method].ranks:
        evaluate = parallel.evaluator(
            make_eval_step(build.loss(config, model)),
            lambda: _valid_batches(config, data),
            valid_key,
        )
    batches = _train_batches(config, data, images)
    update = None  # never called where no update is left
    if start < total:
        batch = next(batches)
        batches = itertools.chain([batch], batches)
        update = updates.fitting(config, data.facts, optimizer, state, batch)
    work = loop.Work(update, learning_rate, evaluate, sample_grid(model, data, run, config))
    plan = loop.Plan(
        total,
        fields.batch_size,
        fields.log_every,
        fields.eval_every,
        fields.save_every,
        fields.sample_every,
    )
    try:
        return loop.train(state, batches, run_key, work, plan, run, checkpoints, progress and first)
    finally:
        if first:
            draw_losses(run.path)


def _keys(config: ConfigDict) -> Array:
    """Of the fresh parameters, the updates and the validation."""
    return jax.random.split(jax.random.key(config.seed), 3)


@contextlib.contextmanager
def _checkpoints(run: Run, config: ConfigDict, facts: Facts) -> Iterator[Checkpoints]:
    checkpoints = Checkpoints(
        run.checkpoints,
        config.to_dict(),
        facts.to_json(),
        config.train.keep_every,
        lambda state: by_name(jax.device_get(state)),
    )
    try:
        yield checkpoints
    finally:
        checkpoints.wait()
        checkpoints.close()


def _restore(checkpoints: Checkpoints, like: TrainState) -> TrainState:
    return restored(checkpoints.restore(jax.eval_shape(by_name, like)), like)


def check_same_step(start: int, folder: Path) -> None:
    """Raises ValueError if the processes restored checkpoints of different steps."""
    starts = parallel.gather(np.int32(start)).tolist()
    if len(set(starts)) > 1:
        raise ValueError(
            f"{folder}: the processes read checkpoints of different steps ({starts}); see that "
            "all have the same files, then --resume"
        )


def _may_change(config: ConfigDict, converted: bool) -> Collection[str]:
    """Fields that may differ from the run resumed; for converted weights all but the network's."""
    if not converted:
        return MAY_CHANGE
    own = ("model.", "method", "cond", "flow.prediction", "data.mask_encoding", "data.augment.told")
    return [name for name, _ in leaves(config.to_dict()) if not name.startswith(own)]


def _train_batches(config: ConfigDict, data: datasets.Data, images: int) -> Iterator[Batch]:
    return pipeline.train_batches(
        data.examples("train"),
        batch_size=config.train.batch_size,
        seed=config.seed,
        start_image=images,
        augment=datasets.augmentation(config),
        num_workers=config.data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _valid_batches(config: ConfigDict, data: datasets.Data) -> Iterator[Batch]:
    devices = jax.device_count()
    rows = config.train.batch_size // config.train.accumulation
    return pipeline.eval_batches(
        data.examples("valid"),
        batch_size=max(rows // devices, 1) * devices,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def check_facts(path: Path, facts: Facts) -> None:
    """Raises ValueError if the data changed since the run began."""
    old = datasets.facts_of(path.parent)
    if old is None:
        return
    added = {"channel_names", "bounds"} - read_json(path).keys()  # of a run of 0.1.0
    if changed := differences(old.to_json(), facts.to_json(), ignore=added):
        raise ValueError(
            f"{path}: the data changed since the run began: {'; '.join(changed)}; resume with the "
            "data it had, or give another --workdir"
        )


def sample_grid(
    model: build.Architecture, data: datasets.Data, run: Run, config: ConfigDict
) -> Callable[[int, Packed], None]:
    """A function that samples for the first validation examples and writes samples/STEP.png."""
    devices = jax.local_device_count()
    num = max(GRID_IMAGES // devices, 1) * devices
    examples = data.valid.take(np.arange(num) % len(data.valid))
    masks = examples.masks if "mask" in config.cond else None
    bundle = runs.bundle(model, {}, data.facts, config, run.path)
    rows = np.arange(num)
    if data.start:
        starts, clean = pipeline.read_pairs(
            data.examples("valid"), rows % len(data.valid), config.seed
        )
    else:
        starts = generate.start_noise(config.seed, rows, bundle.shape)
    solver, names = bundle.solver(), data.facts.channel_names
    keys = generate.fresh_keys(config.seed, rows, solver)
    sampler = generate.make_sampler(bundle, solver, raw=data.start is not None)

    def draw(step: int, weights: Packed) -> None:
        if jax.process_index():
            return
        params = parallel.replicate(jax.device_get(weights).named())
        solved = sampler(params, generate.Rows(starts, examples.masks, examples.labels, keys))
        path = run.samples / f"{step:07d}.png"
        if data.start:
            pictures.write_comparison(
                path,
                {"source": starts, "generated": solved.images, "real": clean},
                view=shared_view(clean, names),
            )
        else:
            view = shared_view(solved.images, names)
            made = solved.masks is not None
            shown = solved.masks if made else masks
            pictures.write_samples(path, solved.images, masks=shown, view=view, outlines=made)
        run.log_image(step, "samples", np.asarray(Image.open(path).convert("RGB")))

    return draw
