"""Networks trained on real and on generated images, compared on real test images.

Source: Yazdani et al. 2025, Table 3.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation import downstream, synthetic, tables
from motfm_jax.io.hashes import hash_arrays


class Splits(NamedTuple):
    """Real images: the networks learn from `train`, `valid` chooses the epoch, `test` gives the
    numbers."""

    train: Arrays
    valid: Arrays
    test: Arrays


class Study(NamedTuple):
    """What is trained.

    Attributes:
      task: "classify" or "segment".
      depth: of the ResNet, 18 or 50.
      width: channels of its first stage.
      seeds: networks of each kind.
      recipe: how each is trained.
      real: learn from the first so many real training images at most, whole patients in order; 0
        for all.
      alone: leave out the training on real and generated images together.
    """

    task: str
    depth: int = 18
    width: int = 64
    seeds: int = 3
    recipe: downstream.Recipe = downstream.DEFAULT_RECIPE
    real: int = 0
    alone: bool = False


def compare(
    out: Path,
    study: Study,
    real: Splits,
    generated: Mapping[str, Arrays],
    intensity: Intensity,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Trains on the real images, on each generated set, and on real and generated together.

    Writes downstream.{json,md,csv}, and network.npz, the first network trained on real images, as a
    feature extractor for `evaluation.score`. A network that is done is not trained again.

    Args:
      out: folder, made where it does not exist.
      study: see `Study`.
      real: see `Splits`.
      generated: sets by name, of `synthetic.read_generated`.
      intensity: of the model that the images come from.
      overwrite: replace results of other settings.
      progress: called after each epoch.

    Returns:
      A row for each training set: mean and standard deviation over seeds of each measure.

    Raises:
      ValueError: data that the task cannot learn, a set with another's name, or results of other
        settings in the folder.
    """
    if study.seeds < 1:
        raise ValueError(f"--seeds={study.seeds}: at least 1")
    train = synthetic.first_patients(real.train, study.real) if study.real else real.train
    sets = {"real": train}
    for name, arrays in generated.items():
        own = {name: arrays}
        if not study.alone:
            own[f"real + {name}"] = synthetic.join(train, arrays)
        if own.keys() & sets.keys():
            raise ValueError(
                f"a generated set named {name!r}: another set has that name; rename it"
            )
        sets |= own
    task = downstream.make_task(study.task, study.depth, real.train, study.width)
    epochs, batch_size, lr = study.recipe
    settings = {
        "task": study.task,
        "depth": study.depth,
        "width": study.width,
        "epochs": epochs,
        "batch": batch_size,
        "lr": lr,
        "intensity": intensity.to_json(),
        "tested_on": len(real.test),
        "sets": {
            name: [len(arrays), hash_arrays({"images": np.asarray(arrays.images)})]
            for name, arrays in sets.items()
        },
    }
    results = tables.Results(out / "downstream.json", settings, overwrite)
    predict = downstream.predictor(task)
    for seed in range(study.seeds):
        for name, arrays in sets.items():
            network = out / "network.npz" if name == "real" and seed == 0 else None
            if results.has(trained_on=name, seed=seed) and (network is None or network.is_file()):
                continue
            show = progress and functools.partial(
                _show, progress, f"{name}, seed {seed}: {task.best}", task.best, epochs
            )
            fitted = downstream.fit(
                task, arrays, real.valid, intensity, study.recipe, seed=seed, progress=show
            )
            if network is not None:
                downstream.write_network(
                    network, fitted.params, study.task, study.depth, study.width
                )
            scores = task.score(predict(fitted.params, real.test, intensity), real.test)
            results.add({"trained_on": name, "seed": seed}, {"best_epoch": fitted.epoch, **scores})
    first = f"; real: the first {len(train)} training images"
    rows = tables.mean_and_spread(results.rows, "trained_on", downstream.MEASURES[study.task])
    tables.Table(
        f"Tested on {len(real.test)} real images; mean ± standard deviation of {study.seeds} "
        f"seed{'s' * (study.seeds > 1)}{first * bool(study.real)}.",
        rows,
    ).write(out / "downstream")
    return rows


def _show(
    progress: Progress,
    what: str,
    measure: str,
    epochs: int,
    epoch: int,
    loss: float,
    measures: Mapping[str, float],
) -> None:
    """`downstream.fit`'s progress on the terminal's."""
    progress(f"{what} {measures[measure]:.3g}", epoch, epochs)
