"""What each generated image is conditioned on: records of a split, given masks and classes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data.cache import Arrays
from motfm_jax.sampling import given

DEFAULT_NUM = 16
MOST_NUM = 10**7  # images of one call


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

    def digest(self) -> str:
        """blake2b of masks and classes, hex."""
        total = hashlib.blake2b(digest_size=16)
        for array in (self.masks, self.labels):
            total.update(b"none" if array is None else repr(array.shape).encode() + array.tobytes())
        return total.hexdigest()


def choose(
    kind: str,
    *,
    num: int | None,
    classes: Sequence[str],
    mask_labels: Sequence[str],
    size: Sequence[int],
    split: Callable[[], Arrays] | None,
    split_name: str,
    mask_paths: Sequence[str | Path] = (),
    class_text: str = "",
    fit: str | None = None,
    mask_channels: int = 0,
    noise: np.ndarray | None = None,
    noise_flag: str = "--noise",
) -> Conditions:
    """The conditions a request describes.

    Rows of one file and counts belong to the images one by one, so that all of them must be as
    many; records, mask files and class names are repeated from the first where there are fewer.

    Args:
      kind: what the network needs: none | class | mask | mask+class.
      num: N; None for as many as there are rows or counts, else the number of mask files, else 16.
      classes: class names by index.
      mask_labels: label names by value.
      size: S.
      split: opens the records that masks and classes come from unless said otherwise; called only
        then. Where classes are said and masks are not, each class gets masks of its own records.
        None where the run has no data.
      split_name: for messages.
      mask_paths: see `given.read_masks`.
      class_text: see `parse_classes`, or the npy of `given.read_classes`; "" for none.
      fit, mask_channels: see `given.read_masks`.
      noise: rows that the images start from, or None.
      noise_flag: what they were given by, for messages.

    Raises:
      ValueError: something said that the network does not take, or missing that it needs.
    """
    with_mask, with_class = "mask" in kind, "class" in kind
    for flag, said, wanted in (
        ("--masks", mask_paths, with_mask),
        ("--classes", class_text, with_class),
    ):
        if said and not wanted:
            raise ValueError(f"{flag}: this run was trained with cond={kind}; leave {flag} out")
    check_num(num)
    masks = labels = None
    rows = {} if noise is None else {noise_flag: len(noise)}
    if mask_paths:
        if with_class and not class_text:
            raise ValueError(
                f"--masks without --classes: this run was trained with cond={kind}; say which "
                f"classes, --classes={','.join(classes[:2])}"
            )
        masks = given.read_masks(mask_paths, mask_labels, size, fit, mask_channels)
        if masks.are_rows:
            rows["--masks"] = len(masks.values)
    if class_text.lower().endswith(".npy"):
        labels = given.read_classes(class_text, classes)
    elif "=" in class_text:
        labels = parse_classes(class_text, classes, num)
    if labels is not None:
        rows["--classes"] = len(labels)
    num = _agreed(num, rows)
    if masks is not None:
        num = num or len(masks.values)
    if class_text and labels is None:
        labels = parse_classes(class_text, classes, num)
    if labels is not None:
        num = num or len(labels)
        labels = labels[:num]
    if masks is not None:
        turn = np.arange(num) % len(masks.values)
        return Conditions(
            num,
            masks.values[turn],
            labels,
            [masks.origins[row] for row in turn],
            [masks.affines[row] for row in turn],
        )
    num = num or DEFAULT_NUM
    if not with_mask and (labels is not None or not with_class):
        return Conditions(num, None, labels)
    if split is None:
        flags = ["--masks"] * with_mask + ["--classes"] * (with_class and labels is None)
        raise ValueError(
            f"this run was converted without its data: there are no records to take conditions "
            f"from; give {' and '.join(flags)}, or convert again with --data"
        )
    arrays = split()
    for name, there, trained, used in (
        ("classes", arrays.classes, classes, with_class),
        ("mask labels", arrays.mask_labels, mask_labels, with_mask),
    ):
        if used and tuple(there) != tuple(trained):
            raise ValueError(
                f"--split={split_name}: the data's {name} are {', '.join(there) or 'none'}, the "
                f"run's {', '.join(trained)}; give the data it was trained on, or --masks and "
                "--classes"
            )
    return _from_split(arrays, split_name, num, labels, with_mask, with_class, classes)


def check_num(num: int | None) -> None:
    """Raises ValueError for a number of images that is none, or more than a call makes."""
    if num is not None and num < 1:
        raise ValueError(f"--num={num}: at least 1 image")
    if num is not None and num > MOST_NUM:
        raise ValueError(f"--num={num}: at most {MOST_NUM} images a call; make more calls")


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


def _from_split(arrays, split_name, num, labels, with_mask, with_class, classes) -> Conditions:
    lacking = "masks" if with_mask and arrays.masks is None else "classes"
    if (
        len(arrays) == 0
        or (with_mask and arrays.masks is None)
        or (with_class and arrays.labels is None)
    ):
        raise ValueError(
            f"--split={split_name}: {len(arrays)} records without {lacking}; use another split, or "
            "--masks and --classes"
        )
    if labels is None:
        rows = np.arange(num) % len(arrays)
    else:
        rows, taken = np.zeros(num, int), {}
        for image, label in enumerate(labels):
            own = np.flatnonzero(arrays.labels == label)
            if not len(own):
                raise ValueError(
                    f"--classes: no record of the {split_name} split is {classes[label]}; give "
                    "--masks, or another --split"
                )
            rows[image] = own[taken.get(label, 0) % len(own)]
            taken[label] = taken.get(label, 0) + 1
    return Conditions(
        num,
        np.asarray(arrays.masks[rows]) if with_mask else None,
        arrays.labels[rows].astype(np.int32) if with_class else None,
        [f"{split_name}: {arrays.meta[row]['name']}" for row in rows],
        [arrays.meta[row].get("affine") for row in rows],
    )


def parse_classes(text: str, classes: Sequence[str], num: int | None) -> np.ndarray:
    """Class indices [N] from "2CH_ED=10,4CH_ES=5" (counts) or "2CH_ED,4CH_ES" (in turn, to num).

    Names may also be the class's number.

    Raises:
      ValueError: an unknown class, a count that is none, counts that do not add up to num, or more
        than MOST_NUM images.
    """
    names, counts = [], []
    for part in text.split(","):
        name, equals, count = part.strip().partition("=")
        if name not in classes and name.isdecimal() and int(name) < len(classes):
            name = classes[int(name)]
        if name not in classes:
            raise ValueError(
                f"--classes: {name!r} is no class of this run; use {', '.join(classes)}"
            )
        if equals and not (count.isdecimal() and int(count)):
            raise ValueError(
                f"--classes: {part.strip()!r}; write a whole number above 0, {name}=10"
            )
        names.append(classes.index(name))
        counts.append(int(count) if equals else None)
    if None not in counts:
        if sum(counts) > MOST_NUM:
            raise ValueError(f"--classes={text}: at most {MOST_NUM} images a call; make more calls")
        if num is not None and num != sum(counts):
            raise ValueError(
                f"--classes={text}: {sum(counts)} images, but --num={num}; leave --num out or "
                "change the counts"
            )
        return np.repeat(names, counts).astype(np.int32)
    if set(counts) != {None}:
        raise ValueError(f"--classes={text}: give counts for all of the classes or for none")
    return np.resize(np.array(names, np.int32), num or max(DEFAULT_NUM, len(names)))
