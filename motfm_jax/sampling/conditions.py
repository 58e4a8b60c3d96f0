"""The condition of each generated image: records of a split, or masks and classes of a user."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.io.npz import open_npz
from motfm_jax.model import Bundle
from motfm_jax.sampling import inputs
from motfm_jax.sampling.outputs import read_samples

DEFAULT_NUM = 16


class Conditions(NamedTuple):
    """Of N images; all None or empty where a network is unconditional.

    Attributes:
      num: N.
      masks: [N, *S] uint8 labels, [N, *S, C] float32 as the network takes them, or None.
      labels: [N] int32 class indices, or None.
      origins: N texts, which record or file each came from.
      affines: N of 4 x 4 or None, where the mask lies.
    """

    num: int
    masks: np.ndarray | None = None
    labels: np.ndarray | None = None
    origins: Sequence[str] = ()
    affines: Sequence[Any] = ()

    def __len__(self) -> int:
        return self.num

    @property
    def raw_masks(self) -> bool:
        """Whether the masks are the network's own input, not labels."""
        return self.masks is not None and self.masks.dtype.kind == "f"

    def first(self, num: int) -> "Conditions":
        """Those of the first images."""
        masks, labels = self.masks, self.labels
        return Conditions(
            num, None if masks is None else masks[:num], None if labels is None else labels[:num]
        )

    def repeated(self, times: int) -> "Conditions":
        """Each `times` times in a row."""
        masks, labels = (
            None if values is None else np.repeat(values, times, axis=0)
            for values in (self.masks, self.labels)
        )
        origins, affines = (
            [each for each in values for _ in range(times)]
            for values in (self.origins, self.affines)
        )
        return Conditions(self.num * times, masks, labels, origins, affines)

    def digest(self) -> str:
        """blake2b of masks and classes, hex."""
        total = hashlib.blake2b(digest_size=16)
        for array in (self.masks, self.labels):
            total.update(b"none" if array is None else repr(array.shape).encode() + array.tobytes())
        return total.hexdigest()


class Selection(NamedTuple):
    """The conditions that a user selects.

    Attributes:
      num: N; None for as many as there are rows or counts, else the number of mask files, else 16.
      masks: see `inputs.read_masks`; empty to take them from records.
      classes: "A=10,B=5" (counts) or "A,B" (in turn), the path of an npy of indices, a list of
        names, or indices [N]; empty to take them from records.
      split: whose records masks and classes come from unless given.
      fit: see `inputs.read_masks`.
      repeat: K images of each condition in a row; N is a multiple of it.
    """

    num: int | None = None
    masks: np.ndarray | Sequence[str | Path] = ()
    classes: str | Sequence[str] | Sequence[int] | np.ndarray = ""
    split: str = "valid"
    fit: str | None = None
    repeat: int = 1


