"""Reads every example of a data set: counts, summaries, errors and warnings.

An error is something that the loaders refuse or that would falsify a result (a patient in two
splits). A warning is something that a person should know.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data.geometry import Grid
from motfm_jax.data.nifti import finite

SHOWN = 20  # lines of one kind in a printed report


class Content(NamedTuple):
    """An example's arrays as the file holds them.

    Attributes:
      image: [*S, C].
      mask: [*S] labels, or None.
      spacing_mm: one number an axis, or None.
      pictures: (image, mask, spacing_mm) of each part that is an example; None for the whole.
    """

    image: np.ndarray
    mask: np.ndarray | None
    spacing_mm: Sequence[float] | None
    pictures: Sequence[Any] | None = None


class Item(NamedTuple):
    """An example to check; `read` raises ValueError if it cannot be used."""

    name: str
    patient: str
    split: str
    group: str  # its class, or ""
    has_mask: bool
    read: Callable[[], Content]


class Summary(NamedTuple):
    """The facts of an example, without its arrays."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    dtype: str
    low: tuple[float, ...]  # by channel
    high: tuple[float, ...]
    digest: str  # of the image's values
    labels: dict[int, int]  # voxels by label
    examples: int
    held: Counter  # examples by label
    lost: Counter  # likewise, of the label lost by resizing
    filled: int  # NaN and infinite values


@dataclasses.dataclass
class Report:
    """The result of a check.

    Attributes:
      title: the data set.
      counts: the table, a heading and a row a split.
      facts: name -> text: shapes, spacing, intensities, labels.
      summaries: of the examples that can be read.
      classes: of all examples.
      warnings, errors: one line each.
    """

    title: str
    counts: list[list[str]] = dataclasses.field(default_factory=list)
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    summaries: list[Summary] = dataclasses.field(default_factory=list)
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        facts = [[name, text] for name, text in self.facts.items()]
        lines = [self.title, "", *_columns(self.counts), "", *_columns(facts), ""]
        for name, messages in (("warnings", self.warnings), ("errors", self.errors)):
            lines.append(f"{name}: {len(messages)}")
            lines += [f"  {message}" for message in messages[:SHOWN]]
            lines += [f"  and {len(messages) - SHOWN} more"] * (len(messages) > SHOWN)
        return "\n".join(lines)


def examine(
    items: Sequence[Item],
    labels: Sequence[str] | dict[int, str],
    report: Report,
    progress: Progress | None,
    channels: Sequence[str] = (),
    data: Any = None,
) -> Counter:
    """Reads all items into the report.

    Args:
      items: the examples.
      labels: names of the mask labels, for the report.
      report: receives counts, facts, warnings and errors.
      progress: called with (done, total).
      channels: names of the images' channels; () if they have none.
      data: fields of config.data: their size and grid count the labels that masks lose, their
        intensity.nan admits NaN; None for none of it.

    Returns:
      How often each spacing occurs.
    """
    grid = Grid.from_config(data) if data is not None and data.size else None
    nan = "" if data is None else data.intensity.nan
    with concurrent.futures.ThreadPoolExecutor() as pool:
        summaries = []
        for summary in pool.map(functools.partial(_summarise, grid=grid, nan=nan), items):
            summaries.append(summary)
            if progress is not None:
                progress("files", len(summaries), len(items))
    readable = []
    for item, summary in zip(items, summaries):
        if isinstance(summary, str):
            report.errors.append(summary)
        else:
            readable.append((item, summary))
    report.counts = _count(items, readable, report)
    usable = [summary for _, summary in readable]
    spacings = Counter(summary.spacing_mm for summary in usable if summary.spacing_mm)
    report.facts |= {
        "shape": _extents([summary.shape for summary in usable]),
        "spacing_mm": _extents([summary.spacing_mm for summary in usable if summary.spacing_mm]),
        "type": listed(Counter(summary.dtype for summary in usable)),
    }
    count = max((len(summary.low) for summary in usable), default=0)
    names = channels or [f"channel {number}" * (count > 1) for number in range(1, count + 1)]
    for index, channel in enumerate(names[:count]):
        present = [summary for summary in usable if len(summary.low) > index]
        if present:
            low = [summary.low[index] for summary in present]
            high = [summary.high[index] for summary in present]
            report.facts[f"intensity {channel}".strip()] = (
                f"{_span([min(low), max(high)])}; "
                f"an image's lowest {_span(low)}, highest {_span(high)}"
            )
    if any(summary.labels for summary in usable):
        report.facts["labels"] = _label_shares(usable, labels)
    report.summaries = usable
    report.classes = tuple(sorted({item.group for item in items} - {""}))
    _compare_channels(readable, report)
    _warn_of_lost_labels(usable, labels, report, grid)
    _warn_of_single_images(readable, names, report)
    _warn_of_identical_images(readable, report)
    return spacings


