"""The cases of a folder, complete: each with its name, patient and split."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motfm_jax.data import formats
from motfm_jax.data.layouts import (
    UNLABELLED,
    Case,
    Listing,
    natural,
    read_nnunet,
    read_table,
)
from motfm_jax.data.trees import read_tree

TABLES = ("dataset.csv", "dataset.tsv")


def read(root: Path, seed: int) -> Listing:
    """The cases of a folder, each in its split.

    Args:
      root: the folder.
      seed: of the splits that are drawn.

    Raises:
      ValueError: no such folder, nothing in it, or something ambiguous in it, by name.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds the images")
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if len(tables) > 1:
        raise ValueError(f"{root}: {' and '.join(TABLES)} in it; keep one of them")
    if tables:
        listing = read_table(tables[0])
    elif (root / "dataset.json").is_file():
        listing = read_nnunet(root)
    else:
        listing = read_tree(root)
    if not listing.cases:
        raise ValueError(
            f"{root}: no images in it ({listing.layout}); they end in {', '.join(formats.SUFFIXES)}"
        )
    return _complete(root, listing, seed)


def class_names(listing: Listing) -> tuple[str, ...]:
    """All classes, sorted, numbers by their value."""
    return tuple(sorted({case.group for case in listing.cases} - {""}, key=natural))


def _complete(root: Path, listing: Listing, seed: int) -> Listing:
    files = Counter(file for case in listing.cases for file in case.images)
    for file, times in files.items():
        if times > 1:
            raise ValueError(f"{file}: listed {times} times; keep one")
    cases, notes = _name(root, listing.cases), list(listing.notes)
    listed = [case for case in cases if case.split != UNLABELLED]
    _check_all(listed, "patient")
    _check_all(listed, "split")
    _check_all(listed, "source")
    for split in {case.split for case in listed}:
        _check_all([case for case in listed if case.split == split], "group", "class")
    if not any(case.patient for case in cases):
        notes.append("no patients are named: each image is its own")
    cases = [case._replace(patient=case.patient or case.name) for case in cases]
    splits = defaultdict(set)
    for case in cases:
        splits[case.patient].add(case.split)
    for patient, found in splits.items():
        if len(found) > 1:
            raise ValueError(
                f"{root}: patient {patient} is in {' and '.join(sorted(found))}; a patient belongs "
                "to one split: move the images"
            )
    cases = _split(root, cases, seed, notes)
    return listing._replace(cases=tuple(cases), notes=tuple(notes))


def _name(root: Path, cases: Sequence[Case]) -> list[Case]:
    """Cases named by their files; where two files are called alike, with their folders."""
    stems = Counter(formats.stem(case.images[0]) for case in cases)
    named = []
    for case in cases:
        path = case.images[0]
        name = formats.stem(path)
        if stems[name] > 1 and path.is_relative_to(root):
            name = "_".join((*path.relative_to(root).parent.parts, name))
        named.append(case._replace(name=case.name or name))
    names = Counter(case.name for case in named)
    for case in named:
        if names[case.name] > 1:
            raise ValueError(f"{case.images[0]}: another image is called {case.name}; rename one")
    return named


def _check_all(cases: Sequence[Case], field: str, called: str = "") -> None:
    """Refuses a field that some cases have and others have not."""
    lacking = [case for case in cases if not getattr(case, field)]
    if lacking and len(lacking) < len(cases):
        raise ValueError(
            f"{lacking[0].images[0]}: no {called or field}, {len(cases) - len(lacking)} other "
            "images have one; give all of them one or none"
        )


def _split(root: Path, cases: list[Case], seed: int, notes: list[str]) -> list[Case]:
    """Splits drawn by patient where the folder names none; validation alone, where it lacks."""
    found = {case.split for case in cases} - {UNLABELLED}
    if "" in found:
        pool, parts = "", {"test": 0.1, "valid": 0.1}
        notes.append(f"no splits are named: 80, 10 and 10% of the patients, drawn with seed {seed}")
    elif "train" in found and "valid" not in found:
        pool, parts = "train", {"valid": 0.1}
        notes.append(f"no validation: a tenth of the training patients, drawn with seed {seed}")
    else:
        return cases
    groups = defaultdict(set)
    for case in cases:
        if case.split == pool:
            groups[case.patient].add(case.group)
    if len(groups) < 2:
        is_series = any(case.images[0].is_dir() for case in cases)
        raise ValueError(
            f"{root}: {len(groups)} patient to train on, 2 or more needed, one for validation"
            + "; DICOM files of one series in one folder are a volume: if they are pictures, put "
            "each into a folder of its own, or list them in dataset.csv" * is_series
        )
    drawn = draw({name: tuple(sorted(found)) for name, found in groups.items()}, parts, seed)
    return [
        case._replace(split=drawn[case.patient]) if case.split == pool else case for case in cases
    ]


def draw(strata: dict[str, tuple], parts: dict[str, float], seed: int) -> dict[str, str]:
    """Patient to split, seeded, each split with its share of each stratum as far as that divides.

    In a stratum of n patients in random order, the r-th stands at (r + 1/2) / n. Ordered by where
    they stand, the last tenth is test, the tenth before it validation, and the rest training.

    Args:
      strata: patient -> what is to be alike in all splits.
      parts: shares of "test" and "valid"; the latter has one patient at least.
    """
    names = sorted(strata, key=natural)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    sizes, seen = Counter(strata.values()), Counter()
    standing = {}
    for name in order:
        standing[name] = (seen[strata[name]] + 0.5) / sizes[strata[name]]
        seen[strata[name]] += 1
    order.sort(key=standing.get)
    test = round(parts.get("test", 0) * len(order))
    valid = max(1, math.floor(parts["valid"] * len(order) + 0.5))
    train = len(order) - test - valid
    splits = ["train"] * train + ["valid"] * valid + ["test"] * test
    return dict(zip(order, splits))
