"""Medical Segmentation Decathlon folders: `dataset.json`, `imagesTr`, `labelsTr`, `imagesTs`.

Arrays keep the file's axis order (i, j, k); the affine gives their position.

Source: Antonelli et al., Nature Communications 13, 2022; layout at medicaldecathlon.com.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data import geometry, nifti
from motfm_jax.data.examination import Report
from motfm_jax.data.source import NoSplit, Record

SPLITS = ("train", "valid", "test", "unlabelled")
VERSION = 1  # of the records; raise it when they change


class Entry(NamedTuple):
    """One volume of dataset.json; mask_path is None if it has no mask."""

    patient: str
    image_path: Path
    mask_path: Path | None


class Decathlon:
    """The volumes of one split, in the order of dataset.json.

    Args:
      root: the folder of dataset.json.
      split: "train", "valid" or "test" of the training entries (80, 10 and 10% of the patients, at
        least one of them for validation), or "unlabelled", the entries under "test".
      grid: (D, H, W) along the file's axes, and how volumes are brought to it.
      channel: a name in dataset.json's "modality", in any case; "" if there is only one.
      source_channel: the channel that it is to be made from, resampled with it; "" for none.
      label_map: (from, to) pairs applied to the masks; labels that share a target are merged and
        their names joined by "+". Labels without a pair stay.
      split_seed: of the split.

    Records: image [*S, 1] float32 in the file's range, source the same or None, mask [*S] uint8 or
    None; meta has name, patient, channel, spacing_mm and affine.

    Raises:
      ValueError: what is missing or wrong; a file is opened when its record is read.
    """

    dims = (3,)
    needs_root = True
    has_channels = True
    classes: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path,
        split: str,
        grid: geometry.Grid,
        channel: str = "",
        source_channel: str = "",
        label_map: Sequence[tuple[int, int]] = (),
        split_seed: int = 0,
    ):
        if split not in SPLITS:
            raise ValueError(f"Decathlon split {split!r}: use one of {', '.join(SPLITS)}")
        self.root, self.grid = Path(root), grid
        description = read_description(self.root)
        self.channels = read_channels(self.root, description)
        self.chosen = [find_channel(self.root, self.channels, channel)]
        if source_channel:
            self.chosen.append(
                find_channel(self.root, self.channels, source_channel, "config.flow.source_channel")
            )
        labels = read_labels(self.root, description)
        self.label_map = {int(old): int(new) for old, new in label_map}
        unknown = sorted(set(self.label_map) - set(labels))
        if unknown and labels:
            raise ValueError(
                f"config.data.label_map: label {unknown[0]} is not in {self.root / 'dataset.json'} "
                f"({', '.join(map(str, labels))}); correct the pairs"
            )
        self.settings = {
            "split": split,
            "channel": self.channels[self.chosen[0]],
            "size": list(grid.size),
            "fit": grid.fit,
            "crop_foreground": grid.crop_foreground,
            "spacing_mm": list(grid.spacing_mm),
            "label_map": sorted(self.label_map.items()),
            "split_seed": split_seed,
        }
        if source_channel:
            self.settings["source_channel"] = self.channels[self.chosen[1]]
        self.entries = split_entries(self.root, description, split, split_seed)
        self.labels = labels if any(entry.mask_path for entry in self.entries) else {}
        self.mask_labels = name_labels(self.labels, self.label_map)
        self._targets = np.zeros(max(self.labels, default=0) + 1, np.uint8)
        for old in self.labels:
            self._targets[old] = self.label_map.get(old, old)

    @classmethod
    def from_config(cls, data: Any, split: str, source_channel: str = "") -> "Decathlon":
        """A split from the fields of config.data."""
        return cls(
            data.root,
            split,
            geometry.Grid(data.size, data.fit, data.spacing_mm, data.crop_foreground),
            data.channel,
            source_channel,
            data.label_map,
            data.split_seed,
        )

    @staticmethod
    def check_config(data: Any) -> None:
        """Raises ValueError for a spacing or label map that cannot be used."""
        steps = data.spacing_mm
        are_lengths = all(type(n) in (int, float) and 0 < n < np.inf for n in steps)
        if steps and not (are_lengths and len(steps) == len(data.size)):
            raise ValueError(
                f"config.data.spacing_mm={tuple(steps)}: give {len(data.size)} numbers, each above "
                "0"
            )
        for pair in data.label_map:
            labels = pair if isinstance(pair, Sequence) else ()
            if len(labels) != 2 or not all(type(n) is int and 0 <= n < 256 for n in labels):
                raise ValueError(
                    f"config.data.label_map={tuple(data.label_map)}: give pairs (from, to) of "
                    "labels from 0 to 255, such as ((4, 3),)"
                )

    @staticmethod
    def check(root: str | Path, progress: Progress | None = None) -> Report:
        """Reads every volume; see `integrity.check_decathlon`."""
        from motfm_jax.data.integrity import check_decathlon

        return check_decathlon(root, progress)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry, settings = self.entries[index], self.settings
        image, affine, spacing = read_image(entry.image_path, self.channels)
        mask = None
        if self.labels:
            if entry.mask_path is None:
                raise ValueError(
                    f"{entry.image_path}: has no label in dataset.json, other {settings['split']} "
                    "entries have; give all of them one or none"
                )
            mask = self._targets[read_mask(entry, image.shape[:3], tuple(self.labels))]
        image = image[..., self.chosen]
        try:
            resized = self.grid.place(image, mask, affine, spacing)
        except ValueError as error:
            raise ValueError(f"{entry.image_path}: {error}") from error
        return Record(
            resized.image[..., :1],
            resized.mask,
            patient=entry.patient,
            name=entry.patient,
            source=resized.image[..., 1:] if len(self.chosen) > 1 else None,
            spacing_mm=resized.spacing_mm,
            affine=resized.affine,
            extra={"channel": settings["channel"]},
        )

    def where(self, index: int) -> str:
        """The file of a record, for messages."""
        return str(self.entries[index].image_path)

    def fingerprint(self) -> dict[str, Any]:
        labels = {str(value): name for value, name in self.labels.items()}
        return {"source": "decathlon", "version": VERSION, **self.settings, "labels": labels}

    def source_files(self) -> list[Path]:
        """The files that the records depend on."""
        return [path for entry in self.entries for path in entry[1:] if path]


def read_image(path: Path, channels: Sequence[str]) -> nifti.Volume:
    """A volume as [I, J, K, C], the channels checked by their number."""
    volume = nifti.read(path)
    count = volume.array.shape[3] if volume.array.ndim == 4 else 1
    if volume.array.ndim not in (3, 4) or count != len(channels):
        raise ValueError(
            f"{path}: shape {volume.array.shape}, 3 axes and {len(channels)} channels needed "
            f"({', '.join(channels)} in dataset.json); correct one of the two"
        )
    return volume._replace(array=volume.array.reshape(*volume.array.shape[:3], count))


def read_mask(entry: Entry, shape: tuple[int, ...], labels: Sequence[int]) -> np.ndarray:
    """An entry's mask [I, J, K] as whole numbers, checked against the image and the labels."""
    values = nifti.read(entry.mask_path).array
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    nifti.check_same_space(entry.mask_path, values, entry.image_path, shape)
    return nifti.to_labels(entry.mask_path, values, labels)


