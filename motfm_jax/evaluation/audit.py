"""Memorisation: are generated images closer to the training images than unseen real ones are?"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation.sets import ImageSet, in_units
from motfm_jax.io import images as pictures
from motfm_jax.io.files import whole_file
from motfm_jax.metrics.nearest import (
    Nearest,
    block_rows,
    nearest_features,
    nearest_pixels,
    share_closer,
)

QUANTILE = 0.05
FEWEST = round(1 / QUANTILE)  # held-out images
PAIRS = 8  # of the picture


def auditor(
    train: Arrays,
    held_out: Arrays,
    intensity: Intensity,
    *,
    raw: bool = False,
    max_shift: int | None = None,
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    network: str = "",
) -> Callable[[Path, ImageSet], dict[str, Any]]:
    """Looks for copies in sets of generated images; the real ones are compared once.

    For each generated and each held-out image the nearest training image is found after the best
    cyclic translation, by the root mean square difference of intensities; see `nearest_pixels`.

    Args:
      train, held_out: real images of the run's training and of another split, unscaled.
      intensity: of the run.
      raw: the intensity scaling of the generated images is not undone.
      max_shift: pixels along each axis; None for an eighth of the shortest side.
      features: images as the generated ones are -> [N, F] of a trained network, to find the
        nearest by their Euclidean distance too, with a picture of its own, audit_features.png; or
        None.
      network: its name, for the report.

    Returns:
      (folder, images [N, *S, C] in the data's units, or with raw in the network's) -> what it
      writes to the folder's audit.json: the distances' quantiles, the share of generated images
      closer than the held-out images' 5% quantile, and for each image its nearest. The closest
      pairs go to audit.png.

    Raises (here or there):
      ValueError: images of different sizes, not finite, or fewer than 20 held-out images.
    """
    if len(held_out) < FEWEST:
        raise ValueError(
            f"{len(held_out)} held-out images: their {QUANTILE:.0%} quantile needs {FEWEST} or "
            "more; give a larger --split"
        )
    if max_shift is None:
        max_shift = min(train.images.shape[1:-1]) // 8
    references = in_units(train, intensity, raw)
    real = in_units(held_out, intensity, raw)
    floor = _nearest(real, references, max_shift)
    names = [meta["name"] for meta in train.meta]
    if features is not None:
        seen = references.through(features)
        seen_floor = nearest_features(real.through(features), seen)

    def audit(out: Path, generated: ImageSet) -> dict[str, Any]:
        if generated.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"images {generated.shape[1:]} and training images {train.images.shape[1:]} differ "
                "in size; audit samples with the data of their own run"
            )
        ours = _nearest(generated, references, max_shift)
        report = {
            "measure": "RMS difference of intensities after the best cyclic translation",
            "units": "the network's" if raw else "the training data's",
            "max_shift": max_shift,
            "num": {"generated": len(generated), "train": len(train), "held_out": len(held_out)},
            "expected_share": QUANTILE,
            **_compared(ours, floor, names),
        }
        _draw(out / "audit.png", generated, references, ours, names, report["share_closer"])
        if features is not None:
            ours = nearest_features(generated.through(features), seen)
            report["features"] = {
                "measure": f"Euclidean distance of the features of {network}",
                **_compared(ours, seen_floor, names),
            }
            _draw(
                out / "audit_features.png",
                generated,
                references,
                ours,
                names,
                report["features"]["share_closer"],
            )
        with whole_file(out / "audit.json") as draft:
            draft.write_text(json.dumps(report, indent=2) + "\n")
        return report

    return audit


def _nearest(images: ImageSet, references: ImageSet, max_shift: int) -> Nearest:
    """Block by block of the images, each against all references."""
    rows = block_rows(references.shape[1:])
    parts = [
        nearest_pixels(batch, references.batches(rows), max_shift) for batch in images.batches(rows)
    ]
    return Nearest(*map(np.concatenate, zip(*parts)))


def _compared(ours: Nearest, floor: Nearest, names: list[str]) -> dict[str, Any]:
    closer = share_closer(ours.distance, floor.distance, QUANTILE)
    shifts = [()] * len(ours.index) if ours.shift is None else ours.shift
    return {
        "share_closer": closer.share,
        "threshold": closer.threshold,
        "generated": _quantiles(ours.distance),
        "held_out": _quantiles(floor.distance),
        "nearest": [
            {
                "image": image,
                "train": names[index],
                "distance": float(distance),
                "shift": [int(step) for step in shift],
            }
            for image, (distance, index, shift) in enumerate(zip(ours.distance, ours.index, shifts))
        ],
    }


def _quantiles(distances: np.ndarray) -> dict[str, float]:
    levels = {"min": 0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1}
    return {name: float(np.quantile(distances, level)) for name, level in levels.items()}


def _draw(
    path: Path,
    generated: ImageSet,
    references: ImageSet,
    ours: Nearest,
    names: list[str],
    share: float,
) -> None:
    """The closest pairs, the generated image on the left, the moved training image beside it."""
    axes, tiles, titles = tuple(range(len(generated.shape) - 2)), [], []
    closest = np.argsort(ours.distance, kind="stable")[:PAIRS]
    pairs = generated.take(closest), references.take(ours.index[closest])
    for number, made, real in zip(closest, *pairs):
        shift = 0 if ours.shift is None else tuple(ours.shift[number])
        tiles += [made, np.roll(real, shift, axes)]
        titles += [
            f"generated {number}",
            f"{names[ours.index[number]]}: {ours.distance[number]:.4g}",
        ]
    pictures.write_samples(
        path,
        np.stack(tiles),
        titles=titles,
        columns=4,
        caption=f"closest pairs: each generated image and its nearest training image; "
        f"{share:.1%} of {len(generated)} are closer than 95% of real held-out "
        "images",
    )
