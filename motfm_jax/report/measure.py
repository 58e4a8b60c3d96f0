"""Numbers of every generated set of a report, each kept as soon as it is known."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from motfm_jax import build
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation import downstream
from motfm_jax.evaluation.audit import FEWEST, audit, in_units
from motfm_jax.evaluation.published import Networks
from motfm_jax.evaluation.score import score
from motfm_jax.evaluation.tables import Results
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.report.plan import Plan, anatomies, cells
from motfm_jax.report.stages import downstream_folder, run_folder, sample_folder

FLOOR = "real"
See = Callable[[np.ndarray], np.ndarray]  # images [N, *S, C] -> features [N, F]


def measure(
    plan: Plan, out: Path, anatomy: str, progress: Callable[[str], None]
) -> tuple[list[dict[str, Any]], str]:
    """Scores and looks for copies in every set of an anatomy.

    Args:
      plan: checked, its stages carried out.
      out: folder of the report.
      anatomy: "echo" or "brain".
      progress: told the name of each set before it is measured.

    Returns:
      A row each: system, steps, spacing, the measures of `evaluation.score`, seconds_per_image,
      calls, share_closer (see `evaluation.audit`); first the floor, with the system "real". And the
      name of the network whose features were used, "" where there is none.
    """
    wanted = anatomies(plan)[anatomy]
    trained = build.load_run(run_folder(out, anatomy, wanted.systems[-1]))
    intensity = trained.intensity
    reference, train = (
        build.arrays(trained.config, split) for split in (plan.reference, "train"))
    see, network = _features(plan, out, anatomy, reference, intensity)
    real = in_units(reference, intensity)
    networks = Networks(build.features_dir(), real.ndim - 2)
    scored = functools.partial(
        score, reference=real, bounds=(intensity.low, intensity.high), seed=plan.seed,
        features=see and _remembering(see, real), networks=networks)
    settings = {
        "reference": plan.reference, "real": hash_arrays({"real": real}), "features": network,
        "networks": networks.hashes, "num": wanted.num, "seed": plan.seed}  # fmt: skip
    # Of other settings, as when published weights were found since, in a file of their own.
    name = hashlib.blake2b(json.dumps(settings).encode(), digest_size=4).hexdigest()
    results = Results(out / "measured" / f"{anatomy}_{name}.json", settings)
    if not results.has(system=FLOOR):
        progress(f"{anatomy}: real images of train, the floor")
        chosen = np.random.default_rng(plan.seed).permutation(len(train))[: wanted.num]
        results.add(
            {"system": FLOOR, "steps": None, "spacing": ""},
            scored(in_units(train.take(np.sort(chosen)), intensity)))
    for cell in cells(plan, anatomy):
        key = {"system": cell.system, "steps": cell.steps, "spacing": cell.spacing}
        if results.has(**key):
            continue
        progress(f"{anatomy}: {cell.name}")
        folder = sample_folder(out, cell, plan.reference)
        sidecar = json.loads((folder / "samples.json").read_text())
        with np.load(folder / "samples.npz") as made:
            images = made["images"]
        copies = {}
        if len(reference) >= FEWEST:
            copies = audit(
                folder, images, train, reference, intensity, features=see, network=network)
        results.add(key, {
            **scored(images), "seconds_per_image": sidecar["seconds_per_image"],
            "calls": sidecar["calls"], "share_closer": copies.get("share_closer"),
            "share_closer_features": copies.get("features", {}).get("share_closer")})  # fmt: skip
        jax.clear_caches()  # of the programs of each set's number of images
    return results.rows, network


def _features(
    plan: Plan, out: Path, anatomy: str, real: Arrays, intensity: Intensity
) -> tuple[See | None, str]:
    """What the classifier trained on real images sees, and its name; None without one."""
    path = downstream_folder(out, "classify", plan.depths[0] if plan.depths else 0) / "network.npz"
    if anatomy != "echo" or not path.is_file():
        return None, ""
    task, params, name = downstream.read_network(path, real)
    features = downstream.featurizer(task, params)
    return lambda images: features(downstream.generated_arrays(images, real), intensity), name


def _remembering(see: See, real: np.ndarray) -> See:
    """`see` that looks at the reference once."""
    known = see(real)
    return lambda images: known if images is real else see(images)
