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


def of_classes(train: Arrays, valid: Arrays) -> list[str]:
    """Classes that only the validation examples have."""
    if train.labels is None or valid.labels is None:
        return []
    absent = np.setdiff1d(valid.labels, train.labels)
    names = ", ".join(train.classes[label] for label in absent)
    return [f"no training example is of class {names}, validation examples are"] if names else []
