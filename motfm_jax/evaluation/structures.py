"""Generated label maps beside real ones: sizes, shapes, and how structures lie to each other."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from motfm_jax.evaluation import sets
from motfm_jax.evaluation.sets import Real
from motfm_jax.evaluation.tables import Table
from motfm_jax.metrics.structures import Structures, structures
from motfm_jax.sampling.outputs import read_samples

USUAL = 0.95  # share of real maps from which on something is a rule
NEIGHBOUR = 0.05  # share of its border from which on a structure has another as its neighbour
PERCENT = 100.0

Entry = tuple[str, str]  # (structure, what of it)


def of_samples(folder: Path, reference: Real, floor: Real) -> Table | None:
    """`compare` of the masks that `motfm sample` made with images; None where it made images alone.

    Raises:
      ValueError: masks of other labels or another size than the real ones.
    """
    sidecar, names = read_samples(folder), reference.arrays.mask_labels
    if "masks" not in sidecar.get("generated", ()):
        return None
    made, images = sidecar["condition"]["mask_labels"], sets.of_samples(folder)
    masks: Any = images.masks
    if made != list(names) or masks.shape[1:] != reference.arrays.masks.shape[1:]:
        raise ValueError(
            f"{folder}: masks {masks.shape[1:]} of {', '.join(made)}, the real ones "
            f"{reference.arrays.masks.shape[1:]} of {', '.join(names)}; sample a run of this data"
        )
    return compare(masks.each(), reference, floor, images.labels)


def compare(
    generated: Iterable[np.ndarray],
    reference: Real,
    floor: Real,
    labels: np.ndarray | None = None,
) -> Table:
    """Structures of generated label maps, of real ones, and of other real ones (the floor).

    All are measured on the grid of the network, in voxels, see `metrics.structures`.

    Args:
      generated: label maps [*S].
      reference: real images with masks to compare with, and their name.
      floor: other real images with masks.
      labels: [N] class indices that the maps were made for, or None.

    Returns:
      Rows for each structure: mean and standard deviation over the maps of its size, compactness
      and eccentricity and of the share of its border with each other label, with the Wasserstein
      distance of their distribution from the reference's; of maps that were made for a class also
      the mean over the classes of the distance between sizes; and the share of maps that have it,
      and have it in one piece. The last row is the share of maps that are like real maps: what at
      least 95% of the reference have, or lack, is a rule (that a structure is there, that it is in
      one piece, that it has another as its neighbour with 5% of its border or more), and a map
      counts that keeps all rules. So a cavity must be one piece inside its wall.
    """
    names = reference.arrays.mask_labels
    measured = {
        "generated": structures(generated, len(names)),
        "real": structures(np.asarray(reference.arrays.masks), len(names)),
        "other real": structures(np.asarray(floor.arrays.masks), len(names)),
    }
    numbers = {column: _numbers(each, names) for column, each in measured.items()}
    answers = {column: _answers(each, names) for column, each in measured.items()}
    rows = []
    for entry in numbers["real"]:
        rows.append(_row(entry, _distributions({c: each[entry] for c, each in numbers.items()})))
    if labels is not None:
        classes = {
            "generated": labels,
            "real": reference.arrays.labels,
            "other real": floor.arrays.labels,
        }
        rows += _within_classes(measured, classes, names)
    for entry in _shown(names):
        rows.append(_row(entry, {c: PERCENT * each[entry].mean() for c, each in answers.items()}))
    rows.append(_row(("all", "keeps the rules of real maps, % of maps"), _kept(answers)))
    counts = {column: len(each.size) for column, each in measured.items()}
    return Table(
        f"Label maps: {counts['generated']} generated, {counts['real']} real ({reference.name}), "
        f"{counts['other real']} other real ({floor.name}). Mean ± standard deviation over maps; "
        "distance: Wasserstein, of the generated from the real ones; floor: of the other real "
        f"ones. A rule: what at least {USUAL:.0%} of the real maps have, or lack.",
        rows,
    )


def _row(entry: Entry, values: dict[str, float | None]) -> dict[str, str | float | None]:
    structure, measure = entry
    return {"structure": structure, "measure": measure, **values}


def _numbers(measured: Structures, names: Sequence[str]) -> dict[Entry, np.ndarray]:
    """What is measured of each map: [N] each."""
    numbers = {}
    for index, name in enumerate(names[1:]):
        numbers[name, "size, % of the map"] = PERCENT * measured.size[:, index]
        numbers[name, "compactness"] = measured.compactness[:, index]
        numbers[name, "eccentricity"] = measured.eccentricity[:, index]
        for other, neighbour in enumerate(names):
            if neighbour != name:
                title = f"border with {neighbour}, %"
                numbers[name, title] = PERCENT * measured.borders[:, index + 1, other]
    return numbers


def _distributions(values: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Mean and spread of each column, and the distances of two from "real"; NaN left out."""
    known = {column: each[np.isfinite(each)] for column, each in values.items()}
    row: dict[str, float | None] = {}
    for column, each in known.items():
        row[column] = float(each.mean()) if len(each) else None
        row[f"{column}_std"] = float(each.std(ddof=1)) if len(each) > 1 else None
    for title, column in (("distance", "generated"), ("floor", "other real")):
        both = known[column], known["real"]
        row[title] = float(scipy.stats.wasserstein_distance(*both)) if all(map(len, both)) else None
    return row


def _within_classes(
    measured: dict[str, Structures], classes: dict[str, np.ndarray], names: Sequence[str]
) -> list[dict[str, str | float | None]]:
    """The distances of the sizes from the real ones of the same class, mean over the classes that
    all have."""
    known = sorted(set.intersection(*(set(np.asarray(each).tolist()) for each in classes.values())))
    rows = []
    for index, name in enumerate(names[1:]):
        values = [
            _distributions(
                {
                    column: PERCENT * each.size[classes[column] == label, index]
                    for column, each in measured.items()
                }
            )
            for label in known
        ]
        means = {
            title: float(np.mean([row[title] for row in values])) if values else None
            for title in ("distance", "floor")
        }
        rows.append(_row((name, "size within its class, % of the map"), means))
    return rows


def _answers(measured: Structures, names: Sequence[str]) -> dict[Entry, np.ndarray]:
    """What is true of each map: [N] bool each."""
    answers = {}
    for index, name in enumerate(names[1:]):
        answers[name, "there, % of maps"] = measured.pieces[:, index] > 0
        answers[name, "in one piece, % of maps"] = measured.pieces[:, index] == 1
        for other, neighbour in enumerate(names):
            if neighbour != name:
                answers[name, neighbour] = measured.borders[:, index + 1, other] >= NEIGHBOUR
    return answers


def _shown(names: Sequence[str]) -> list[Entry]:
    """The answers that have a row."""
    measures = ("there, % of maps", "in one piece, % of maps")
    return [(name, measure) for name in names[1:] for measure in measures]


def _kept(answers: dict[str, dict[Entry, np.ndarray]]) -> dict[str, float]:
    """Share of maps that keep all rules of the real ones, in percent."""
    shares = {entry: each.mean() for entry, each in answers["real"].items()}
    rules = {e: share >= USUAL for e, share in shares.items() if not 1 - USUAL < share < USUAL}
    return {
        column: PERCENT * np.all([given[e] == rule for e, rule in rules.items()], axis=0).mean()
        for column, given in answers.items()
    }
