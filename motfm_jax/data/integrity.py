"""The checks of `motfm prepare check`, one per layout."""

import collections
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data import camus, decathlon, pickles
from motfm_jax.data.dataset_json import (
    Entry,
    allowed_labels,
    read_channels,
    read_description,
    read_entry,
    read_labels,
)
from motfm_jax.data.examination import Content, Item, Report, examine, listed
from motfm_jax.data.orientation import Reading


def check_camus(
    root: str | Path,
    progress: Progress | None = None,
    reading: Reading = Reading(),  # noqa: B008
    data: Any = None,
) -> Report:
    """Reads every frame of a CAMUS folder of either release.

    Args:
      root: as for `Camus`.
      progress: called with (done, total) as examples are read.
      reading: how files are placed in space.
      data: fields of config.data: their size and grid count the labels that masks lose, their
        intensity.nan admits NaN; None for none of it.

    Raises:
      ValueError: this is not a CAMUS folder.
    """
    root = Path(root)
    folders = camus.patient_folders(root)
    report = Report(f"CAMUS {root}")
    splits = _camus_splits(root, folders, report)
    items, qualities = [], Counter()
    for patient, folder in folders.items():
        frames = camus.list_frames(patient, folder)
        if not frames:
            report.errors.append(
                f"{folder}: no frame such as {folder.name}_2CH_ED.nii.gz; copy this patient again"
            )
            continue
        if len(frames) < 4:
            report.warnings.append(f"{folder}: {len(frames)} of the 4 frames (view x phase)")
        for frame in frames:
            qualities[frame.facts().get("quality", "not stated")] += 1
            items.append(
                Item(
                    frame.name,
                    patient,
                    splits[patient],
                    f"{frame.view}_{frame.phase}",
                    frame.mask_path.is_file(),
                    lambda frame=frame: _read_frame(frame, reading),
                )
            )
    spacings = examine(items, camus.MASK_LABELS, report, progress, data=data)
    report.facts["quality"] = listed(qualities)
    if set(spacings) == {(1.0, 1.0)}:
        report.warnings.append(
            "every pixel is stated to be 1 x 1 mm, the release's are about 0.3 mm: the spacing was "
            "lost, lengths are in pixels and the aspect ratio may have changed"
        )
    return report


def _camus_splits(root: Path, folders: dict[str, Path], report: Report) -> dict[str, str]:
    """Patient -> split by the official lists; their errors are added to the report."""
    splits = {name: "test" if name.startswith("testing_") else "unlisted" for name in folders}
    for split in camus.LISTS:
        listed = camus.read_list(root, split)
        if listed is None:
            if split not in splits.values():
                report.warnings.append(
                    f"{root / camus.LISTS[split]}: missing, so there is no official {split} "
                    "split; config.data.split=paper draws one"
                )
            continue
        for patient in listed:
            if patient not in folders:
                report.errors.append(f"{root / camus.LISTS[split]}: {patient} has no folder")
            elif splits[patient] != "unlisted":
                report.errors.append(
                    f"{patient} is in two splits, {splits[patient]} and {split}: correct the lists"
                )
            else:
                splits[patient] = split
    return splits


def _read_frame(frame: camus.Frame, reading: Reading) -> Content:
    image, mask = camus.read_frame(frame, frame.mask_path.is_file(), reading)
    return Content(image.array[..., None], mask, image.spacing_mm)


def check_decathlon(
    root: str | Path,
    progress: Progress | None = None,
    reading: Reading = Reading(),  # noqa: B008
    label_map: Sequence[tuple[int, int]] = (),
    data: Any = None,
) -> Report:
    """Reads every volume that dataset.json lists; splits are those of split_seed=0.

    Args and errors as for `check_camus`; label_map as for `Decathlon`.
    """
    root = Path(root)
    description = read_description(root)
    channels = read_channels(root, description)
    labels = read_labels(root, description)
    report = Report(f"Decathlon {root}, channels {', '.join(channels)}")
    if not description["training"]:
        report.errors.append(f"{root / 'dataset.json'}: lists nothing under training")
    allowed = allowed_labels(labels, (old for old, _ in label_map))
    entries = {}
    for part in ("training", "test"):
        entries[part] = []
        for item in description.get(part) or []:
            try:
                entries[part].append(read_entry(root, item))
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
            entry.patient,
            entry.patient,
            "unlabelled" if part == "test" else splits[entry.patient],
            "",
            entry.mask_path is not None,
            lambda entry=entry: _read_entry(entry, channels, allowed, reading),
        )
        for part, listed in entries.items()
        for entry in listed
    ]
    examine(items, labels, report, progress, channels, data)
    return report


def _compare_with_folders(root: Path, entries: dict[str, list], report: Report) -> None:
    listed = {entry.image_path for part in entries.values() for entry in part}
    for folder in ("imagesTr", "imagesTs"):
        present = (root / folder).glob("*.nii*")
        extra = [path for path in present if path not in listed and not path.name.startswith(".")]
        if extra:
            report.warnings.append(
                f"{root / folder}: {len(extra)} files that dataset.json does not list, such as "
                f"{min(extra).name}"
            )


def _read_entry(
    entry: Entry, channels: Sequence[str], labels: Sequence[int], reading: Reading
) -> Content:
    image, mask = decathlon.read_volume(entry, channels, labels, reading)
    return Content(image.array, mask, image.spacing_mm)


def check_pickle(path: str | Path, progress: Progress | None = None, data: Any = None) -> Report:
    """Reads every entry of the original's .pkl file.

    Args:
      path: of the file.
      progress: called with (done, total).
      data: fields of config.data: their size and grid count the labels that masks lose, their
        intensity.nan admits NaN; None for none of it.

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
            name, patient = (
                str(known[key]) if isinstance(known.get(key), str | int | float) else None
                for key in ("name", "patient")
            )
            name = name or place
            items.append(
                Item(
                    name,
                    patient or name,
                    split,
                    str(entry.get("class", "")),
                    "mask" in entry,
                    lambda entry=entry, place=place: _arrays(entry, f"{path}: {place}"),
                )
            )
    homes = collections.defaultdict(set)
    for item in items:
        homes[item.patient].add(item.split)
    report.errors += [
        f"{patient} is in two splits, {' and '.join(sorted(splits_of))}: keep one"
        for patient, splits_of in homes.items()
        if len(splits_of) > 1
    ]
    report.warnings += [
        f"{path}: the {name} split is empty" for name in pickles.SPLITS if not splits.get(name)
    ]
    examine(items, {}, report, progress, data=data)
    return report


def _arrays(entry: dict, where: str) -> Content:
    """A pickle's entry, channels last; a first axis of at most 4 is channels."""
    image, mask = entry["image"], entry.get("mask")
    if image.ndim == 3:
        pickles.refuse_channels_last(image, where)
    channels_first = image.ndim == 4 or (image.ndim == 3 and len(image) <= pickles.COLOURS)
    image = np.moveaxis(image, 0, -1) if channels_first else image[..., None]
    if mask is not None:
        mask = mask[0] if mask.ndim == image.ndim and len(mask) == 1 else mask
        if mask.shape != image.shape[:-1]:
            raise ValueError(
                f"{where}: mask {mask.shape} and image {image.shape[:-1]} differ in space; "
                "resample one to the other's grid"
            )
    return Content(image, mask, None)
