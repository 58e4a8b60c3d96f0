"""Generated images as examples to learn from, alone or beside real ones."""

import dataclasses
from pathlib import Path

import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.io.npz import open_npz
from motfm_jax.sampling.outputs import read_samples


def generated_arrays(
    images: np.ndarray,
    like: Arrays,
    masks: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Arrays:
    """Generated images [N, *S, C], in the data's units, as examples of the real data's kind."""
    return Arrays(
        images=np.asarray(images, np.float32),
        masks=None if masks is None else np.asarray(masks, np.uint8),
        labels=None if labels is None else np.asarray(labels, np.int32),
        meta=[
            {"name": f"generated {index}", "patient": f"{index}"} for index in range(len(images))
        ],
        classes=like.classes,
        mask_labels=like.mask_labels,
    )


def read_generated(folder: Path, task: str, real: Arrays) -> Arrays:
    """The images of `motfm sample` as examples to learn a task from, beside real ones.

    Args:
      folder: of samples.npz.
      task: "classify" or "segment".
      real: examples of the data that the images imitate.

    Raises:
      ValueError: images that are raw, were made without what the task learns, or have another size,
        other classes or other mask labels than the real ones.
    """
    path, sidecar = folder / "samples.npz", read_samples(folder)
    condition = sidecar["condition"]
    with open_npz(path) as saved:
        images, learned = (
            np.asarray(saved[name]) if name in saved else None
            for name in ("images", "classes" if task == "classify" else "masks")
        )
    if images is None:
        raise ValueError(f"{path}: holds no images; sample again with --overwrite")
    if learned is None:
        cond = "class" if task == "classify" else "mask"
        raise ValueError(
            f"{folder}: made without what --task={task} learns; sample a run with cond={cond}"
        )
    if images.shape[1:] != real.images.shape[1:]:
        raise ValueError(
            f"{folder}: images {images.shape[1:]}, the real ones {real.images.shape[1:]}"
        )
    kind, known, shape = (
        ("classes", real.classes, images.shape[:1])
        if task == "classify"
        else ("mask_labels", real.mask_labels, images.shape[:-1])
    )
    fits = (
        learned.dtype.kind in "iu"
        and learned.shape == shape
        and bool(((learned >= 0) & (learned < len(known))).all())
    )
    # The sidecar names the class of each image, and all labels that a mask may hold.
    expected = [known[label] for label in learned] if fits and task == "classify" else list(known)
    if not fits or condition.get(kind) != expected:
        there = condition.get(kind) if isinstance(condition.get(kind), list) else []
        raise ValueError(
            f"{folder}: made of the {kind} {', '.join(sorted(set(map(str, there)))) or 'unnamed'}, "
            f"the real ones are {', '.join(known)}; sample a run of this data"
        )
    labels, masks = (learned, None) if task == "classify" else (None, learned)
    return generated_arrays(images, real, masks, labels)


def first_patients(arrays: Arrays, num: int) -> Arrays:
    """The examples of the first patients, whole patients in order, at most `num` images.

    Raises:
      ValueError: the first patient has more.
    """
    patients = [meta["patient"] for meta in arrays.meta]
    chosen: set[str] = set()
    for patient in dict.fromkeys(patients):
        if sum(each in chosen or each == patient for each in patients) > num:
            break
        chosen.add(patient)
    if not chosen:
        raise ValueError(
            f"--real={num}: the first patient has {patients.count(patients[0])} images; give as "
            "many or more"
        )
    return arrays.take(np.array([row for row, each in enumerate(patients) if each in chosen]))


def join(first: Arrays, second: Arrays) -> Arrays:
    """Two sets of examples in one, in memory; what only one of them has is left out."""
    both = {
        name: None
        if getattr(first, name) is None or getattr(second, name) is None
        else np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("images", "masks", "labels")
    }
    return dataclasses.replace(
        first, **both, meta=[*first.meta, *second.meta], sources=None, folder=None, first=0
    )