def _summarise(item: Item, grid: Grid | None, nan: Any) -> Summary | str:
    """The facts of one example, or the reason why it cannot be used."""
    held, lost = Counter(), Counter()
    try:
        image, mask, spacing, pictures = item.read()
        image, filled = finite(image, nan)
        pictures = [(image, mask, spacing)] if pictures is None else pictures
        if grid is not None and mask is not None:
            for picture in pictures:
                present, missing = _lost_labels(grid, *picture)
                held.update(present)
                lost.update(missing)
    except ValueError as error:
        place, colon, _ = str(error).partition(": ")  # of most errors, the file
        return str(error) if colon and item.name in place else f"{item.name}: {error}"
    axes = tuple(range(image.ndim - 1))
    values = np.ascontiguousarray(image)
    digest = hashlib.blake2b(f"{image.shape} {image.dtype}".encode(), digest_size=16)
    digest.update(values)
    counted = zip(*np.unique(mask, return_counts=True)) if mask is not None else ()
    return Summary(
        shape=image.shape[:-1],
        spacing_mm=None if spacing is None else tuple(round(float(step), 4) for step in spacing),
        dtype=str(image.dtype),
        low=tuple(image.min(axis=axes).tolist()),
        high=tuple(image.max(axis=axes).tolist()),
        digest=digest.hexdigest(),
        labels={int(label): int(count) for label, count in counted},
        examples=len(pictures),
        held=held,
        lost=lost,
        filled=filled,
    )


def _lost_labels(
    grid: Grid, image: np.ndarray, mask: np.ndarray, spacing: Sequence[float] | None
) -> tuple[list[int], list[int]]:
    """The labels of a mask, and those that it has not got on the grid."""
    image = image if grid.crop_foreground else image[..., :0]
    placed = grid.place(image, mask, None, spacing).mask
    present = np.unique(mask)
    return present.tolist(), np.setdiff1d(present, placed).tolist()


def _count(
    items: Sequence[Item], readable: Sequence[tuple[Item, Summary]], report: Report
) -> list[list[str]]:
    """The table: a row a split; masks that some examples of a split lack are an error."""
    groups = sorted({item.group for item in items} - {""})
    slices = Counter()
    for item, summary in readable:
        slices[item.split] += summary.examples
    has_slices = any(summary.examples != 1 for _, summary in readable)
    heading = ["split", "patients", "images", "images a patient", "masks"]
    rows = [[*heading, *["slices"] * has_slices, *groups]]
    order = [*dict.fromkeys(("train", "valid", "test", *(item.split for item in items)))]
    for split in (*order, "all"):
        chosen = [item for item in items if split in (item.split, "all")]
        if not chosen:
            continue
        of_patient = Counter(item.patient for item in chosen).values()
        masks = sum(item.has_mask for item in chosen)
        of_group = Counter(item.group for item in chosen)
        numbers = [len(of_patient), len(chosen), _span(of_patient), masks]
        numbers += [slices[split] if split != "all" else slices.total()] * has_slices
        rows.append([split, *map(str, numbers), *(str(of_group[group]) for group in groups)])
        if split != "all" and 0 < masks < len(chosen):
            lacking = next(item.name for item in chosen if not item.has_mask)
            report.errors.append(
                f"{split}: {len(chosen) - masks} of {len(chosen)} images have no mask, such as "
                f"{lacking}; add the masks or take the images out"
            )
    learned = {item.group for item in items if item.split == "train"}
    for group in groups if learned - {""} else ():
        if group not in learned:
            found = sorted({item.split for item in items if item.group == group})
            report.warnings.append(
                f"class {group}: only in {', '.join(found)}, so it is never learned"
            )
    return rows


