"""Measures every generated set of a report and saves each row at once."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax import datasets, runs
from motfm_jax.data.cache import Arrays
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Bound, Intensity
from motfm_jax.evaluation import downstream, synthetic
from motfm_jax.evaluation.audit import FEWEST, Auditor
from motfm_jax.evaluation.downstream import TASKS
from motfm_jax.evaluation.intervals import DRAWS
from motfm_jax.evaluation.published import Networks
from motfm_jax.evaluation.score import scorer
from motfm_jax.evaluation.sets import ImageSet, in_units, of_samples
from motfm_jax.evaluation.spaces import Features
from motfm_jax.evaluation.tables import Results
from motfm_jax.features.weights import default_folder
from motfm_jax.io.folders import read_json
from motfm_jax.io.hashes import hash_batches
from motfm_jax.report.plan import SPLITS, Cell, Plan, anatomies
from motfm_jax.report.stages import downstream_folder, run_folder, sample_folder, sampled

logger = logging.getLogger(__name__)

FLOOR = "real"
COPIES = ("share_closer", "ratio_share", "auc")  # of the audit
VERSION = 3  # raise when rows get other measures, so that old results are measured again


class Real(NamedTuple):
    """Real images of an anatomy, which its sets are compared with.

    Attributes:
      train, reference: as decoded, of the training and of the plan's reference split.
      held_out: those that copies are judged by: the reference, with the other split that was not
        trained on where it alone has too few.
      intensity: of the runs, all of the same data.
      bounds: black and white of scores and pictures.
      facts: of the data.
      images: those of `reference` as a perfect network's samples would be.
    """

    train: Arrays
    reference: Arrays
    held_out: Arrays
    intensity: Intensity
    bounds: tuple[Bound, Bound]
    facts: Facts
    images: ImageSet


def read_real(plan: Plan, out: Path, anatomy: str) -> Real:
    """The real images of an anatomy of which some set is there."""
    first = sampled(plan, out, anatomy)[0]
    model = runs.load_run(run_folder(out, anatomy, first.system, first.repeat))
    train, reference = (datasets.of_run(model, split) for split in ("train", plan.reference))
    held_out = reference
    if len(reference) < FEWEST:
        (other,) = set(SPLITS) - {plan.reference}
        held_out = synthetic.join(reference, datasets.of_run(model, other))
    intensity = model.intensity
    images, bounds = in_units(reference, intensity), datasets.bounds(model, train)
    return Real(train, reference, held_out, intensity, bounds, model.facts, images)


def measure(
    plan: Plan, out: Path, anatomy: str, real: Real
) -> tuple[list[dict[str, Any]], list[str]]:
    """Scores and looks for copies in every set of an anatomy that is there.

    Args:
      plan: checked.
      out: folder of the report.
      anatomy: "echo" or "brain".
      real: of `read_real`.

    Returns:
      A row each: system, steps, spacing, repeat, the measures of `evaluation.score` with their
      intervals, seconds_per_image, calls, share_closer, ratio_share and auc (see
      `evaluation.audit`); first the floor, with the system "real". And the names of the networks
      whose features were used.
    """
    num, intensity = anatomies(plan)[anatomy].num, real.intensity
    features = _features(plan, out, anatomy, real)
    names = [space.name for space in features]
    networks = Networks(default_folder(), len(real.images.shape) - 2)
    settings = {
        "measures": VERSION,
        "reference": plan.reference,
        "real": hash_batches("real", real.images.shape, real.images.batches()),
        "features": names,
        "networks": networks.hashes,
        "num": num,
        "seed": plan.seed,
    }
    if real.bounds != (intensity.low, intensity.high):
        settings["bounds"] = real.bounds
    # Of other settings, as when published weights were found since, in a file of their own.
    key = hashlib.blake2b(json.dumps(settings).encode(), digest_size=4).hexdigest()
    results = Results(out / "measured" / f"{anatomy}_{key}.json", settings)
    sets = [cell for cell in sampled(plan, out, anatomy) if not results.has(**_key(cell))]
    if not sets and results.has(system=FLOOR):
        return results.rows, names
    logger.info(f"{anatomy}: {len(real.images)} real images of {plan.reference}")
    score = scorer(
        real.images,
        bounds=real.bounds,
        seed=plan.seed,
        features=features,
        networks=networks,
        bootstrap=DRAWS,
    )
    audit = None
    if len(real.held_out) >= FEWEST:
        audit = Auditor(real.train, real.held_out, intensity, features=features)
    if not results.has(system=FLOOR):
        logger.info(f"{anatomy}: real images of train, the floor")
        chosen = np.random.default_rng(plan.seed).permutation(len(real.train))[:num]
        results.add(
            {"system": FLOOR, "steps": None, "spacing": "", "repeat": 0},
            score(in_units(real.train, intensity, rows=np.sort(chosen)), floor=True),
        )
    for cell in sets:
        logger.info(f"{anatomy}: {cell.name}")
        folder = sample_folder(out, cell, plan.reference)
        sidecar = read_json(folder / "samples.json")
        images = of_samples(folder)
        copies = audit(images, folder) if audit else {}
        seen = next((part for key, part in copies.items() if key.startswith("features")), {})
        results.add(
            _key(cell),
            {
                **score(images),
                "seconds_per_image": sidecar["seconds_per_image"],
                "calls": sidecar["calls"],
                **{name: copies.get(name) for name in COPIES},
                **{f"{name}_features": seen.get(name) for name in COPIES},
            },
        )
    return results.rows, names


def _features(plan: Plan, out: Path, anatomy: str, real: Real) -> list[Features]:
    """The downstream networks that were trained on real images."""
    if anatomy != "echo" or not plan.depths:
        return []
    paths = [downstream_folder(out, task, plan.depths[0]) / "network.npz" for task in TASKS]
    return [
        downstream.read_features(path, real.reference, real.intensity)
        for path in paths
        if path.is_file()
    ]


def _key(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("system", "steps", "spacing", "repeat")}
