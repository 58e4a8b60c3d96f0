"""Three layouts of a folder of images: a table, nnU-Net v2, and folders alone.

docs/data.md states the rules. What is ambiguous is refused by name.
"""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from motfm_jax.data import dicom, formats, nifti

COLUMNS = ("image", "mask", "class", "patient", "split", "source")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
IMAGES, MASKS = ("images", "image"), ("masks", "mask")
MASK_STEM = re.compile(r"(.+)[_-](?:seg|segmentation|mask|gt)(?:[_-]?\d+)?", re.IGNORECASE)
UNLABELLED = "unlabelled"  # the split of nnU-Net's imagesTs


class Case(NamedTuple):
    """One example as files that have not been opened.

    Attributes:
      images: one file, or one a channel.
      masks: one file; of several, the highest label of a pixel counts.
      group: its class, or "".
      split: "train", "valid", "test" or "unlabelled"; "" until it is drawn.
      source: like images: what a flow starts from.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...] = ()
    group: str = ""
    patient: str = ""
    split: str = ""
    source: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return self.images + self.masks + self.source


class Listing(NamedTuple):
    """What a folder holds.

    Attributes:
      layout: in words.
      cases: in order.
      channels: names of the channels as declared; () if nothing declares them.
      labels: names by the masks' values as declared; {} likewise.
      notes: what was decided and what is left out, a line each.
    """

    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ()
    labels: Mapping[int, str] = {}
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> Listing:
    """dataset.csv or dataset.tsv: a row an image, see COLUMNS; paths relative to the table."""
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter=separator, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is no table in UTF-8 ({error}); save it as CSV again") from error
    names = [name.strip() for name in (rows[0] if rows else {}) if name]
    channels = sorted((name for name in names if re.fullmatch(r"image_\d+", name)), key=natural)
    if ("image" in names) == bool(channels):
        raise ValueError(
            f"{path}: columns {', '.join(names) or 'none'}; needed: image, or image_1, image_2 and "
            f"so on, separated by {'tabs' if separator != ',' else 'commas'}"
        )
    cases = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{path}: line {number} has other cells than the header; correct it")
        cells = {name.strip(): cell.strip() for name, cell in row.items()}
        cases.append(
            _table_case(path.parent, f"{path}: line {number}", cells, channels or ["image"])
        )
    unknown = [name for name in names if name not in (*COLUMNS, *channels)]
    notes = [f"columns that mean nothing here: {', '.join(unknown)}"] if unknown else []
    return Listing(f"table {path.name}", tuple(cases), tuple(channels), notes=tuple(notes))


def _table_case(root: Path, where: str, cells: dict[str, str], channels: list[str]) -> Case:
    images = [_paths(root, cells[name]) for name in channels]
    if not all(images) or (len(channels) > 1 and len(sum(images, ())) > len(channels)):
        raise ValueError(f"{where}: a file in each of {', '.join(channels)} needed; complete it")
    first, split = images[0][0], cells.get("split", "").lower()
    if split and split not in SPLITS:
        raise ValueError(f"{where}: split {split!r}; use train, valid or test")
    inside = first.relative_to(root).parent.parts if first.is_relative_to(root) else ()
    told = {SPLITS[part.lower()] for part in inside if part.lower() in SPLITS}
    told |= {SPLITS[split]} if split else set()
    if len(told) > 1:
        raise ValueError(
            f"{where}: {first} is of {' and of '.join(sorted(told))} by its folders and its split; "
            "make them agree"
        )
    return Case(
        "",
        sum(images, ()),
        _paths(root, cells.get("mask", "")),
        cells.get("class", ""),
        cells.get("patient", ""),
        min(told, default=""),
        _paths(root, cells.get("source", "")),
    )


def _paths(root: Path, cell: str) -> tuple[Path, ...]:
    return tuple(root / part.strip() for part in cell.split(";") if part.strip())


def read_nnunet(root: Path) -> Listing:
    """nnU-Net v2: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs."""
    path = root / "dataset.json"
    try:
        description = json.loads(path.read_text("utf-8-sig"))
        names = description["channel_names"]
        channels = tuple(str(names[key]) for key in sorted(names, key=int))
        end = str(description["file_ending"])
        declared = dict(description.get("labels") or {})
        labels = {int(v): name for name, v in declared.items() if isinstance(v, int | str)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: channel_names and file_ending of nnU-Net v2 needed ({type(error).__name__}: "
            f"{error}); a Medical Segmentation Decathlon folder is data.source=decathlon"
        ) from error
    notes = []
    if len(labels) < len(declared):
        notes.append("labels of dataset.json that are regions have no value: names are left out")
        labels = {}
    cases = []
    for folder, split in (("imagesTr", ""), ("imagesTs", UNLABELLED)):
        found = defaultdict(list)
        for file in sorted((root / folder).glob(f"*{end}")):
            name = file.name.removesuffix(end)
            match = re.fullmatch(r"(.+)_(\d{4})", name)
            if not match:
                raise ValueError(f"{file}: a name such as CASE_0000{end} needed; rename it")
            found[match[1]].append(file)
        for name, files in found.items():
            if len(files) not in (1, len(channels)):
                raise ValueError(
                    f"{files[0]}: {len(files)} files of this case, {len(channels)} channels needed "
                    f"({', '.join(channels)} in dataset.json); complete it"
                )
            mask = root / "labelsTr" / f"{name}{end}"
            masks = (mask,) if not split and mask.is_file() else ()
            cases.append(Case(name, tuple(files), masks, patient=name, split=split))
    known = {case.name for case in cases if not case.split}
    for mask in sorted((root / "labelsTr").glob(f"*{end}")):
        if mask.name.removesuffix(end) not in known:
            raise ValueError(f"{mask}: a mask without an image in imagesTr; remove it")
    return Listing("nnU-Net v2", tuple(cases), channels, labels, tuple(notes))


class _Item(NamedTuple):
    """A file in a tree, with what its folders say."""

    path: Path
    stem: str
    split: str
    group: str
    is_mask: bool

    @property
    def key(self) -> tuple[str, str, str]:
        return self.split, self.group, self.stem


def read_tree(root: Path) -> Listing:
    """Folders alone: images and masks, splits and classes, in any order of nesting."""
    others: list[Path] = []
    items = [_place(root, path) for path in _walk(root, others)]
    images: dict[tuple[str, str, str], _Item] = {}
    by_name = {(item.path.parent, item.stem) for item in items}
    marked = []
    for item in items:
        base = MASK_STEM.fullmatch(item.stem)
        if item.is_mask or (base and (item.path.parent, base[1]) in by_name):
            marked.append(item)
        elif base:
            raise ValueError(
                f"{item.path}: a mask by its name, without an image {base[1]} beside it; add that, "
                "or name what is what in dataset.csv"
            )
        elif item.key in images:
            raise ValueError(
                f"{images[item.key].path} and {item.path}: two images of one name; keep one of them"
            )
        else:
            images[item.key] = item
    masks = _pair(images, marked)
    cases = [
        Case("", (item.path,), tuple(masks.get(key, ())), item.group, "", item.split)
        for key, item in images.items()
    ]
    found = ["images", *["masks"] * bool(masks)]
    found += ["a folder a split"] * any(case.split for case in cases)
    notes = []
    if len({case.group for case in cases} - {""}) == len(cases) > 2:
        cases = [case._replace(group="", patient=case.group) for case in cases]
        found.append("a folder a patient")
    found += ["a folder a class"] * any(case.group for case in cases)
    if others:
        notes.append(f"{len(others)} files that are no images are left out, such as {others[0]}")
    several = sum(len(each) > 1 for each in masks.values())
    if several:
        notes.append(f"{several} images have several masks: the highest label of a pixel counts")
    return Listing(f"folders ({', '.join(found)})", tuple(cases), notes=tuple(notes))


def _pair(
    images: Mapping[tuple[str, str, str], _Item], masks: list[_Item]
) -> dict[tuple[str, str, str], list[Path]]:
    """The masks of each image. A mask says as much about split and class as its folders do."""
    by_stem = defaultdict(list)
    for key in images:
        by_stem[key[2]].append(key)
    paired = defaultdict(list)
    for mask in masks:
        base = MASK_STEM.fullmatch(mask.stem)
        for stem in (mask.stem, base[1] if base else mask.stem):
            keys = [
                key
                for key in by_stem.get(stem, ())
                if mask.split in ("", key[0]) and mask.group in ("", key[1])
            ]
            if keys:
                break
        if len(keys) != 1:
            number = f"{len(keys)} images" if keys else "no image"
            raise ValueError(f"{mask.path}: a mask that fits {number}; rename or remove it")
        paired[keys[0]].append(mask.path)
    return paired


def _place(root: Path, path: Path) -> _Item:
    split, group, is_mask = [], [], False
    for part in path.relative_to(root).parent.parts:
        name = part.lower()
        if name in SPLITS:
            split.append(SPLITS[name])
        elif name in MASKS:
            is_mask = True
        elif name not in IMAGES:
            group.append(part)
    if len(split) > 1 or len(group) > 1:
        folders = " and ".join(split if len(split) > 1 else group)
        raise ValueError(
            f"{path}: in the folders {folders}, of which one is a "
            f"{'split' if len(split) > 1 else 'class'}; name what is what in a table, dataset.csv"
        )
    return _Item(path, formats.stem(path), "".join(split), "".join(group), is_mask)


def _walk(root: Path, others: list[Path]) -> Iterator[Path]:
    """The images below a folder, in order: files, and folders of a DICOM series."""
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        slices = []
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith(".") or name.lower().endswith(formats.VOXELS):
                continue
            kind = formats.suffix(path)
            if kind and kind not in dicom.SUFFIXES:
                yield path
            elif dicom.is_dicom(path):
                slices.append(path)
            else:
                others.append(path)
        yield from _series(Path(folder), slices)


def _series(folder: Path, files: list[Path]) -> list[Path]:
    """The folder, if its DICOM files are one series; the files, if each is its own."""
    if len(files) < 2:
        return files
    with nifti.decoding(folder):
        count = len({dicom.series(path) for path in files})
    if count == 1:
        return [folder]
    if count == len(files):
        return files
    raise ValueError(
        f"{folder}: {len(files)} DICOM files of {count} series; one folder a series needed, or one "
        "file a series: separate them"
    )


def natural(text: str) -> list:
    """A key to sort by that puts 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
