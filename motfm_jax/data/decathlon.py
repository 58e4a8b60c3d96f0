"""Medical Segmentation Decathlon folders: `dataset.json`, `imagesTr`, `labelsTr`, `imagesTs`.

Volumes are RAS: their axes lead to the patient's right, front and top, or closest to it.

Source: Antonelli et al., Nature Communications 13, 2022; layout at medicaldecathlon.com.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data import geometry, nifti
from motfm_jax.data.channels import find_channels, list_channels
from motfm_jax.data.dataset_json import (
    LABELS,
    Entry,
    allowed_labels,
    name_labels,
    read_channels,
    read_description,
    read_entry,
    read_labels,
)
from motfm_jax.data.examination import Report
from motfm_jax.data.orientation import Reading, ras_volume
from motfm_jax.data.source import NoSplit, Record

SPLITS = ("train", "valid", "test", "unlabelled")
VERSION = 2  # of the records; raise it when they change


class Decathlon:
    """The volumes of one split, in the order of dataset.json.

    Args:
      root: the folder of dataset.json.
      split: "train", "valid" or "test" of the training entries (80, 10 and 10% of the patients, at
        least one of them for validation), or "unlabelled", the entries under "test".
      grid: voxels to the right, front and top, and how volumes are brought to it.
      channel: a name in dataset.json's "modality", in any case, or several: "T1w,FLAIR" or a tuple;
        "" if there is only one.
      source_channel: the channels that they are to be made from, as many; "" for none.
      label_map: (from, to) pairs applied to the masks, of declared and of other labels; labels that
        share a target are merged and their names joined by "+". Labels without a pair stay.
      split_seed: of the split.
      reading: how files are placed in space.

    Records: image [*S, C] float32 in the file's range, source the same or None, mask [*S] or
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
        channel: str | Sequence[str] = "",
        source_channel: str | Sequence[str] = "",
        label_map: Sequence[tuple[int, int]] = (),
        split_seed: int = 0,
        reading: Reading = Reading(),  # noqa: B008
    ):
        if split not in SPLITS:
            raise ValueError(f"Decathlon split {split!r}: use one of {', '.join(SPLITS)}")
        self.root, self.grid, self.reading = Path(root), grid, reading
        description = read_description(self.root)
        self.channels = read_channels(self.root, description)
        path = self.root / "dataset.json"
        names = list_channels(channel) or (self.channels if len(self.channels) == 1 else [""])
        self.chosen = find_channels(path, self.channels, names)
        self.channel_names = tuple(self.channels[index] for index in self.chosen)
        self.source_channels = []
        if source_channel:
            flag = "config.flow.source_channel"
            names = list_channels(source_channel)
            self.source_channels = find_channels(path, self.channels, names, flag)
            if len(self.source_channels) != len(self.chosen):
                raise ValueError(
                    f"{flag}={source_channel!r}: {len(self.source_channels)} channels to make "
                    f"{len(self.chosen)} from ({', '.join(self.channel_names)}); give as many"
                )
        self.entries = split_entries(self.root, description, split, split_seed)
        self.has_masks = any(entry.mask_path for entry in self.entries)
        self.labels = read_labels(self.root, description)
        self.label_map = {int(old): int(new) for old, new in label_map}
        names = name_labels(self.labels, self.label_map) if self.has_masks else {}
        self.label_values = tuple(names)
        # None: as found in the masks
        self.mask_labels = tuple(names.values()) if names or not self.has_masks else None
        dtype = np.uint8 if max(self.label_values, default=LABELS) < 256 else np.uint16
        self._targets = np.arange(LABELS).astype(dtype)
        for old, new in self.label_map.items():
            self._targets[old] = new
        self.settings = {
            "split": split,
            "channel": self.channel_names,
            "size": list(grid.size),
            "fit": grid.fit,
            "crop_foreground": grid.crop_foreground,
            "nan": grid.nan,
            "spacing_mm": list(grid.spacing_mm),
            "label_map": sorted(self.label_map.items()),
            "split_seed": split_seed,
            "reading": reading,
        }
        if source_channel:
            self.settings["source_channel"] = [
                self.channels[index] for index in self.source_channels
            ]

    @classmethod
    def from_config(cls, data: Any, split: str, source_channel: str = "") -> "Decathlon":
        """A split from the fields of config.data."""
        return cls(
            data.root,
            split,
            geometry.Grid.from_config(data),
            data.channel,
            source_channel,
            data.label_map,
            data.split_seed,
            Reading.from_config(data),
        )

    @staticmethod
    def check_config(data: Any) -> None:
        """Raises ValueError for channels, a spacing or a label map that cannot be used."""
        list_channels(data.channel)
        geometry.check_spacing(data.spacing_mm, data.size)
        for pair in data.label_map:
            labels = pair if isinstance(pair, Sequence) else ()
            if len(labels) != 2 or not all(type(n) is int and 0 <= n < LABELS for n in labels):
                raise ValueError(
                    f"config.data.label_map={tuple(data.label_map)}: give pairs (from, to) of "
                    f"labels from 0 to {LABELS - 1}, such as ((4, 3),)"
                )

    @staticmethod
    def check(root: str | Path, progress: Progress | None = None, data: Any = None) -> Report:
        """Reads every volume; see `integrity.check_decathlon`."""
        from motfm_jax.data.integrity import check_decathlon

        label_map = data.label_map if data else ()
        reading = Reading.from_config(data)
        return check_decathlon(root, progress, reading, label_map, data)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry = self.entries[index]
        if self.has_masks and entry.mask_path is None:
            raise ValueError(
                f"{entry.image_path}: has no label in dataset.json, other "
                f"{self.settings['split']} entries have; give all of them one or none"
            )
        labels = allowed_labels(self.labels, self.label_map)
        (image, affine, spacing), mask = read_volume(entry, self.channels, labels, self.reading)
        mask = None if mask is None else self._targets[mask]
        try:
            resized = self.grid.place(
                image[..., self.chosen + self.source_channels], mask, affine, spacing
            )
        except ValueError as error:
            raise ValueError(f"{entry.image_path}: {error}") from error
        count = len(self.chosen)
        return Record(
            resized.image[..., :count],
            resized.mask,
            patient=entry.patient,
            name=entry.patient,
            source=resized.image[..., count:] if self.source_channels else None,
            spacing_mm=resized.spacing_mm,
            affine=resized.affine,
            filled=resized.filled,
            lost=resized.lost,
            extra={"channel": ", ".join(self.channel_names)},
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


def read_volume(
    entry: Entry, channels: Sequence[str], labels: Sequence[int], reading: Reading
) -> tuple[nifti.Volume, np.ndarray | None]:
    """An entry's image [I, J, K, C] in RAS axes, and its mask [I, J, K] on the same grid.

    Args:
      entry: whose files are read.
      channels: as many as the image must have.
      labels: that the mask may hold.
      reading: how files are placed in space.

    Raises:
      ValueError: a file that cannot be used; see `Reading`.
    """
    image = reading.image(entry.image_path)
    count = image.array.shape[3] if image.array.ndim == 4 else 1
    if image.array.ndim not in (3, 4) or count != len(channels):
        raise ValueError(
            f"{entry.image_path}: shape {image.array.shape}, 3 axes and {len(channels)} channels "
            f"needed ({', '.join(channels)} in dataset.json); correct one of the two"
        )
    image = ras_volume(image._replace(array=image.array.reshape(*image.array.shape[:3], count)))
    if entry.mask_path is None:
        return image, None
    mask = reading.mask(entry.mask_path, image, entry.image_path)
    return image, nifti.to_labels(entry.mask_path, mask, labels)


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
