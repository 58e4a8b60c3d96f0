"""Memorisation: are generated images closer to the training images than unseen real ones are?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation.score import Features
from motfm_jax.evaluation.sets import ImageSet, in_units
from motfm_jax.io import pictures
from motfm_jax.io.folders import whole_file
from motfm_jax.io.tiles import shared_view
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


class Auditor:
    """Looks for copies in sets of generated images; the real ones are compared once.

    For each generated and each held-out image the nearest training image is found after the best
    cyclic translation, by the root mean square difference of intensities; see `nearest_pixels`.

    Args:
      train, held_out: real images of the model's training and of another split, unscaled.
      intensity: of the model.
      max_shift: pixels along each axis; None for an eighth of the shortest side.
      features: of a network trained on this data, to find the nearest by Euclidean distance too.

    Raises:
      ValueError: fewer than 20 held-out images, or images that are not finite.
    """

    def __init__(
        self,
        train: Arrays,
        held_out: Arrays,
        intensity: Intensity,
        *,
        max_shift: int | None = None,
        features: Features | None = None,
    ):
        if len(held_out) < FEWEST:
            raise ValueError(
                f"{len(held_out)} held-out images: their {QUANTILE:.0%} quantile needs {FEWEST} or "
                "more; give a larger --split"
            )
        shortest = min(train.images.shape[1:-1])
        self._max_shift = shortest // 8 if max_shift is None else max_shift
        self._features, self._num_held_out = features, len(held_out)
        self._channel_names = train.channel_names
        self._names = [meta["name"] for meta in train.meta]
        self._train = in_units(train, intensity)
        real = in_units(held_out, intensity)
        self._floor = _nearest(real, self._train, self._max_shift)
        if features:
            self._seen = self._train.through(features.extract)
            self._seen_floor = nearest_features(real.through(features.extract), self._seen)

    def __call__(self, generated: ImageSet, out: Path | None = None) -> dict[str, Any]:
        """Audits one set.

        Args:
          generated: images in the units of the data.
          out: folder for audit.json, and audit.png (audit_features.png) with the closest pairs,
            which shows real images; None writes nothing.

        Returns:
          The distances' quantiles, the share of generated images closer than the held-out images'
          5% quantile, and for each image its nearest.

        Raises:
          ValueError: images of another size, or not finite.
        """
        if generated.shape[1:] != self._train.shape[1:]:
            raise ValueError(
                f"images {generated.shape[1:]} and training images {self._train.shape[1:]} differ "
                "in size; audit samples with the data of their own run"
            )
        ours = _nearest(generated, self._train, self._max_shift)
        report = {
            "measure": "RMS difference of intensities after the best cyclic translation",
            "units": "the training data's",
            "max_shift": self._max_shift,
            "num": {
                "generated": len(generated),
                "train": len(self._train),
                "held_out": self._num_held_out,
            },
            "expected_share": QUANTILE,
            **_compared(ours, self._floor, self._names),
        }
        if out:
            self._draw(out / "audit.png", generated, ours, report["share_closer"])
        if self._features:
            ours = nearest_features(generated.through(self._features.extract), self._seen)
            report["features"] = {
                "measure": f"Euclidean distance of the features of {self._features.name}",
                **_compared(ours, self._seen_floor, self._names),
            }
            if out:
                share = report["features"]["share_closer"]
                self._draw(out / "audit_features.png", generated, ours, share)
        if out:
            with whole_file(out / "audit.json") as draft:
                draft.write_text(json.dumps(report, indent=2) + "\n")
        return report

    def _draw(self, path: Path, generated: ImageSet, ours: Nearest, share: float) -> None:
        """The closest pairs: the generated image left, the moved training image right."""
        axes, tiles, titles = tuple(range(len(generated.shape) - 2)), [], []
        closest = np.argsort(ours.distance, kind="stable")[:PAIRS]
        pairs = generated.take(closest), self._train.take(ours.index[closest])
        for number, image, real in zip(closest, *pairs):
            shift = 0 if ours.shift is None else tuple(ours.shift[number])
            tiles += [image, np.roll(real, shift, axes)]
            name = self._names[ours.index[number]]
            titles += [f"generated {number}", f"{name}: {ours.distance[number]:.4g}"]
        pictures.write_samples(
            path,
            np.stack(tiles),
            titles=titles,
            view=shared_view(np.stack(tiles), self._channel_names),
            columns=4,
            caption="closest pairs: each generated image and its nearest training image; "
            f"{share:.1%} of {len(generated)} are closer than 95% of real held-out images",
        )


def summary(report: Mapping[str, Any]) -> str:
    """A report in a sentence."""
    near, real, num = report["generated"], report["held_out"], report["num"]
    text = (
        f"{report['share_closer']:.1%} of {num['generated']} images lie closer to a training image "
        f"than the nearest 5% of {num['held_out']} held-out ones (5% expected without copying); "
        f"nearest {near['min']:.4g}, median {near['median']:.4g}, held-out {real['min']:.4g} and "
        f"{real['median']:.4g}"
    )
    if "features" in report:
        seen = report["features"]
        text += f"; {seen['share_closer']:.1%} by the {seen['measure']}"
    return text


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
