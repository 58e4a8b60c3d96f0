"""Folders alone as a layout: images and masks, splits, classes and patients by folder names.

docs/data.md states the rules. What is ambiguous is refused by name.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from motfm_jax.data import dicom, formats, nifti
from motfm_jax.data.layouts import SPLITS, Case, Listing, natural

IMAGES = ("images", "image", "imgs", "img", "imagestr")
MASKS = ("masks", "mask", "labels", "label", "labelstr", "groundtruth", "ground_truth", "gt")
MASKS += ("annotations", "annotation", "segmentations", "segmentation")
MASK_STEM = re.compile(r"(.+)[_-](?:seg|segmentation|mask|gt)(?:[_-]?\d+)?", re.IGNORECASE)
KINDS = {
    **dict.fromkeys(("classes", "class"), "class"),
    **dict.fromkeys(("patients", "patient"), "patient"),
}
NUMBERED = re.compile(r"(.*[^\W\d_].*?)(\d{2,})")  # patient0001, sub-01
MOST_CLASSES = 20  # folders that nothing declares to be classes


class _Item(NamedTuple):
    """A file in a tree, with what its folders say.

    Attributes:
      folder: the one folder of no known name, or "": a class or a patient.
      group, patient: the folder below `classes`, and that below `patients`.
    """

    path: Path
    stem: str
    split: str
    folder: str
    group: str
    patient: str
    is_mask: bool

    @property
    def key(self) -> tuple[str, ...]:
        return self.split, self.folder, self.group, self.patient, self.stem


def read_tree(root: Path) -> Listing:
    """Folders alone: images and masks, splits, classes and patients, in any order of nesting."""
    others: list[Path] = []
    items = [_place(root, path) for path in _walk(root, others)]
    images: dict[tuple[str, ...], _Item] = {}
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
    meaning = _meaning(root, list(images.values()), bool(masks))
    cases = [
        Case(
            "",
            (item.path,),
            tuple(masks.get(key, ())),
            item.group or item.folder * (meaning == "class"),
            item.patient or item.folder * (meaning == "patient"),
            item.split,
        )
        for key, item in images.items()
    ]
    found = ["images", *["masks"] * bool(masks)]
    found += ["a folder a split"] * any(case.split for case in cases)
    found += ["a folder a patient"] * any(case.patient for case in cases)
    found += ["a folder a class"] * any(case.group for case in cases)
    notes = []
    if others:
        notes.append(f"{len(others)} files that are no images are left out, such as {others[0]}")
    several = sum(len(each) > 1 for each in masks.values())
    if several:
        notes.append(f"{several} images have several masks: the highest label of a pixel counts")
    return Listing(f"folders ({', '.join(found)})", tuple(cases), notes=tuple(notes))


def _meaning(root: Path, images: Sequence[_Item], has_masks: bool) -> str:
    """What the folders of no known name are: "class" or "patient"; "" if there are none.

    Raises:
      ValueError: they may be either.
    """
    stems = defaultdict(set)
    for item in images:
        if item.folder:
            stems[item.folder].add((item.split, item.stem))
    names = sorted(stems, key=natural)
    if not names or any(item.patient for item in images):
        return "class" if names else ""
    if any(item.group for item in images) or len(names) == len(images) > 2:
        return "patient"
    if _are_numbered_alike(names):
        return "patient"
    if len(names) > MOST_CLASSES or all(name[-1].isdecimal() for name in names):
        raise ValueError(
            f"{root}: {len(names)} folders such as {names[0]} and {names[-1]}, classes or "
            f"patients? move them into a folder {root.name}/classes or {root.name}/patients, or "
            "say it in a table, dataset.csv"
        )
    for one, other in combinations(names, 2):
        if stems[one] == stems[other] and not has_masks:
            raise ValueError(
                f"{root}: the folders {one} and {other} hold images of the same names; if one "
                "holds the masks of the other, call it masks; if they are classes, move them into "
                f"a folder {root.name}/classes"
            )
    return "class"


def _are_numbered_alike(names: Collection[str]) -> bool:
    """Whether they are one word and a number of one width, two digits or more: sub-01, sub-02."""
    found = [NUMBERED.fullmatch(name) for name in names]
    return all(found) and len({(match[1].lower(), len(match[2])) for match in found}) == 1


def _pair(
    images: Mapping[tuple[str, ...], _Item], masks: list[_Item]
) -> dict[tuple[str, ...], list[Path]]:
    """The masks of each image. A mask's folders say as much as its image's, or less."""
    by_stem = defaultdict(list)
    for key in images:
        by_stem[key[-1]].append(key)
    paired = defaultdict(list)
    for mask in masks:
        base = MASK_STEM.fullmatch(mask.stem)
        for stem in (mask.stem, base[1] if base else mask.stem):
            keys = [
                key
                for key in by_stem.get(stem, ())
                if all(told in ("", known) for told, known in zip(mask.key[:-1], key))
            ]
            if keys:
                break
        if len(keys) != 1:
            number = f"{len(keys)} images" if keys else "no image"
            raise ValueError(f"{mask.path}: a mask that fits {number}; rename or remove it")
        paired[keys[0]].append(mask.path)
    return paired


def _place(root: Path, path: Path) -> _Item:
    split, folder, is_mask, kind = [], [], False, ""
    told = {"class": "", "patient": ""}
    for part in path.relative_to(root).parent.parts:
        name = part.lower()
        if name in SPLITS:
            split.append(SPLITS[name])
        elif name in MASKS:
            is_mask = True
        elif name in KINDS:
            kind = KINDS[name]
        elif kind and not told[kind]:
            told[kind], kind = part, ""
        elif name not in IMAGES:
            folder.append(part)
    if len(split) > 1 or len(folder) > 1:
        folders = " and ".join(split if len(split) > 1 else folder)
        raise ValueError(
            f"{path}: in the folders {folders}, of which one is a "
            + ("split" if len(split) > 1 else "class or a patient")
            + "; name what is what in a table, dataset.csv"
        )
    stem = formats.stem(path)
    return _Item(path, stem, "".join(split), "".join(folder), *told.values(), is_mask)


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