def read_description(root: Path) -> dict[str, Any]:
    """dataset.json.

    Raises:
      ValueError: no such folder or file, no JSON, or no "training" or "modality" in it.
    """
    path = root / "dataset.json"
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds dataset.json")
    if not path.is_file():
        raise ValueError(f"{path}: missing; give a Medical Segmentation Decathlon folder")
    try:
        description = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); copy it again") from error
    needed = {"modality": dict, "training": list}
    fields = description if isinstance(description, dict) else {}
    wrong = [name for name, kind in needed.items() if not isinstance(fields.get(name), kind)]
    if wrong:
        raise ValueError(
            f"{path}: no {' and no '.join(wrong)} in it, the Decathlon's modality (index -> name) "
            "and training (a list) are needed; complete it"
        )
    return description


def read_channels(root: Path, description: dict[str, Any]) -> list[str]:
    """Channel names by index."""
    names = description["modality"]
    if not names or sorted(names) != sorted(map(str, range(len(names)))):
        raise ValueError(
            f"{root / 'dataset.json'}: 'modality' {names}, keys '0', '1', ... needed; correct it"
        )
    return [str(names[str(index)]) for index in range(len(names))]


def find_channel(
    root: Path,
    channels: Sequence[str],
    name: str,
    flag: str = "config.data.channel, in motfm prepare --channel",
) -> int:
    """Index of the channel of this name, in any case but whole: T1w is not t1gd."""
    matches = [i for i, each in enumerate(channels) if each.lower() == name.strip().lower()]
    if not name and len(channels) == 1:
        return 0
    if len(matches) != 1:
        number = len(matches) or "no"
        came = f"{number} channels are called {name!r}" if name else "no channel chosen"
        raise ValueError(
            f"{root / 'dataset.json'}: {came}, it has {', '.join(channels)}; "
            f"name one of them: {flag}"
        )
    return matches[0]


