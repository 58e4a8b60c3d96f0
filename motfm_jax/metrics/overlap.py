"""Overlap and surface distances of two label maps, structure by structure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage

MEASURES = ("dice", "iou", "hausdorff", "hausdorff_95", "asd", "assd")


class Overlap(NamedTuple):
    """One prediction against its reference; every array [L], one entry per label.

    Distances are in millimetres if a spacing was passed, else in pixels, from surface voxel to
    nearest surface voxel. A label that is in one map only has overlap 0 and no distance (NaN); in
    neither map, no overlap either.

    Attributes:
      dice: 2 |P and R| / (|P| + |R|).
      iou: |P and R| / |P or R|.
      hausdorff: largest distance from one surface to the other, the larger of the two ways.
      hausdorff_95: 95th percentile of the distances, the larger of the two ways.
      asd: mean distance from the prediction's surface to the reference's.
      assd: mean distance over both surfaces, each to the other.
      predicted: whether the label is in the prediction.
      present: whether it is in the reference.
    """

    dice: np.ndarray
    iou: np.ndarray
    hausdorff: np.ndarray
    hausdorff_95: np.ndarray
    asd: np.ndarray
    assd: np.ndarray
    predicted: np.ndarray
    present: np.ndarray


class Summary(NamedTuple):
    """Many comparisons in one.

    Attributes:
      structures: measure -> [L], mean over the images that have a value; NaN where none has.
      mean: measure -> mean of its structures; NaN as soon as one of them is.
      num_images: how many were compared.
      missed: [L] images whose reference has the label and whose prediction has not. They count
        with Dice and IoU 0 and are not in the distances: read those beside this number.
      invented: [L] the other way round, counted in the same way.
      absent: [L] images with the label in neither map, in no mean.
    """

    structures: dict[str, np.ndarray]
    mean: dict[str, float]
    num_images: int
    missed: np.ndarray
    invented: np.ndarray
    absent: np.ndarray


def overlap(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Sequence[int],
    spacing: Sequence[float] | None = None,
) -> Overlap:
    """Compares two label maps.

    Args:
      prediction: [*S] labels, integers or booleans, 2-D or 3-D.
      reference: [*S].
      labels: of the structures to score, background left out.
      spacing: millimetres a voxel along each axis, or None for distances in pixels.

    Raises:
      ValueError: shapes, maps that hold no integers, no labels, a spacing that does not fit.

    Source: surfaces (voxels of a structure with a neighbour outside) and percentiles as MONAI 1.6:
    HausdorffDistanceMetric; SurfaceDistanceMetric with symmetric False (asd) and True (assd).
    """
    prediction, reference = _label_maps(prediction, reference, labels)
    if spacing is not None and not (
        len(spacing) == prediction.ndim and min(spacing) > 0 and np.isfinite(spacing).all()
    ):
        raise ValueError(
            f"spacing {spacing}: needed {prediction.ndim} positive millimetres, one an axis"
        )
    rows = [_structure(prediction == label, reference == label, spacing) for label in labels]
    return Overlap(*(np.array(column) for column in zip(*rows)))


def boundary_f1(
    prediction: np.ndarray, reference: np.ndarray, labels: Sequence[int], tolerance: float = 1.0
) -> np.ndarray:
    """F1 of the boundaries of two label maps, structure by structure, [L].

    Precision is the share of the prediction's surface within the tolerance of the reference's,
    recall the share of the reference's within it of the prediction's. A structure in one map only
    has 0, one in neither NaN. Dice hardly feels a ragged boundary; this does.

    Args:
      prediction, reference, labels: see `overlap`.
      tolerance: in pixels.

    Raises:
      ValueError: see `overlap`.

    Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?", 2013.
    """
    prediction, reference = _label_maps(prediction, reference, labels)
    scores = np.full(len(labels), np.nan)
    for number, label in enumerate(labels):
        surfaces = [_surface(labels_of == label) for labels_of in (prediction, reference)]
        sizes = [surface.sum() for surface in surfaces]
        if not all(sizes):
            scores[number] = 0 if any(sizes) else np.nan
            continue
        near = [
            (_distances(start, goal, None) <= tolerance).mean()
            for start, goal in (surfaces, surfaces[::-1])
        ]
        scores[number] = 2 * near[0] * near[1] / sum(near) if any(near) else 0
    return scores


def summarise(overlaps: Sequence[Overlap]) -> Summary:
    """Per structure, then over structures; ValueError for no images or other numbers of labels."""
    if len({len(one.dice) for one in overlaps}) != 1:
        raise ValueError(
            f"{len(overlaps)} comparisons: needed at least one, all of the same labels"
        )
    every = Overlap(*(np.stack(arrays) for arrays in zip(*overlaps)))  # [N, L]
    structures = {name: _mean_of_known(getattr(every, name)) for name in MEASURES}
    return Summary(
        structures,
        {name: float(values.mean()) for name, values in structures.items()},
        len(overlaps),
        missed=(every.present & ~every.predicted).sum(axis=0),
        invented=(every.predicted & ~every.present).sum(axis=0),
        absent=(~every.predicted & ~every.present).sum(axis=0),
    )


def _label_maps(
    prediction: np.ndarray, reference: np.ndarray, labels: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape or prediction.ndim not in (2, 3):
        raise ValueError(
            f"prediction {prediction.shape} and reference {reference.shape}: needed two maps of "
            "one size, 2-D or 3-D; compare images one by one"
        )
    if prediction.dtype.kind not in "iub" or reference.dtype.kind not in "iub":
        raise ValueError(
            f"prediction is {prediction.dtype}, reference {reference.dtype}: needed integer "
            "labels; take the argmax of scores"
        )
    if not len(labels):
        raise ValueError("no labels came: name the structures to score")
    return prediction, reference


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Column means [N, L] -> [L] over the values that are not NaN; NaN if there are none."""
    counts = (~np.isnan(values)).sum(axis=0)
    means = np.full(values.shape[1], np.nan)
    return np.divide(np.nansum(values, axis=0), counts, out=means, where=counts > 0)


def _structure(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None
) -> tuple[float | bool, ...]:
    """A row of Overlap from two boolean maps."""
    predicted, present = bool(prediction.any()), bool(reference.any())
    if not (predicted and present):
        score = 0.0 if predicted or present else np.nan
        return (score, score) + (np.nan,) * 4 + (predicted, present)
    places = np.nonzero(prediction | reference)
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in places)
    prediction, reference = prediction[box], reference[box]  # distances need no more room
    common, together = (prediction & reference).sum(), (prediction | reference).sum()
    of_prediction, of_reference = _surface(prediction), _surface(reference)
    to_reference = _distances(of_prediction, of_reference, spacing)
    to_prediction = _distances(of_reference, of_prediction, spacing)
    return (
        2 * common / (common + together),
        common / together,
        max(to_reference.max(), to_prediction.max()),
        max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95)),
        to_reference.mean(),
        np.concatenate([to_reference, to_prediction]).mean(),
        predicted,
        present,
    )


def _surface(shape: np.ndarray) -> np.ndarray:
    return shape & np.logical_not(scipy.ndimage.binary_erosion(shape))


def _distances(start: np.ndarray, goal: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    """From every voxel of one surface to the nearest voxel of another."""
    distances = scipy.ndimage.distance_transform_edt(~goal, sampling=spacing)
    return np.asarray(distances)[start]
