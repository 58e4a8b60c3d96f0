"""dataset.json of a Medical Segmentation Decathlon folder: its channels, labels and entries."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

LABELS = 2**16  # values that masks may hold


class Entry(NamedTuple):
    """One volume of dataset.json; mask_path is None if it has no mask."""

    patient: str
    image_path: Path
    mask_path: Path | None


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


def read_labels(root: Path, description: dict[str, Any]) -> dict[int, str]:
    """Label names by value; empty if the data set has none."""
    labels = description.get("labels") or {}
    named: dict[int, str] = {}
    try:
        named = {value: str(labels[str(value)]) for value in sorted(map(int, labels))}
        valid = not named or (min(named) == 0 and max(named) < LABELS)
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{root / 'dataset.json'}: 'labels' {labels!s:.200}, value -> name with whole numbers "
            f"from 0 to {LABELS - 1} needed; correct it"
        )
    return named


def allowed_labels(labels: dict[int, str], remapped: Iterable[int]) -> Sequence[int]:
    """What a mask may hold: declared and remapped labels; anything where nothing is declared."""
    return (*labels, *remapped) if labels else range(LABELS)


def name_labels(labels: dict[int, str], label_map: dict[int, int]) -> dict[int, str]:
    """Names by value after remapping; a target that is not declared is named by its number."""
    names: dict[int, list[str]] = {}
    for old, name in labels.items():
        names.setdefault(label_map.get(old, old), []).append(name)
    for new in label_map.values() if labels else ():
        names.setdefault(new, [str(new)])
    return {value: "+".join(names[value]) for value in sorted(names)}


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
