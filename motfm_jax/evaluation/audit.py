"""Memorisation: are generated images closer to the training images than unseen real ones are?"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation.intervals import DRAWS, intervals
from motfm_jax.evaluation.sets import ImageSet, in_memory, in_units, made_from
from motfm_jax.evaluation.spaces import Features, spaces
from motfm_jax.io import pictures
from motfm_jax.io.folders import whole_file
from motfm_jax.io.tiles import shared_view
from motfm_jax.metrics.nearest import (
    Nearest,
    auc,
    block_rows,
    nearest_features,
    nearest_pixels,
    ratio_share,
    share_closer,
)

QUANTILE = 0.05
FEWEST = round(1 / QUANTILE)  # held-out images
PAIRS = 8  # of the picture
COPIES = 32  # training images of the control
NOISE = 0.05  # of a copy, its deviation over the image's


class Space(NamedTuple):
    """Where distances are taken: in pixels, or in the features of a network.

    Attributes:
      measure: in words.
      ending: of its names in the report and its picture; "" for pixels.
      nearest: images -> the nearest training image of each.
      held_out: of held-out images.
      control: of the copies.
    """

    measure: str
    ending: str
    nearest: Any
    held_out: Nearest
    control: Nearest


class Auditor:
    """Looks for copies in sets of generated images; the real ones are compared once.

    For each generated and each held-out image the nearest training image is found after the best
    cyclic translation, by the root mean square difference of intensities; see `nearest_pixels`.
    The control are training images, moved by a pixel and with slight noise: an audit that does not
    find these on this data says nothing about others.

    Args:
      train, held_out: real images of the model's training and of another split, unscaled.
      intensity: of the model.
      max_shift: pixels along each axis; None for an eighth of the shortest side.
      features: of networks trained on this data, to find the nearest by Euclidean distance too.

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
        features: Features | Sequence[Features] | None = None,
    ):
        if len(held_out) < FEWEST:
            raise ValueError(
                f"{len(held_out)} held-out images: their {QUANTILE:.0%} quantile needs {FEWEST} or "
                "more; give a larger --split"
            )
        shortest = min(train.images.shape[1:-1])
        self._max_shift = shortest // 8 if max_shift is None else max_shift
        self._channel_names, self._masks = train.channel_names, train.masks
        self._names = [meta["name"] for meta in train.meta]
        self._train, real = in_units(train, intensity), in_units(held_out, intensity)
        self._patients = real.patients
        groups = np.unique(np.asarray(self._train.patients), return_inverse=True)[1]
        self._copied = np.unique(np.linspace(0, len(train) - 1, COPIES).astype(int))
        copies = in_memory(_copies(self._train.take(self._copied), min(1, self._max_shift)))
        pixels = partial(_nearest, references=self._train, max_shift=self._max_shift, groups=groups)
        self._spaces = [
            Space(
                "RMS difference of intensities after the best cyclic translation",
                "",
                pixels,
                pixels(real),
                pixels(copies),
            )
        ]
        for ending, space in spaces(features).items():
            seen = self._train.through(space.extract)
            find = partial(_nearest_seen, space.extract, references=seen, groups=groups)
            measure = f"Euclidean distance of the features of {space.name}"
            named = f"features{ending}"
            self._spaces.append(Space(measure, named, find, find(real), find(copies)))

    def __call__(self, generated: ImageSet, out: Path | None = None) -> dict[str, Any]:
        """Audits one set.

        Args:
          generated: images in the units of the data.
          out: folder for audit.json, and audit.png (audit_features.png) with the closest pairs,
            which shows real images; None writes nothing.

        Returns:
          "share_closer", of generated images closer than the held-out images' 5% quantile;
          "ratio_share", of those at less than a third of the distance to the next patient; "auc" of
          generated against held-out distances; each with its 95% interval; the same of real
          held-out images ("floor") and of the "control"; of images from training masks and others
          apart ("by_masks"); the distances' quantiles, and for each image its nearest.

        Raises:
          ValueError: images of another size, or not finite.
        """
        if generated.shape[1:] != self._train.shape[1:]:
            raise ValueError(
                f"images {generated.shape[1:]} and training images {self._train.shape[1:]} differ "
                "in size; audit samples with the data of their own run"
            )
        found = [(space, space.nearest(generated)) for space in self._spaces]
        report: dict[str, Any] = {
            "units": "the training data's",
            "max_shift": self._max_shift,
            "num": {
                "generated": len(generated),
                "train": len(self._train),
                "held_out": len(self._patients),
            },
            "expected_share": QUANTILE,
        }
        masks = made_from(generated, self._masks)
        for space, ours in found:
            compared = {"measure": space.measure, **self._compared(ours, space, masks)}
            report |= {space.ending: compared} if space.ending else compared
        if out:
            for space, ours in found:
                stem = "_".join(filter(None, ("audit", space.ending)))
                share = report.get(space.ending, report)["share_closer"]
                self._draw(out / f"{stem}.png", generated, ours, share)
            with whole_file(out / "audit.json") as draft:
                draft.write_text(json.dumps(report, indent=2) + "\n")
        return report

    def _compared(self, ours: Nearest, space: Space, masks: np.ndarray | None) -> dict[str, Any]:
        held_out = space.held_out
        closer = share_closer(ours.distance, held_out.distance, QUANTILE)
        distances = (ours.distance, ours.second), (held_out.distance, held_out.second)
        scores = _scores(*distances, [slice(None)] * 2)
        belong = np.arange(len(ours.index)), self._patients
        shifts = [()] * len(ours.index) if ours.shift is None else ours.shift
        original = space.control.index == self._copied
        compared = {
            **scores,
            **intervals(scores, partial(_scores, *distances), belong, DRAWS, 0),
            "threshold": closer.threshold,
            "floor": {"ratio_share": ratio_share(held_out.distance, held_out.second)},
            "control": {
                "num": len(self._copied),
                "found": float(original.mean()),
                "share_closer": float((space.control.distance < closer.threshold).mean()),
                "ratio_share": ratio_share(space.control.distance, space.control.second),
            },
            "generated": _quantiles(ours.distance),
            "held_out": _quantiles(held_out.distance),
        }
        if masks is not None:
            compared["by_masks"] = {
                name: {
                    "num": int(own.sum()),
                    "share_closer": float((ours.distance[own] < closer.threshold).mean()),
                }
                for name, own in (("training", masks), ("other", ~masks))
                if own.any()
            }
        compared["nearest"] = [
            {
                "image": image,
                "train": self._names[index],
                "distance": float(distance),
                "shift": [int(step) for step in shift],
            }
            for image, (distance, index, shift) in enumerate(zip(ours.distance, ours.index, shifts))
        ]
        return compared

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
    """A report in a few sentences."""
    near, real, num, control = (
        report[name] for name in ("generated", "held_out", "num", "control")
    )
    text = (
        f"{report['share_closer']:.1%} of {num['generated']} images lie closer to a training image "
        f"than the nearest 5% of {num['held_out']} held-out ones (5% expected without copying); "
        f"nearest {near['min']:.4g}, median {near['median']:.4g}, held-out {real['min']:.4g} and "
        f"{real['median']:.4g}; {report['ratio_share']:.1%} at a third of the distance to the next "
        f"patient (held-out {report['floor']['ratio_share']:.1%}); AUC {report['auc']:.2f} (0.50 "
        "expected)"
    )
    for name, seen in report.items():
        if name.startswith("features"):
            text += f"; {seen['share_closer']:.1%} by the {seen['measure']}"
    for name, part in report.get("by_masks", {}).items():
        text += f"; of {part['num']} from {name} masks {part['share_closer']:.1%}"
    return (
        f"{text}; control: {control['share_closer']:.0%} of {control['num']} blemished training "
        "images were found"
    )


