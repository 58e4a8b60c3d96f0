"""What a person should know of decoded examples before they are trained on, a line each."""

from collections import Counter

import numpy as np

from motfm_jax.data import labels
from motfm_jax.data.cache import Arrays


def of_split(split: str, arrays: Arrays) -> list[str]:
    """Labels that resizing left nothing of, and values that were not finite.

    Args:
      split: its name, such as "train".
      arrays: its examples.
    """
    lines = []
    known = labels.known(arrays)
    names = dict(zip(known.values, known.names))
    lost = Counter(value for meta in arrays.meta for value in meta.get("lost_labels", ()))
    for value, times in sorted(lost.items()):
        lines.append(
            f"{split}: at this size nothing is left of label {names.get(value, value)} in {times} "
            f"of {len(arrays)} masks; a larger config.data.size keeps small structures"
        )
    filled = [meta["filled"] for meta in arrays.meta if "filled" in meta]
    if filled:
        lines.append(
            f"{split}: {sum(filled)} NaN or infinite values in {len(filled)} of {len(arrays)} "
            "images were filled"
        )
    return lines


def of_classes(train: Arrays) -> list[str]:
    """Classes that no training example has."""
    if train.labels is None:
        return []
    present = set(np.unique(train.labels).tolist())
    names = ", ".join(name for n, name in enumerate(train.classes) if n not in present)
    return [f"no training example is of class {names}, so it is never learned"] if names else []


def of_patients(train: Arrays, valid: Arrays) -> list[str]:
    """Patients of both splits, as far as patients are given."""
    learned, held_out = (
        {meta["patient"] for meta in each.meta if meta["patient"] != meta["name"]}
        for each in (train, valid)
    )
    both = sorted(learned & held_out)
    if not both:
        return []
    return [
        f"patient {both[0]}, one of {len(both)}, is in train and in valid: validation looks better "
        "than it is, unless the two only share a name"
    ]
