"""A folder of images in almost any format and layout: `config.data.source=folder`.

`layouts` and `listing` say which file is what, `formats` reads files, `cases` puts those of an
example together, and `slices` makes pictures of volumes.
"""

import concurrent.futures
import hashlib
import logging
import threading
from pathlib import Path
from typing import Any

from motfm_jax.core import Progress
from motfm_jax.data import dicom, formats, geometry, labels, slices
from motfm_jax.data.cases import Choices, read_case
from motfm_jax.data.channels import find_channels, list_channels
from motfm_jax.data.examination import Report
from motfm_jax.data.listing import class_names, read
from motfm_jax.data.slices import Stack
from motfm_jax.data.source import NoSplit, Record

VERSION = 2  # of the records; raise it when they change
KEPT = 4  # volumes in memory while their slices are read
READERS = 4  # threads that look for slices

_log = logging.getLogger(__name__)


class Folder:
    """The images of one split, or the slices of its volumes.

    Args:
      root: the folder.
      split: "train", "valid", "test", or "unlabelled" (nnU-Net's imagesTs).
      grid: S, and how images are brought to it.
      how: which channels are read, and how; see `Choices`.
      cut: which slices of volumes make pictures; None for none.
      split_seed: of splits that the folder does not name.

    Records: image [*S, C] float32 in the file's range, source likewise or None, mask [*S] with the
    values of the file; meta has name, patient, and if known spacing_mm and affine. Volumes have RAS
    axes where their file has an affine.

    Raises:
      NoSplit: nothing in this split.
      ValueError: what is missing, wrong or ambiguous; a file is opened when its record is read.
    """

    dims = None
    needs_root = True
    has_channels = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        grid: geometry.Grid,
        how: Choices = Choices(),  # noqa: B008
        cut: slices.Cut | None = None,
        split_seed: int = 0,
    ):
        self.grid, self.how, self.cut = grid, how, cut
        self.listing = read(Path(root), split_seed)
        self.cases = [case for case in self.listing.cases if case.split == split]
        if not self.cases:
            raise NoSplit(f"{root}: no image in the {split} split; add some, or use another split")
        if how.source == () and not self.cases[0].source:
            raise ValueError(
                f"{root}: config.flow.source='channel' needs the column source of dataset.csv, or "
                "config.flow.source_channel"
            )
        find_channels(root, self.listing.channels, how.channels)
        find_channels(root, self.listing.channels, how.source or (), "config.flow.source_channel")
        self.classes = class_names(self.listing)
        named = self.listing.labels
        self.mask_labels = None if any(case.masks for case in self.cases) else ()
        self.label_values = ()
        if named and self.mask_labels is None:
            self.label_values = tuple(sorted(named))
            self.mask_labels = tuple(named[value] for value in self.label_values)
        self._index: list[tuple[int, int]] | None = None
        self._stacks: dict[int, Stack] = {}
        self._lock = threading.Lock()
        if split == "train":
            for note in self.listing.notes:
                _log.info("%s: %s", root, note)

    @classmethod
    def from_config(cls, data: Any, split: str, source_channel: str | None = None) -> "Folder":
        """A split from the fields of config.data.

        Args:
          source_channel: of the images to start from; "" for the table's column source, None for
            none of them.
        """
        return cls(
            data.root,
            split,
            geometry.Grid.from_config(data),
            choices(data, source_channel),
            cut(data),
            data.split_seed,
        )

    @staticmethod
    def check_config(data: Any) -> None:
        """Raises ValueError for a spacing or slices that cannot be used."""
        list_channels(data.channel)
        geometry.check_spacing(data.spacing_mm, data.size)
        if data.label_map:
            raise ValueError(
                f"config.data.label_map={tuple(data.label_map)}: folders take the values of the "
                'masks, config.data.labels="0:background,255:lesion"'
            )
        if data.slices and len(data.size) != 2:
            raise ValueError(
                f"config.data.slices={data.slices!r} with config.data.size={tuple(data.size)}: "
                "slices are 2-D, give (H, W)"
            )

    @staticmethod
    def check(root: str | Path, progress: Progress | None = None, data: Any = None) -> Report:
        """Reads every file; see `survey.check_folder`.

        Args:
          data: fields of config.data; None for their defaults.
        """
        from motfm_jax.data.survey import check_folder

        if data is None:
            return check_folder(root, progress)
        listing = read(Path(root), data.split_seed)
        if data.labels:
            names, values = labels.parse(data.labels)
            listing = listing._replace(labels=dict(zip(values, names)))
        return check_folder(root, progress, listing, choices(data), cut(data), data)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Of the images: as declared, or of colours; () if they have no names."""
        if self.listing.channels:
            return self.how.channels or self.listing.channels
        (first, *others) = self.cases[0].images
        if others or formats.suffix(first) not in (*formats.PICTURES, *dicom.SUFFIXES):
            return ()
        try:
            return formats.read(first).channels
        except ValueError:  # told when its record is read
            return ()

    def __len__(self) -> int:
        return len(self._slices()) if self.cut else len(self.cases)

    def __getitem__(self, index: int) -> Record:
        number, cut = self._slices()[index] if self.cut else (index, -1)
        case = self.cases[number]
        if cut >= 0:
            example = self._stack(number).cut(cut)
        else:
            example = self._read(number)
            if self.cut and example.image.ndim == 4:
                try:
                    example = self.cut.stack(example)
                    self.cut.choose(example)
                except ValueError as error:
                    raise ValueError(f"{case.images[0]}: {error}") from error
        rank = example.image.ndim - 1
        if rank != len(self.grid.size):
            raise ValueError(
                f"{case.images[0]}: {rank} axes {example.image.shape[:-1]}, but config.data.size="
                f"{tuple(self.grid.size)}; "
                + ("give (H, W)" if rank == 2 else "set config.data.slices, or give (D, H, W)")
            )
        if self.grid.spacing_mm and example.spacing_mm is None:
            raise ValueError(
                f"{case.images[0]}: states no spacing, which config.data.spacing_mm needs; leave "
                "that empty"
            )
        try:
            placed = self.grid.place(
                example.image, example.mask, example.affine, example.spacing_mm
            )
        except ValueError as error:
            raise ValueError(f"{case.images[0]}: {error}") from error
        count = example.channels
        return Record(
            placed.image[..., :count],
            placed.mask,
            self.classes.index(case.group) if case.group else None,
            patient=case.patient,
            name=case.name if cut < 0 else f"{case.name}_{cut:04d}",
            source=placed.image[..., count:] if self.how.source is not None else None,
            spacing_mm=placed.spacing_mm,
            affine=placed.affine,
            filled=placed.filled,
            lost=placed.lost,
        )

    def _read(self, number: int) -> Stack:
        case = self.cases[number]
        if self.mask_labels != () and not case.masks:
            raise ValueError(
                f"{case.images[0]}: no mask, other {case.split} images have one; give all of them "
                "one or none"
            )
        return read_case(case, self.listing.channels, self.how)

    def _slices(self) -> list[tuple[int, int]]:
        """(case, slice) of each record; the slice is -1 for a picture, and where reading failed."""
        with self._lock:
            if self._index is None:
                with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
                    found = pool.map(self._chosen, range(len(self.cases)))
                    index = [(n, cut) for n, cuts in enumerate(found) for cut in cuts]
                if not index:
                    raise ValueError(
                        f"{self.cases[0].images[0]}: no slices left of it and the other volumes; "
                        f"lower config.data.slice_foreground={self.cut.share:g}"
                    )
                self._index = index
            return self._index

    def _chosen(self, number: int) -> list[int]:
        try:
            example = self._read(number)
            return [-1] if example.image.ndim == 3 else self.cut.choose(self.cut.stack(example))
        except ValueError:  # told when its record is read
            return [-1]

    def _stack(self, number: int) -> Stack:
        """A volume as slices; the last few stay in memory, for the threads that read them."""
        with self._lock:
            if number not in self._stacks:
                while len(self._stacks) >= KEPT:
                    del self._stacks[next(iter(self._stacks))]
                self._stacks[number] = self.cut.stack(self._read(number))
            return self._stacks[number]

    def where(self, index: int) -> str:
        """The file of a record, for messages."""
        number = self._slices()[index][0] if self.cut else index
        return str(self.cases[number].images[0])

    def fingerprint(self) -> dict[str, Any]:
        parts = [
            (case.name, case.group, case.patient, *map(str, case.files)) for case in self.cases
        ]
        return {
            "source": "folder",
            "version": VERSION,
            "grid": self.grid,
            "how": self.how,
            "cut": self.cut,
            "channels": self.listing.channels,
            "cases": hashlib.blake2b(repr(parts).encode(errors="surrogateescape")).hexdigest(),
        }

    def source_files(self) -> list[Path]:
        """The files that the records depend on."""
        files = []
        for case in self.cases:
            named = case.files if self.how.source == () else case.images + case.masks
            for path in named:
                files += dicom.files(path) if path.is_dir() else [path, *formats.beside(path)]
        return files


def choices(data: Any, source_channel: Any = None) -> Choices:
    """What is read, from the fields of config.data."""
    source = None if source_channel is None else tuple(list_channels(source_channel))
    channels = tuple(list_channels(data.channel))
    return Choices(data.geometry, data.resample_masks, channels, source)


def cut(data: Any) -> slices.Cut | None:
    """Which slices make pictures, from the fields of config.data; None for none."""
    if not data.slices:
        return None
    return slices.Cut(data.slices, data.slice_step, data.slice_margin, data.slice_foreground)
