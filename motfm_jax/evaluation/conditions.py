"""What each generated image is conditioned on: records of a split, mask files, class names."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from motfm_jax.data import files, geometry
from motfm_jax.data.cache import Arrays

DEFAULT_NUM = 16
PICTURES = (".png", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES = (*files.NIFTI_SUFFIXES, ".npy", *PICTURES)


class Conditions(NamedTuple):
    """Of N images; all None or empty where a network is unconditional.

    Attributes:
      num: N.
      masks: [N, *S] uint8 labels, or None.
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
    split: Callable[[], Arrays],
    split_name: str,
    mask_paths: Sequence[str | Path] = (),
    class_text: str = "",
    fit: str | None = None,
) -> Conditions:
    """The conditions a request describes, repeated from the first where there are fewer than num.

    Args:
      kind: what the network needs: none | class | mask | mask+class.
      num: N; None for the sum of the counts in class_text, else the number of mask files, else 16.
      classes: class names by index.
      mask_labels: label names by value.
      size: S.
      split: opens the records that masks and classes come from unless said otherwise; called only
        then. Where classes are said and masks are not, each class gets masks of its own records.
      split_name: for messages.
      mask_paths: mask files, or folders of them.
      class_text: see `parse_classes`; "" for none.
      fit: see `read_masks`.

    Raises:
      ValueError: something said that the network does not take, or missing that it needs.
    """
    with_mask, with_class = "mask" in kind, "class" in kind
    for flag, given, wanted in (
        ("--masks", mask_paths, with_mask), ("--classes", class_text, with_class)):  # fmt: skip
        if given and not wanted:
            raise ValueError(f"{flag}: this run was trained with cond={kind}; leave {flag} out")
    if num is not None and num < 1:
        raise ValueError(f"--num={num}: at least 1 image")
    if mask_paths:
        if with_class and not class_text:
            raise ValueError(
                f"--masks without --classes: this run was trained with cond={kind}; say which "
                f"classes, --classes={','.join(classes[:2])}")
        masks, origins, affines = read_masks(mask_paths, mask_labels, size, fit)
        if num is None and "=" not in class_text:  # counts decide themselves
            num = len(masks)
    labels = parse_classes(class_text, classes, num) if class_text else None
    num = num if labels is None else len(labels)
    if mask_paths:
        rows = np.arange(num) % len(masks)
        return Conditions(
            len(rows), masks[rows], labels, [origins[row] for row in rows],
            [affines[row] for row in rows])  # fmt: skip
    if not with_mask and (labels is not None or not with_class):
        return Conditions(num or DEFAULT_NUM, None, labels)
    arrays = split()
    for name, there, trained, used in (
        ("classes", arrays.classes, classes, with_class),
        ("mask labels", arrays.mask_labels, mask_labels, with_mask)):  # fmt: skip
        if used and tuple(there) != tuple(trained):
            raise ValueError(
                f"--split={split_name}: the data's {name} are {', '.join(there) or 'none'}, the "
                f"run's {', '.join(trained)}; give the data it was trained on, or --masks and "
                "--classes")
    return _from_split(
        arrays, split_name, num or DEFAULT_NUM, labels, with_mask, with_class, classes)


