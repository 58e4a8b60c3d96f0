"""`motfm prepare check` of a folder, and the size that a data set asks for."""

import functools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data import nifti
from motfm_jax.data.cases import LABELS, Choices, read_case
from motfm_jax.data.examination import Content, Item, Report, Summary, examine
from motfm_jax.data.layouts import Case, Listing
from motfm_jax.data.listing import read
from motfm_jax.data.slices import Cut, foreground

FACTORS = {2: 16, 3: 8}  # by which a size must divide for every built-in network
FEW = 0.02  # of foreground: a slice that has less is called empty


class Proposal(NamedTuple):
    """Fields of config.data that suit a data set.

    Attributes:
      size: S.
      spacing_mm: to resample to; () if all images are alike.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...] = ()

    def half(self) -> "Proposal":
        """Half as many steps, twice as long."""
        factor = FACTORS[len(self.size)]
        size = tuple(-(-extent // (2 * factor)) * factor for extent in self.size)
        return Proposal(size, tuple(2 * step for step in self.spacing_mm))


def check_folder(
    root: str | Path,
    progress: Progress | None = None,
    listing: Listing | None = None,
    how: Choices = Choices(),  # noqa: B008
    cut: Cut | None = None,
    data: Any = None,
) -> Report:
    """Reads every file of a folder.

    Args:
      root: the folder.
      progress: called with (done, total) as files are read.
      listing: of its cases; None for that with seed 0.
      how: see `Choices`.
      cut: the slices of volumes to count.
      data: fields of config.data: their size and grid count the labels that masks lose, their
        intensity.nan admits NaN; None for none of it.

    Raises:
      ValueError: see `listing.read`.
    """
    listing = listing or read(Path(root), 0)
    report = Report(f"folder {root}")
    report.facts["layout"] = listing.layout
    if listing.channels:
        report.facts["channels"] = ", ".join(listing.channels)
    if any(case.source for case in listing.cases):
        report.facts["source"] = "images to start from: config.flow.source=channel"
    empty: list[int] = []  # slices of a volume, a number each
    seen: dict[str, set[int]] = defaultdict(set)  # mask values of a split

    def content(case: Case) -> Content:
        paired = how._replace(source=()) if case.source and how.source is None else how
        volume = read_case(case, listing.channels, paired)
        count = volume.channels
        whole = Content(volume.image[..., :count], volume.mask, volume.spacing_mm)
        if volume.mask is not None:
            declared = tuple(listing.labels) or LABELS
            nifti.to_labels(case.masks[0], volume.mask, declared)
            seen[case.split].update(np.unique(volume.mask).tolist())
        if cut is None or volume.image.ndim == 3:
            return whole
        pile = cut.stack(volume)
        chosen = cut.choose(pile)
        if not cut.share:
            shares = foreground(pile.image[..., :count])
            empty.append(sum(shares[index] < FEW for index in chosen))
        pictures = [pile.cut(index) for index in chosen]
        return whole._replace(
            pictures=[(each.image[..., :count], each.mask, each.spacing_mm) for each in pictures]
        )

    items = [
        Item(
            case.name,
            case.patient,
            case.split,
            case.group,
            bool(case.masks),
            functools.partial(content, case),
        )
        for case in listing.cases
    ]
    names = how.channels or listing.channels
    examine(items, dict(listing.labels), report, progress, names, data)
    values = sorted({0}.union(*(summary.labels for summary in report.summaries)))
    if not listing.labels and values != list(range(len(values))):
        pairs = [f"{value} -> {number}" for number, value in enumerate(values)]
        report.facts["labels of the network"] = ", ".join(pairs)
    for split in sorted(seen.keys() - {"train"}) if not listing.labels else ():
        if unknown := seen[split] - seen["train"] - {0}:
            report.errors.append(
                f"mask values {', '.join(map(str, sorted(unknown)[:5]))} of {split} are not in "
                "train; correct the masks, or declare all values: config.data.labels"
            )
    if report.summaries and not any(summary.examples for summary in report.summaries):
        report.errors.append("no slices left; lower config.data.slice_foreground")
    if sum(empty):
        report.warnings.append(
            f"{sum(empty)} slices have less than {FEW:.0%} of foreground; leave them out: "
            f"config.data.slice_foreground={FEW}"
        )
    alike = defaultdict(list)
    for name in report.classes:
        alike[name.strip().lower()].append(name)
    report.warnings += [
        f"classes {' and '.join(names)} differ in case or spaces alone; name one class alike"
        for names in alike.values()
        if len(names) > 1
    ]
    report.warnings += listing.notes
    return report


def propose(summaries: Sequence[Summary], data: Any = None) -> Proposal | None:
    """The median field of view at the median spacing, in a size that every built-in network takes.

    Args:
      summaries: of images of one rank.
      data: fields of config.data, for the slices of volumes.

    Returns:
      None for images of different ranks.
    """
    rank = len(summaries[0].shape) if summaries else 0
    if rank not in FACTORS or any(len(summary.shape) != rank for summary in summaries):
        return None
    is_cut = data is not None and data.slices and rank == 3
    axes = list(Cut(data.slices).axes[:2]) if is_cut else list(range(rank))
    shapes = np.array([summary.shape for summary in summaries])[:, axes]
    are_known = all(summary.spacing_mm for summary in summaries)
    spacings = np.ones_like(shapes, float)
    if are_known:
        spacings = np.array([summary.spacing_mm for summary in summaries])[:, axes]
    spacing = np.median(spacings, axis=0)
    extent = np.median(shapes * spacings, axis=0) / spacing
    factor = FACTORS[len(axes)]
    size = tuple(int(count) * factor for count in np.ceil(np.round(extent, 3) / factor))
    are_alike = (shapes == shapes[0]).all() and np.allclose(spacings, spacing.mean(), rtol=0.01)
    if are_alike or not are_known:
        return Proposal(size)
    return Proposal(size, tuple(float(f"{step:.4g}") for step in spacing))