def choose(
    model: Bundle,
    selection: Selection,
    records: Callable[[str], Arrays],
    rows: Mapping[str, int] | None = None,
) -> Conditions:
    """The conditions of each image, each `selection.repeat` times in a row.

    Arrays (one row an image) and counts must agree in length. Records, mask files and class names
    are cycled where there are fewer than N. Where classes are given and masks are not, each class
    gets masks of its own records.

    Args:
      model: what the images are sampled from.
      selection: see `Selection`.
      records: split -> its examples; called only where conditions come from there.
      rows: numbers of images that other arguments ask for, by flag, such as {"--noise": 8}.

    Raises:
      ValueError: a condition that the model does not take, or lacks one that it needs.
    """
    repeat, counts = selection.repeat, {"--num": selection.num, **(rows or {})}
    if repeat == 1:
        return _choose(model, selection, records, rows)
    if model.starts_from_images:
        raise ValueError(f"--repeat={repeat}: images of one source are equal; leave --repeat out")
    for flag, count in counts.items():
        if repeat < 1 or (count or 0) % repeat:
            raise ValueError(f"--repeat={repeat} with {flag}={count}: a divisor of it needed")
    each = {flag: count and count // repeat for flag, count in counts.items()}
    selection = selection._replace(num=each.pop("--num"), repeat=1)
    return _choose(model, selection, records, each).repeated(repeat)


def _choose(
    model: Bundle,
    selection: Selection,
    records: Callable[[str], Arrays],
    rows: Mapping[str, int] | None,
) -> Conditions:
    """`choose`, each condition once."""
    classes, rows = model.facts.classes, dict(rows or {})
    with_mask, with_class = "mask" in model.cond, "class" in model.cond
    for flag, values, taken in (
        ("--masks", selection.masks, with_mask),
        ("--classes", selection.classes, with_class),
    ):
        if len(values) and not taken:
            raise ValueError(
                f"{flag}: this model was trained with cond={model.cond}; leave {flag} out"
            )
    check_num(selection.num)
    masks = None
    if len(selection.masks):
        if with_class and not len(selection.classes):
            raise ValueError(
                f"--masks without --classes: this model was trained with cond={model.cond}; give "
                f"the classes too, --classes={','.join(classes[:2])}"
            )
        masks = inputs.read_masks(
            selection.masks,
            model.facts.mask_labels,
            model.facts.size,
            selection.fit,
            model.mask_channels,
            model.config.data.geometry,
            model.facts.label_values,
        )
        if masks.are_rows:
            rows["--masks"] = len(masks.values)
    labels, are_rows = _labels(selection.classes, classes, selection.num)
    if labels is not None and are_rows:
        rows["--classes"] = len(labels)
    num = _agreed(selection.num, rows)
    num = num or (len(masks.values) if masks is not None else None)
    if labels is not None and not are_rows:  # names, in turn
        labels = np.resize(labels, num or max(DEFAULT_NUM, len(labels)))
    if labels is not None:
        num = num or len(labels)
        labels = labels[:num]
    num = num or DEFAULT_NUM
    if masks is not None:
        turn = np.arange(num) % len(masks.values)
        return Conditions(
            num,
            masks.values[turn],
            labels,
            [masks.origins[row] for row in turn],
            [masks.affines[row] for row in turn],
        )
    if not with_mask and (labels is not None or not with_class):
        return Conditions(num, None, labels)
    return _of_records(model, records(selection.split), selection.split, num, labels)


def of_samples(model: Bundle, folder: Path, selection: Selection) -> Selection:
    """The masks and classes of a folder of `motfm sample`, as far as the model takes them.

    Args:
      model: what images are to be sampled from.
      folder: of samples, by the same model or by another one.
      selection: without masks and classes.

    Raises:
      ValueError: no samples, or ones without what the model needs or with other labels; masks or
        classes that were selected too.
    """
    flag, condition = f"--conditions={folder}", read_samples(folder)["condition"]
    for name, values in (("--masks", selection.masks), ("--classes", selection.classes)):
        if len(values):
            raise ValueError(f"{flag} with {name}: both say what is sampled; leave one out")
    if model.cond == "none":
        raise ValueError(f"{flag}: this model was trained with cond=none; leave it out")
    if "mask" in model.cond:
        there = condition["mask_labels"]
        if there is None or tuple(there) != model.facts.mask_labels:
            raise ValueError(
                f"{flag}: its mask labels are {', '.join(there or ['none'])}, the model's "
                f"{', '.join(model.facts.mask_labels)}; sample a run of the same labels there"
            )
        with open_npz(folder / "samples.npz") as saved:
            selection = selection._replace(masks=np.asarray(saved["masks"]))
    if "class" in model.cond:
        if condition["classes"] is None:
            raise ValueError(f"{flag}: its images have no class; sample a run with cond=class")
        selection = selection._replace(classes=condition["classes"])
    return selection


def check_num(num: int | None) -> None:
    """Raises ValueError for a number of images below 1."""
    if num is not None and num < 1:
        raise ValueError(f"--num={num}: at least 1 image")


def _agreed(num: int | None, rows: Mapping[str, int]) -> int | None:
    """How many images: num of the rows of what is given, all of them where num is None."""
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{flag} holds {count}" for flag, count in rows.items())
        raise ValueError(f"{counts}: as many of each needed, one an image; correct the files")
    for flag, count in rows.items():
        if num is not None and num > count:
            raise ValueError(
                f"--num={num}: {flag} holds {count}; leave --num out or give more of them"
            )
        num = num or count
    return num


def _of_records(
    model: Bundle, arrays: Arrays, split: str, num: int, labels: np.ndarray | None
) -> Conditions:
    """Masks and classes of a split's records, cycled; of given classes, masks of their own."""
    with_mask, with_class = "mask" in model.cond, "class" in model.cond
    for name, there, trained, used in (
        ("classes", arrays.classes, model.facts.classes, with_class),
        ("mask labels", arrays.mask_labels, model.facts.mask_labels, with_mask),
    ):
        if used and tuple(there) != tuple(trained):
            raise ValueError(
                f"--split={split}: the data's {name} are {', '.join(there) or 'none'}, the "
                f"model's {', '.join(trained)}; give the data it was trained on, or --masks and "
                "--classes"
            )
    masks, classes = arrays.masks, arrays.labels
    lacking = "masks" if with_mask and masks is None else "classes"
    if len(arrays) == 0 or (with_mask and masks is None) or (with_class and classes is None):
        raise ValueError(
            f"--split={split}: {len(arrays)} records without {lacking}; use another split, or "
            "--masks and --classes"
        )
    if labels is None:
        rows = np.arange(num) % len(arrays)
    else:
        rows, taken = np.zeros(num, int), {}
        for image, label in enumerate(labels):
            own = np.flatnonzero(classes == label)
            if not len(own):
                raise ValueError(
                    f"--classes: no record of the {split} split is {arrays.classes[label]}; give "
                    "--masks, or another --split"
                )
            rows[image] = own[taken.get(label, 0) % len(own)]
            taken[label] = taken.get(label, 0) + 1
    return Conditions(
        num,
        None if masks is None or not with_mask else np.asarray(masks[rows]),
        None if classes is None or not with_class else classes[rows].astype(np.int32),
        [f"{split}: {arrays.meta[row]['name']}" for row in rows],
        [arrays.meta[row].get("affine") for row in rows],
    )


def _labels(values: Any, classes: Sequence[str], num: int | None) -> tuple[np.ndarray | None, bool]:
    """Class indices of selected classes, None for none, and whether they are one an image."""
    if not len(values):
        return None, False
    if isinstance(values, str) and not values.lower().endswith(".npy"):
        return parse_classes(values, classes, num)
    if isinstance(values, str) or not isinstance(values[0], str):
        return inputs.class_indices(values, classes), True
    return np.array([_index(name, classes) for name in values], np.int32), True


def parse_classes(text: str, classes: Sequence[str], num: int | None) -> tuple[np.ndarray, bool]:
    """Class indices from "2CH_ED=10,4CH_ES=5" (counts), or "2CH_ED,4CH_ES" (in turn).

    Where no class has a number for a name, a number is a class's index.

    Returns:
      the indices, and whether they are one an image (counts) or to be taken in turn.

    Raises:
      ValueError: an unknown class, a wrong count, or counts that do not add up to num.
    """
    names, counts = [], []
    for part in text.split(","):
        name, equals, count = part.strip().partition("=")
        names.append(_index(name, classes))
        if equals and not (count.isdecimal() and int(count)):
            raise ValueError(
                f"--classes: {part.strip()!r}; write a whole number above 0, {name}=10"
            )
        counts.append(int(count) if equals else None)
    if None not in counts:
        if num is not None and num != sum(counts):
            raise ValueError(
                f"--classes={text}: {sum(counts)} images, but --num={num}; leave --num out or "
                "change the counts"
            )
        return np.repeat(names, counts).astype(np.int32), True
    if set(counts) != {None}:
        raise ValueError(f"--classes={text}: give counts for all of the classes or for none")
    return np.array(names, np.int32), False


def _index(name: str, classes: Sequence[str]) -> int:
    are_numbers = any(each.isdecimal() for each in classes)
    if not are_numbers and name.isdecimal() and int(name) < len(classes):
        return int(name)
    if name not in classes:
        raise ValueError(f"--classes: unknown class {name!r}; use {', '.join(classes)}")
    return list(classes).index(name)