def read_labels(root: Path, description: dict[str, Any]) -> dict[int, str]:
    """Label names by value; empty if the data set has none."""
    labels = description.get("labels") or {}
    named: dict[int, str] = {}
    try:
        named = {value: str(labels[str(value)]) for value in sorted(map(int, labels))}
        valid = not named or (min(named) == 0 and max(named) < 2**16)
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{root / 'dataset.json'}: 'labels' {labels!s:.200}, value -> name with whole numbers "
            "from 0 to 65535 needed; correct it"
        )
    return named


def name_labels(labels: dict[int, str], label_map: dict[int, int]) -> tuple[str, ...]:
    """Names by value after remapping; ValueError for a value outside 0 .. 255."""
    names: dict[int, list[str]] = {}
    for old, name in labels.items():
        names.setdefault(label_map.get(old, old), []).append(name)
    if names and not 0 <= min(names) <= max(names) <= 255:
        raise ValueError(
            f"labels {min(names)} .. {max(names)}: masks hold 0 .. 255; remap them: "
            "--config.data.label_map"
        )
    values = range(max(names, default=-1) + 1)
    return tuple("+".join(names.get(value, [f"unused {value}"])) for value in values)


def split_entries(root: Path, description: dict[str, Any], split: str, seed: int) -> list[Entry]:
    """The entries of one split.

    Raises:
      NoSplit: no entry in this split.
      ValueError: an entry is malformed.
    """
    listed = description["training"] if split != "unlabelled" else description.get("test") or []
    entries = [read_entry(root, item) for item in listed]
    if split == "unlabelled":
        entries = [entry._replace(mask_path=None) for entry in entries]
    else:
        patients = sorted({entry.patient for entry in entries})
        chosen = split_patients(patients, seed)[split]
        entries = [entry for entry in entries if entry.patient in chosen]
    if not entries:
        raise NoSplit(
            f"{root / 'dataset.json'}: {len(listed)} entries leave none for the {split} split; "
            "add data, or use another split"
        )
    return entries


def split_patients(patients: Sequence[str], seed: int) -> dict[str, set[str]]:
    """A seeded tenth for test, a tenth but at least one for validation, the rest for training."""
    order = [patients[index] for index in np.random.default_rng(seed).permutation(len(patients))]
    num_test = round(len(order) / 10)
    num_held = num_test + max(1, round(len(order) / 10))
    return {
        "test": set(order[:num_test]),
        "valid": set(order[num_test:num_held]),
        "train": set(order[num_held:]),
    }


def read_entry(root: Path, item: Any) -> Entry:
    """{"image": ..., "label": ...}, or the image's path; ValueError for others."""
    fields = item if isinstance(item, dict) else {"image": item}
    image, label = fields.get("image"), fields.get("label")
    if not (isinstance(image, str) and image and isinstance(label, str | None)):
        raise ValueError(
            f"{root / 'dataset.json'}: entry {item!s:.60}, paths of an image and its label needed; "
            "correct it"
        )
    image_path = root / image
    return Entry(image_path.name.split(".nii")[0], image_path, root / label if label else None)