def _from_split(arrays, split_name, num, labels, with_mask, with_class, classes) -> Conditions:
    lacking = "masks" if with_mask and arrays.masks is None else "classes"
    if len(arrays) == 0 or (with_mask and arrays.masks is None) or (
            with_class and arrays.labels is None):  # fmt: skip
        raise ValueError(
            f"--split={split_name}: {len(arrays)} records without {lacking}; use another split, or "
            "--masks and --classes")
    if labels is None:
        rows = np.arange(num) % len(arrays)
    else:
        rows, taken = np.zeros(num, int), {}
        for image, label in enumerate(labels):
            own = np.flatnonzero(arrays.labels == label)
            if not len(own):
                raise ValueError(
                    f"--classes: no record of the {split_name} split is {classes[label]}; give "
                    "--masks, or another --split")
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
      ValueError: an unknown class, a count that is none, or counts that do not add up to num.
    """
    names, counts = [], []
    for part in text.split(","):
        name, equals, count = part.strip().partition("=")
        if name not in classes and name.isdecimal() and int(name) < len(classes):
            name = classes[int(name)]
        if name not in classes:
            raise ValueError(
                f"--classes: {name!r} is no class of this run; use {', '.join(classes)}")
        if equals and not (count.isdecimal() and int(count)):
            raise ValueError(
                f"--classes: {part.strip()!r}; write a whole number above 0, {name}=10")
        names.append(classes.index(name))
        counts.append(int(count) if equals else None)
    if None not in counts:
        if num is not None and num != sum(counts):
            raise ValueError(
                f"--classes={text}: {sum(counts)} images, but --num={num}; leave --num out or "
                "change the counts")
        return np.repeat(names, counts).astype(np.int32)
    if set(counts) != {None}:
        raise ValueError(f"--classes={text}: give counts for all of the classes or for none")
    return np.resize(np.array(names, np.int32), num or max(DEFAULT_NUM, len(names)))


def read_masks(
    paths: Sequence[str | Path], mask_labels: Sequence[str], size: Sequence[int],
    fit: str | None = None,
) -> tuple[np.ndarray, list[str], list[Any]]:  # fmt: skip
    """Label maps from files.

    Args:
      paths: PNG (or BMP, TIFF) with label values as grey or palette numbers, NIfTI, or npy with the
        array as in memory; folders stand for all such files in them, sorted.
      mask_labels: label names by value: the values allowed.
      size: S, which every file must have unless fit is given.
      fit: "pad" or "stretch" resizes to S, nearest neighbour; see `geometry.fit`.

    Returns:
      masks [M, *S] uint8, the M paths, and the M affines (4 x 4 nested lists, or None).
    """
    found = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.name.lower().endswith(MASK_SUFFIXES))
            if not inside:
                raise ValueError(f"{path}: no mask in it; files {', '.join(MASK_SUFFIXES)} needed")
        found += inside
    masks, affines = [], []
    for path in found:
        values, affine = _read_mask(path, len(size))
        mask = files.to_labels(path, values, range(len(mask_labels))).astype(np.uint8)
        if mask.shape != tuple(size):
            if not fit or mask.ndim != len(size):
                raise ValueError(
                    f"{path}: mask {mask.shape}, but the network's images are {tuple(size)}"
                    + ("; resize it, or use --fit=pad or --fit=stretch" * (mask.ndim == len(size))))
            spacing = None
            if affine is not None:
                spacing = np.linalg.norm(affine[:3, : mask.ndim], axis=0)
            resized = geometry.fit(
                np.zeros((*mask.shape, 1), np.float32), mask, affine, spacing, size, fit)
            mask, affine = resized.mask, resized.affine
        masks.append(mask)
        affines.append(None if affine is None else affine.tolist())
    return np.stack(masks), [str(path) for path in found], affines


def _read_mask(path: Path, dims: int) -> tuple[np.ndarray, np.ndarray | None]:
    """One file as [*S0], with its affine where it states one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such mask file; check --masks")
    suffix = path.suffix.lower()
    if path.name.lower().endswith(files.NIFTI_SUFFIXES):
        values, affine, _ = files.read(path)
        while values.ndim > dims and values.shape[-1] == 1:
            values = values[..., 0]
        if dims == 2:  # files are x first; here rows are depth
            return values.T, affine[:, [1, 0, 2, 3]]
        return values, affine
    if suffix not in (".npy", *PICTURES):
        raise ValueError(f"{path}: unknown type of mask; use {', '.join(MASK_SUFFIXES)}")
    try:
        if suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.asarray(Image.open(path))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); copy or export it again") from error
    if suffix in PICTURES and values.ndim != 2:
        raise ValueError(
            f"{path}: a colour picture {values.shape}; save labels as grey or palette numbers")
    if values.dtype.kind not in "buif":
        raise ValueError(f"{path}: values of type {values.dtype}, label numbers needed")
    return values, None