def _copies(images: np.ndarray, shift: int) -> np.ndarray:
    """Images moved along each axis, with slight noise."""
    axes = tuple(range(1, images.ndim - 1))
    moved = np.roll(images.astype(np.float32), (shift,) * len(axes), axes)
    deviation = moved.std(axis=(*axes, -1), keepdims=True)
    noise = np.random.default_rng(0).standard_normal(moved.shape, np.float32)
    return moved + NOISE * deviation * noise


def _nearest(images: ImageSet, references: ImageSet, max_shift: int, groups: np.ndarray) -> Nearest:
    """Block by block of the images, each against all references."""
    rows = block_rows(references.shape[1:])
    parts = [
        nearest_pixels(batch, references.batches(rows), max_shift, groups)
        for batch in images.batches(rows)
    ]
    return Nearest(*map(np.concatenate, zip(*parts)))


def _nearest_seen(
    extract: Any, images: ImageSet, references: np.ndarray, groups: np.ndarray
) -> Nearest:
    return nearest_features(images.through(extract), references, groups)


def _scores(
    ours: Sequence[np.ndarray], held_out: Sequence[np.ndarray], rows: Sequence[Any]
) -> dict[str, float]:
    """Of parts of the distances to the nearest and to the next patient."""
    own, theirs = ([each[part] for each in both] for both, part in zip((ours, held_out), rows))
    threshold = np.quantile(theirs[0], QUANTILE)
    return {
        "share_closer": float((own[0] < threshold).mean()),
        "ratio_share": ratio_share(*own),
        "auc": auc(own[0], theirs[0]),
    }


def _quantiles(distances: np.ndarray) -> dict[str, float]:
    levels = {"min": 0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1}
    return {name: float(np.quantile(distances, level)) for name, level in levels.items()}
