"""What a data set holds and what is wrong with it, before a network sees it.

An error is what the loaders refuse or what would make a result wrong (a patient in two splits); a
warning is what a person should know of.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motfm_jax.data import camus, decathlon, pickles
from motfm_jax.data.files import read

Progress = Callable[[int, int], None]

SHOWN = 20  # lines of one kind in a printed report


class Content(NamedTuple):
    """An example's arrays as the file holds them.

    Attributes:
      image: [*S, C].
      mask: [*S] labels, or None.
      spacing_mm: one number an axis, or None.
    """

    image: np.ndarray
    mask: np.ndarray | None
    spacing_mm: Sequence[float] | None


class Item(NamedTuple):
    """An example to look at; `read` raises ValueError where it is bad."""

    name: str
    patient: str
    split: str
    group: str  # its class, or ""
    has_mask: bool
    read: Callable[[], Content]


class Summary(NamedTuple):
    """What is kept of an example once its arrays are let go."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    dtype: str
    low: tuple[float, ...]  # by channel
    high: tuple[float, ...]
    digest: str  # of the image's values
    labels: dict[int, int]  # voxels by label


@dataclasses.dataclass
class Report:
    """What was found.

    Attributes:
      title: what was looked at.
      counts: the table, a heading and a row a split.
      facts: name -> text: shapes, spacing, intensities, labels.
      warnings, errors: one line each.
    """

    title: str
    counts: list[list[str]] = dataclasses.field(default_factory=list)
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        facts = [[name, text] for name, text in self.facts.items()]
        lines = [self.title, "", *_columns(self.counts), "", *_columns(facts), ""]
        for name, found in (("warnings", self.warnings), ("errors", self.errors)):
            lines.append(f"{name}: {len(found)}")
            lines += [f"  {line}" for line in found[:SHOWN]]
            lines += [f"  and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        return "\n".join(lines)


def check_camus(root: str | Path, progress: Progress | None = None) -> Report:
    """Looks at every frame of a CAMUS folder of either release.

    Args:
      root: as for `Camus`.
      progress: called with (done, total) as examples are read.

    Raises:
      ValueError: no CAMUS folder at all.
    """
    root = Path(root)
    folders = camus.patient_folders(root)
    report = Report(f"CAMUS {root}")
    splits = _camus_splits(root, folders, report)
    items, qualities = [], Counter()
    for patient, folder in folders.items():
        try:
            frames = camus.list_frames(patient, folder)
        except ValueError as error:
            report.errors.append(str(error))
            continue
        if len(frames) < 4:
            report.warnings.append(f"{folder}: {len(frames)} of the 4 frames (view x phase)")
        for frame in frames:
            meta = frame.meta()
            qualities[meta.get("quality", "not stated")] += 1
            items.append(Item(
                meta["name"], patient, splits[patient], f"{frame.view}_{frame.phase}",
                frame.mask_path.is_file(), lambda frame=frame: _read_frame(frame)))  # fmt: skip
    spacings = _examine(items, camus.MASK_LABELS, report, progress)
    report.facts["quality"] = _listed(qualities)
    if set(spacings) == {(1.0, 1.0)}:
        report.warnings.append(
            "every pixel is stated to be 1 x 1 mm, the release's are about 0.3 mm: the spacing was "
            "lost, lengths are in pixels and the aspect ratio may have changed")
    return report


def _camus_splits(root: Path, folders: dict[str, Path], report: Report) -> dict[str, str]:
    """Patient -> split by the official lists; what is wrong with them goes into the report."""
    splits = {name: "test" if name.startswith("testing_") else "unlisted" for name in folders}
    for split in camus.LISTS:
        listed = camus.read_list(root, split)
        if listed is None:
            if split not in splits.values():
                report.warnings.append(
                    f"{root / camus.LISTS[split]}: missing, so there is no official {split} "
                    "split; config.data.split=paper draws one")
            continue
        for patient in listed:
            if patient not in folders:
                report.errors.append(f"{root / camus.LISTS[split]}: {patient} has no folder")
            elif splits[patient] != "unlisted":
                report.errors.append(
                    f"{patient} is in two splits, {splits[patient]} and {split}: correct the lists")
            else:
                splits[patient] = split
    return splits


def _read_frame(frame: camus.Frame) -> Content:
    image, _, spacing = camus.read_frame(frame.image_path)
    mask = camus.read_mask(frame, image.shape) if frame.mask_path.is_file() else None
    return Content(image[..., None], mask, spacing)


def check_decathlon(root: str | Path, progress: Progress | None = None) -> Report:
    """Looks at every volume that dataset.json lists; splits are those of split_seed=0.

    Args and errors as for `check_camus`.
    """
    root = Path(root)
    description = decathlon.read_description(root)
    channels = decathlon.read_channels(root, description)
    labels = decathlon.read_labels(root, description)
    report = Report(f"Decathlon {root}, channels {', '.join(channels)}")
    entries = {}
    for part in ("training", "test"):
        entries[part] = []
        for item in description.get(part) or []:
            try:
                entries[part].append(decathlon.read_entry(root, item))
            except ValueError as error:
                report.errors.append(str(error))
    training = [entry.patient for entry in entries["training"]]
    splits = {
        patient: split
        for split, chosen in decathlon.split_patients(sorted(set(training)), seed=0).items()
        for patient in chosen
    }
    for patient, times in Counter(training).items():
        if times > 1:
            report.errors.append(f"{patient}: listed {times} times under training; keep one")
    for entry in entries["test"]:
        if entry.patient in splits:
            report.errors.append(f"{entry.patient} is in two splits, training and test: keep one")
    _compare_with_folders(root, entries, report)
    items = [
        Item(
            entry.patient, entry.patient, "unlabelled" if part == "test" else splits[entry.patient],
            "", entry.mask_path is not None,
            lambda entry=entry: _read_entry(entry, channels, labels))
        for part, listed in entries.items()
        for entry in listed
    ]  # fmt: skip
    _examine(items, labels, report, progress, channels)
    return report


def _compare_with_folders(root: Path, entries: dict[str, list], report: Report) -> None:
    listed = {entry.image_path for part in entries.values() for entry in part}
    for folder in ("imagesTr", "imagesTs"):
        found = (root / folder).glob("*.nii*")
        extra = [path for path in found if path not in listed and not path.name.startswith(".")]
        if extra:
            report.warnings.append(
                f"{root / folder}: {len(extra)} files that dataset.json does not list, such as "
                f"{min(extra).name}")


def _read_entry(entry: decathlon.Entry, channels: Sequence[str], labels: dict) -> Content:
    volume = decathlon.read_image(entry.image_path, channels)
    mask = None
    if entry.mask_path:
        mask = decathlon.read_mask(entry, volume.array.shape[:3], tuple(labels))
        shift = np.abs(volume.affine - read(entry.mask_path).affine).max()
        if shift > 0.01:
            raise ValueError(
                f"{entry.mask_path}: its affine differs from {entry.image_path.name}'s by "
                f"{shift:.3g} mm; resample one to the other's grid")
    return Content(volume.array, mask, volume.spacing_mm)


def check_pickle(path: str | Path, progress: Progress | None = None) -> Report:
    """Looks at every entry of the original's .pkl file.

    Args:
      path: of the file.
      progress: called with (done, total).

    Raises:
      ValueError: no such file, or not that layout.
    """
    splits = pickles.read_pickle(path)
    report = Report(f"pickle {path}")
    items = []
    for split, entries in splits.items():
        for index, entry in enumerate(entries):
            place = f"{split}[{index}]"
            metadata = entry.get("metadata")
            known = metadata if isinstance(metadata, dict) else {}
            name = str(known.get("name", place))
            items.append(Item(
                name, str(known.get("patient", name)), split, str(entry.get("class", "")),
                "mask" in entry,
                lambda entry=entry, place=place: _arrays(entry, f"{path}: {place}"),
            ))  # fmt: skip
    homes = collections.defaultdict(set)
    for item in items:
        homes[item.patient].add(item.split)
    report.errors += [
        f"{patient} is in two splits, {' and '.join(sorted(found))}: keep one"
        for patient, found in homes.items()
        if len(found) > 1
    ]
    report.warnings += [f"{path}: the {name} split is empty" for name in pickles.SPLITS
                        if not splits.get(name)]  # fmt: skip
    _examine(items, {}, report, progress)
    return report


def _arrays(entry: dict, where: str) -> Content:
    """A pickle's entry, channels last; a first axis of at most 4 is channels."""
    image, mask = entry["image"], entry.get("mask")
    channels_first = image.ndim == 4 or (image.ndim == 3 and len(image) <= 4)
    image = np.moveaxis(image, 0, -1) if channels_first else image[..., None]
    if not np.isfinite(image).all():
        raise ValueError(f"{where}: NaN or infinite voxels, finite ones needed; write it again")
    if mask is not None:
        mask = mask[0] if mask.ndim == image.ndim and len(mask) == 1 else mask
        if mask.shape != image.shape[:-1]:
            raise ValueError(
                f"{where}: mask {mask.shape} and image {image.shape[:-1]} differ in space; "
                "resample one to the other's grid")
    return Content(image, mask, None)


def _examine(
    items: Sequence[Item],
    labels: Sequence[str] | dict[int, str],
    report: Report,
    progress: Progress | None,
    channels: Sequence[str] = ("",),
) -> Counter:
    """Reads all items into the report; returns how often each spacing occurs."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        summaries = []
        for summary in pool.map(_summarise, items):
            summaries.append(summary)
            if progress is not None:
                progress(len(summaries), len(items))
    readable = []
    for item, summary in zip(items, summaries):
        if isinstance(summary, str):
            report.errors.append(summary)
        else:
            readable.append((item, summary))
    report.counts = _count(items, report)
    found = [summary for _, summary in readable]
    spacings = Counter(summary.spacing_mm for summary in found if summary.spacing_mm)
    report.facts |= {
        "shape": _extents([summary.shape for summary in found]),
        "spacing_mm": _extents([summary.spacing_mm for summary in found if summary.spacing_mm]),
        "type": _listed(Counter(summary.dtype for summary in found)),
    }
    for index, channel in enumerate(channels):
        present = [summary for summary in found if len(summary.low) > index]
        if present:
            low = [summary.low[index] for summary in present]
            high = [summary.high[index] for summary in present]
            report.facts[f"intensity {channel}".strip()] = (
                f"{_span([min(low), max(high)])}; "
                f"an image's lowest {_span(low)}, highest {_span(high)}")
    if any(summary.labels for summary in found):
        report.facts["labels"] = _label_shares(found, labels)
    _warn_of_single_images(readable, report)
    _warn_of_identical_images(readable, report)
    return spacings


def _summarise(item: Item) -> Summary | str:
    """What matters of one example, or the line that says why it cannot be used."""
    try:
        image, mask, spacing = item.read()
    except ValueError as error:
        return str(error)
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
    )


def _count(items: Sequence[Item], report: Report) -> list[list[str]]:
    """The table: a row a split; masks that some examples of a split lack are an error."""
    groups = sorted({item.group for item in items} - {""})
    rows = [["split", "patients", "images", "images a patient", "masks", *groups]]
    order = [*dict.fromkeys(("train", "valid", "test", *(item.split for item in items)))]
    for split in (*order, "all"):
        chosen = [item for item in items if split in (item.split, "all")]
        if not chosen:
            continue
        of_patient = Counter(item.patient for item in chosen).values()
        masks = sum(item.has_mask for item in chosen)
        of_group = Counter(item.group for item in chosen)
        numbers = [len(of_patient), len(chosen), _span(of_patient), masks]
        rows.append([split, *map(str, numbers), *(str(of_group[group]) for group in groups)])
        if split != "all" and 0 < masks < len(chosen):
            lacking = next(item.name for item in chosen if not item.has_mask)
            report.errors.append(
                f"{split}: {len(chosen) - masks} of {len(chosen)} images have no mask, such as "
                f"{lacking}; add the masks or take the images out")
    return rows


def _warn_of_single_images(readable: Iterable[tuple[Item, Summary]], report: Report) -> None:
    for item, summary in readable:
        if any(low == high for low, high in zip(summary.low, summary.high)):
            report.warnings.append(f"{item.name}: the image is constant ({summary.low[0]:.6g})")
        if set(summary.labels) == {0}:
            report.warnings.append(f"{item.name}: the mask is empty")


def _warn_of_identical_images(readable: Iterable[tuple[Item, Summary]], report: Report) -> None:
    twins = collections.defaultdict(list)
    for item, summary in readable:
        twins[summary.digest].append(item)
    for same in twins.values():
        if len(same) > 1:
            names = ", ".join(f"{item.name} ({item.split})" for item in same)
            report.warnings.append(f"the same image, voxel for voxel: {names}")


def _label_shares(found: Sequence[Summary], labels: Sequence[str] | dict[int, str]) -> str:
    names = labels if isinstance(labels, dict) else dict(enumerate(labels))
    voxels = sum((Counter(summary.labels) for summary in found), Counter())
    return ", ".join(
        f"{label} {names.get(label, '')}".strip() + f" {100 * voxels[label] / voxels.total():.3g}%"
        for label in sorted(set(names) | set(voxels)))


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


def _listed(counts: Counter) -> str:
    return ", ".join(f"{value} {times}" for value, times in counts.most_common())


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