def _compare_channels(readable: Sequence[tuple[Item, Summary]], report: Report) -> None:
    """Images of different numbers of channels are an error."""
    kinds = collections.defaultdict(list)
    for item, summary in readable:
        kinds[len(summary.low)].append(item.name)
    if len(kinds) > 1:
        found = [f"{len(names)} of {count}, such as {names[0]}" for count, names in kinds.items()]
        report.errors.append(
            f"images of different numbers of channels: {'; '.join(found)}; save all as one kind"
        )


def _warn_of_lost_labels(
    summaries: Sequence[Summary],
    labels: Sequence[str] | dict[int, str],
    report: Report,
    grid: Grid | None,
) -> None:
    names = labels if isinstance(labels, dict) else dict(enumerate(labels))
    held = sum((summary.held for summary in summaries), Counter())
    lost = sum((summary.lost for summary in summaries), Counter())
    for label, times in sorted(lost.items()):
        size = " x ".join(map(str, grid.size)) if grid else ""
        report.warnings.append(
            f"label {label} {names.get(label, '')}".strip()
            + f" is lost in {times} of the {held[label]} masks that have it, resized to {size}"
        )


def _warn_of_single_images(
    readable: Sequence[tuple[Item, Summary]], names: Sequence[str], report: Report
) -> None:
    always = _constant_channels([summary for _, summary in readable])
    for channel, value in always.items():
        line = f"{names[channel]} is {value:.6g} in all images; leave it out if it is alpha"
        report.warnings.append(line)
    for item, summary in readable:
        if summary.filled:
            report.warnings.append(f"{item.name}: {summary.filled} values are NaN or infinite")
        for channel, (low, high) in enumerate(zip(summary.low, summary.high)):
            what = "the image" if len(summary.low) == 1 else names[channel]
            if low == high and channel not in always:
                report.warnings.append(f"{item.name}: {what} is constant ({low:.6g})")
        if set(summary.labels) == {0}:
            report.warnings.append(f"{item.name}: the mask is empty")


def _constant_channels(summaries: Sequence[Summary]) -> dict[int, float]:
    """Channels, of several, with one value in all images: index -> value."""
    common = min((len(summary.low) for summary in summaries), default=0)
    values = {
        channel: {bound[channel] for each in summaries for bound in (each.low, each.high)}
        for channel in range(common if common > 1 else 0)
    }
    return {channel: found.pop() for channel, found in values.items() if len(found) == 1}


def _warn_of_identical_images(readable: Iterable[tuple[Item, Summary]], report: Report) -> None:
    twins = collections.defaultdict(list)
    for item, summary in readable:
        twins[summary.digest].append(item)
    for same in twins.values():
        if len(same) > 1:
            names = ", ".join(f"{item.name} ({item.split})" for item in same)
            report.warnings.append(f"the same image, voxel for voxel: {names}")


def _label_shares(summaries: Sequence[Summary], labels: Sequence[str] | dict[int, str]) -> str:
    names = labels if isinstance(labels, dict) else dict(enumerate(labels))
    voxels = sum((Counter(summary.labels) for summary in summaries), Counter())
    return ", ".join(
        f"{label} {names.get(label, '')}".strip() + f" {100 * voxels[label] / voxels.total():.3g}%"
        for label in sorted(set(names) | set(voxels))
    )


def _extents(values: Sequence[tuple[float, ...]]) -> str:
    """Tuples of numbers in words: the one there is, or the commonest and each axis' span."""
    if not values:
        return "unknown"
    (commonest, times), *others = Counter(values).most_common()
    text = " x ".join(f"{extent:g}" for extent in commonest)
    if not others:
        return text
    spans = " x ".join(_span(axis) for axis in zip(*values))
    return f"{text} in {times} of {len(values)}, {len(others) + 1} kinds within {spans}"


def _span(numbers: Iterable[float]) -> str:
    numbers = list(numbers)
    low, high = min(numbers), max(numbers)
    return f"{low:.6g}" if low == high else f"{low:.6g} .. {high:.6g}"


def listed(counts: Counter) -> str:
    return ", ".join(f"{value} {times}" for value, times in counts.most_common())


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
