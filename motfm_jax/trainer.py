"""One training run, from a config to checkpoints."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from motfm_jax import build, datasets, parallel, runs, settings
from motfm_jax.data import pipeline
from motfm_jax.data.records import Facts
from motfm_jax.io import pictures
from motfm_jax.io.checkpoints import Checkpoints, check_parameters, restore_weights
from motfm_jax.io.folders import read_json
from motfm_jax.io.run_folder import (
    MAY_CHANGE,
    Run,
    check_workdir,
    has_checkpoints,
    is_untrained,
    leaves,
    open_run,
    read_metrics,
)
from motfm_jax.methods import METHODS
from motfm_jax.nn.control import attach
from motfm_jax.sampling import generate
from motfm_jax.training import loop, memory
from motfm_jax.training.packing import Packing
from motfm_jax.training.state import TrainState, init_state
from motfm_jax.training.step import make_eval_step, make_train_step

GRID_IMAGES = 8
SHOWN_FAULTS = 5  # lines a split


def num_steps(config: ConfigDict, num_examples: int) -> int:
    """Optimiser updates in all: `train.steps`, or `train.epochs` passes over the data."""
    return config.train.steps or config.train.epochs * -(-num_examples // config.train.batch_size)


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    data: datasets.Data | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> loop.Outcome:
    """Trains as the config says; every process of a run calls it.

    Args:
      config: resolved and checked.
      workdir: run directory.
      data: of `datasets.data`; None reads what config.data names.
      resume: go on with the run in it; start afresh where nothing is yet.
      overwrite: delete the run in it.

    Raises:
      ValueError: data, config and device do not fit together, or the directory cannot be had.
      NonFiniteError: the loss or a gradient was not finite.
    """
    train_config, first = config.train, jax.process_index() == 0
    if first:
        check_workdir(workdir, resume=resume, overwrite=overwrite)
    parallel.check_batch_size(train_config.batch_size, train_config.accumulation)
    data = data or datasets.data(config, _data_progress if first else None)
    model = build.architecture(config, data.facts)
    total = num_steps(config, len(data.train))
    optimizer, learning_rate = build.update(config, total)
    refresh, ranks = model.parts.refresh, METHODS[config.method].ranks
    base = {}
    if train_config.base and (overwrite or not has_checkpoints(workdir)):
        base = runs.base_weights(config, data.facts)
    loss = build.loss(config, model)

    resolved = config.to_dict()
    if not first:
        parallel.barrier("run directory")
    # Converted weights have no optimiser yet: how they are trained is free, what they are is not.
    converted = resume and is_untrained(workdir)
    may_change = MAY_CHANGE
    if converted:
        weights = converted_weights(workdir, model, data.facts)
        may_change = [
            name
            for name, _ in leaves(resolved)
            if not name.startswith(("model.", "method", "cond")) and name != "data.mask_encoding"
        ]
    with open_run(
        workdir,
        resolved,
        resume=resume,
        overwrite=overwrite,
        writes=first,
        may_change=may_change,
        defaults=settings.default().to_dict(),
    ) as run:
        if first:
            parallel.barrier("run directory")
        if resume and not converted:
            check_facts(run.path / "facts.json", data.facts)
        run.write_json("facts.json", data.facts.to_json())
        if config.data.on_fault == "skip":
            run.write_json("skipped.json", skipped(data))
        packing = Packing(jax.eval_shape(model.init, jax.random.key(0)))
        checkpoints = Checkpoints(
            run.checkpoints,
            resolved,
            data.facts.to_json(),
            train_config.keep_every,
            lambda state: packing.by_name(jax.device_get(state)),
        )
        init_key, run_key, valid_key = jax.random.split(jax.random.key(config.seed), 3)
        make_state = jax.jit(
            lambda key, unet: init_state(
                packing.pack(attach(model.init(key), unet)), optimizer, train_config.ema
            )
        )
        if converted:
            state = jax.jit(
                lambda params: init_state(packing.pack(params), optimizer, train_config.ema)
            )(weights)
        elif checkpoints.steps:
            state = packing.by_group(
                checkpoints.restore(
                    jax.eval_shape(lambda key: packing.by_name(make_state(key, {})), init_key)
                )
            )
        else:
            state = make_state(init_key, base)
        start = int(state.step)
        starts = parallel.gather(np.int32(start)).tolist()
        if len(set(starts)) > 1:
            raise ValueError(
                f"{run.checkpoints}: the processes read checkpoints of different steps ({starts}); "
                "see that all have the same files, then --resume"
            )
        run.start(start)
        if first:
            lines = startup_lines(config, data, model, state.params, total, start)
            if converted:
                lines.append("starts from converted weights, with a fresh optimiser")
            print("\n".join(lines), flush=True)
        grid = sample_grid(model, data, run, config)

        def examine(compiled: Any, state: TrainState) -> None:
            line = memory.describe(
                memory.of_training(compiled, state.params),
                train_config.batch_size,
                train_config.accumulation,
                jax.device_count(),
            )
            if first:
                tqdm.write(line)

        try:
            outcome = loop.train(
                parallel.replicate(state),
                pipeline.train_batches(
                    data.examples("train"),
                    batch_size=train_config.batch_size,
                    seed=config.seed,
                    start_step=start,
                    augment=datasets.augmentation(config, data.facts),
                    num_workers=config.data.workers,
                    process_index=jax.process_index(),
                    process_count=jax.process_count(),
                ),
                key=run_key,
                update=parallel.train_step(
                    make_train_step(
                        packing.taking(loss),
                        optimizer,
                        train_config.ema,
                        train_config.accumulation,
                        parallel.AXIS,
                        refresh and packing.within(refresh),
                    ),
                    examine,
                ),
                # An adversarial loss ranks no checkpoints: the best is the last.
                evaluate=None
                if not ranks
                else parallel.evaluator(
                    make_eval_step(packing.taking(loss)), _valid_batches(config, data), valid_key
                ),
                learning_rate=learning_rate,
                run=run,
                checkpoints=checkpoints,
                num_steps=total,
                batch_size=train_config.batch_size,
                log_every=train_config.log_every,
                eval_every=train_config.eval_every,
                save_every=train_config.save_every,
                hooks=[
                    loop.Hook(
                        train_config.sample_every,
                        lambda step, weights: grid(
                            step, parallel.replicate(packing.unpack(jax.device_get(weights)))
                        ),
                    )
                ],
            )
        finally:
            checkpoints.wait()
            checkpoints.close()
            if first:
                draw_losses(run.path)
    parallel.barrier("done")  # JAX aborts a process that leaves long before another
    return outcome


def _valid_batches(config: ConfigDict, data: datasets.Data) -> Callable:
    devices = jax.device_count()
    rows = config.train.batch_size // config.train.accumulation
    return lambda: pipeline.eval_batches(
        data.examples("valid"),
        batch_size=max(rows // devices, 1) * devices,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def check_facts(path: Path, facts: Facts) -> None:
    """Raises ValueError where the data of a run to resume is not what it was."""
    if not path.exists():
        return
    old, new = read_json(path), json.loads(json.dumps(facts.to_json()))
    if not isinstance(old, dict):
        raise ValueError(f"{path}: holds no facts; restore it from a copy, or delete it")
    changed = [
        f"{name} was {value}, is {new.get(name, 'absent')}"
        for name, value in old.items()
        if name not in new or new[name] != value
    ]
    if changed:
        raise ValueError(
            f"{path}: the data changed since the run began: {'; '.join(changed)}; resume with the "
            "data it had, or give another --workdir"
        )


def converted_weights(run: Path, model: build.Architecture, facts: Facts) -> dict[str, np.ndarray]:
    """The weights of a converted run, for training on this data; touches nothing.

    Raises:
      ValueError: the data has other channels, classes or mask labels than the network.
    """
    weights = restore_weights(run)
    known = runs.read_facts(weights)
    for name, there, here in (
        ("image channels", known.channels, facts.channels),
        ("classes", len(known.classes), len(facts.classes)),
    ):
        if there and there != here:
            raise ValueError(
                f"{run}: the network has {there} {name}, the data {here}; give the data that it "
                "was trained on, --config.data.root=PATH"
            )
    check_parameters(
        weights.params, jax.eval_shape(model.init, jax.random.key(0)), str(weights.path)
    )
    return weights.params


def draw_losses(path: Path) -> None:
    """loss.png of a run: training loss between log points, and validation loss."""
    rows = read_metrics(path)
    curves = {}
    for name, key in (("training", "loss"), ("validation", "valid_loss")):
        points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
        if points:
            curves[name] = tuple(zip(*points))
    if curves:
        # An adversarial loss may fall below 0.
        positive = all(min(losses) > 0 for _, losses in curves.values())
        pictures.write_curves(
            path / "loss.png", curves, xlabel="training step", ylabel="loss", log=positive
        )


def startup_lines(
    config: ConfigDict,
    data: datasets.Data,
    model: build.Architecture,
    params: dict,
    total: int,
    start: int,
) -> list[str]:
    """What a reader of the log must know: device, network, data."""
    devices, batch = jax.devices(), config.train.batch_size
    splits = ", ".join(
        f"{name} {len(part)} images of {len({meta['patient'] for meta in part.meta})} patients"
        for name, part in (("train", data.train), ("valid", data.valid))
    )
    low, high = data.intensity.range
    per_epoch = -(-len(data.train) // batch)
    lines = [
        f"device: {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
        f"{jax.process_count()} process{'es' * (jax.process_count() > 1)}; "
        f"compute in {np.dtype(model.dtype).name}, parameters in float32",
        f"network: {sum(leaf.size for leaf in params.values()):,} parameters, "
        f"{config.method}, condition {config.cond}, images {' x '.join(map(str, data.facts.size))}",
        *(
            [f"the UNet of {config.train.base} stays as it is: the mask UNet is trained"]
            if config.train.base
            else []
        ),
        *model.sites,
        f"data: {splits}; intensity {data.intensity.mode} per {data.intensity.scope}: "
        f"{data.intensity.low:g} .. {data.intensity.high:g} -> {low:g} .. {high:g}",
        f"batch: {batch} images an update ({len(devices)} devices x "
        f"{batch // len(devices) // config.train.accumulation} x {config.train.accumulation} "
        f"accumulated); {per_epoch} updates an epoch, {total} in all",
    ]
    for split, faults in skipped(data).items():
        lines += [f"{split}: {len(faults)} left out, listed in skipped.json"] * bool(faults)
        lines += [f"  {fault}" for fault in faults[:SHOWN_FAULTS]]
    if start:
        lines.append(f"resumed after update {start}")
    return lines


def skipped(data: datasets.Data) -> dict[str, list[str]]:
    """What was left out, by split: a line an example, its file and the reason."""
    return {"train": list(data.train.skipped), "valid": list(data.valid.skipped)}


def _data_progress(done: int, total: int) -> None:
    """Decoding happens once; after that the cache is read."""
    if sys.stderr.isatty() or done == total:
        tqdm.write(f"decoded {done} of {total}", end="\n" if done == total else "\r")


def sample_grid(
    model: build.Architecture, data: datasets.Data, run: Run, config: ConfigDict
) -> Callable[[int, Any], None]:
    """A hook that samples for the first validation examples and writes samples/STEP.png."""
    devices = jax.local_device_count()
    num = max(GRID_IMAGES // devices, 1) * devices
    shown = data.valid.take(np.arange(num) % len(data.valid))
    masks = shown.masks if "mask" in config.cond else None
    bundle = runs.bundle(model, {}, data.facts, config, run.path)
    rows, shape = np.arange(num), (*data.facts.size, data.facts.channels)
    if data.start:
        starts, clean = pipeline.read_pairs(
            data.examples("valid"), rows % len(data.valid), config.seed
        )
    else:
        starts = generate.start_noise(config.seed, rows, shape)
    solver = bundle.solver()
    keys = generate.fresh_keys(config.seed, rows, solver)
    sampler = generate.make_sampler(bundle, solver, raw=data.start is not None)

    def hook(step: int, weights: Any) -> None:
        if jax.process_index():
            return
        solved = sampler(weights, generate.Rows(starts, shown.masks, shown.labels, keys))
        path = run.samples / f"{step:07d}.png"
        if data.start:
            pictures.write_comparison(
                path, {"source": starts, "generated": solved.images, "real": clean}
            )
        else:
            pictures.write_samples(path, solved.images, masks=masks)
        run.log_image(step, "samples", np.asarray(Image.open(path).convert("RGB")))

    return hook
