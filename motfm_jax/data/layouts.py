"""Two layouts of a folder of images that a file describes: a table, and nnU-Net v2.

docs/data.md states the rules. What is ambiguous is refused by name.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("image", "mask", "class", "patient", "split", "source")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
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
            header = file.readline()
            if path.suffix == ".csv" and "," not in header and ";" in header:
                separator = ";"
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is no table in UTF-8 ({error}); save it as CSV again") from error
    names = [name for name in (rows[0] if rows else {}) if name]
    channels = sorted((name for name in names if re.fullmatch(r"image_\d+", name)), key=natural)
    if ("image" in names) == bool(channels):
        raise ValueError(
            f"{path}: columns {', '.join(names) or 'none'}; needed: image, or image_1, image_2 and "
            f"so on, separated by {'tabs' if path.suffix == '.tsv' else 'commas'}"
        )
    if "label" in names:
        raise ValueError(
            f"{path}: a column label; call it class if it names one, or mask if it names a file"
        )
    cases = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{path}: line {number} has other cells than the header; correct it")
        cells = {name: cell.strip() for name, cell in row.items()}
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


def natural(text: str) -> list:
    """A key to sort by that puts 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
