"""What a user gives as files: starting noise, masks and classes, checked before any solve.

Rows of one npy belong to the images one by one; separate mask files may be repeated.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from motfm_jax.data import files, geometry
from motfm_jax.data.records import Facts

PICTURES = (".png", ".bmp", ".tif", ".tiff")
MOST_PIXELS, LONGEST = 2**25, 2**16  # of a picture: 8192 x 4096; its longer side
MASK_SUFFIXES = (*files.NIFTI_SUFFIXES, ".npy", *PICTURES)


class Masks(NamedTuple):
    """Of M images.

    Attributes:
      values: [M, *S] uint8 labels, or [M, *S, C] float32 as the network takes them.
      origins: M texts, which file (and row) each came from.
      affines: M of 4 x 4 nested lists or None.
      are_rows: of one npy, so that mask i is image i's and there are no more images than masks.
    """

    values: np.ndarray
    origins: list[str]
    affines: list[Any]
    are_rows: bool = False


def read_array(path: str | Path) -> np.ndarray:
    """The array of an npy, memory-mapped; its pickles are refused, not executed."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; write it with numpy.save")
    try:
        # Mapped, a header that claims more than the file holds is refused before it is allocated.
        with np.errstate(over="raise"):
            values = np.lib.format.open_memmap(path, mode="r")
    except (OSError, EOFError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write it with numpy.save") from error
    if values.dtype.kind not in "buif":
        raise ValueError(f"{path}: values of type {values.dtype}, real numbers needed")
    if not values.size:
        raise ValueError(f"{path}: an empty array, {values.shape}; write it again")
    return values


def read_noise(path: str | Path, size: Sequence[int], channels: int, halvings: int) -> np.ndarray:
    """The arrays that images start from: [N, *S, C] float32.

    Args:
      path: npy of floats [N, *S, C].
      size: S; zeros where any will do that the network can halve.
      channels: C.
      halvings: how often the network halves an image.

    Raises:
      ValueError: another shape or type, or values that are not finite.
    """
    values, stride = read_array(path), 2**halvings
    wanted = _said("N", *size, channels)
    if values.dtype.kind != "f":
        raise ValueError(f"{path}: values of type {values.dtype}, floats {wanted} needed")
    if (
        values.ndim != len(size) + 2
        or values.shape[-1] != channels
        or (0 not in size and values.shape[1:-1] != tuple(size))
    ):
        raise ValueError(f"{path}: array {values.shape}, but this run starts from {wanted}")
    if any(extent % stride for extent in values.shape[1:-1]):
        raise ValueError(
            f"{path}: images {values.shape[1:-1]}, but the network needs extents divisible by "
            f"{stride}; pad or crop the noise"
        )
    return _float32(path, values)


def read_classes(path: str | Path, classes: Sequence[str]) -> np.ndarray:
    """Class indices [N] int32 from an npy of integers.

    Raises:
      ValueError: another shape or type, or an index that is none.
    """
    values = read_array(path)
    if values.ndim != 1 or values.dtype.kind not in "ui":
        raise ValueError(
            f"{path}: {values.dtype} {values.shape}, but one whole number an image, [N], needed: "
            "the index of its class"
        )
    wrong = np.flatnonzero((values < 0) | (values >= len(classes)))
    if len(wrong):
        raise ValueError(
            f"{path}: row {wrong[0]} is {values[wrong[0]]}, but the classes are 0 to "
            f"{len(classes) - 1}: {', '.join(classes)}"
        )
    return np.array(values, np.int32)


def known(run: str, facts: Facts, noise: np.ndarray | None, raw: bool) -> Facts:
    """The facts of a run, its size taken from the noise where the run does not say it.

    Args:
      run: run directory, for messages.
      facts: of a run that may have been converted without its data.
      noise: [N, *S, C] that images start from, or None.
      raw: whether images stay as the network gives them.

    Raises:
      ValueError: neither the run nor the user says the size, or how intensities are scaled.
    """
    lacking, cures = [], []
    if 0 in facts.size and noise is None:
        lacking, cures = ["extents"], ["--noise"]
    if facts.intensity is None and not raw:
        lacking, cures = [*lacking, "intensities"], [*cures, "--raw"]
    if lacking:
        flag = "--data" if "--raw" in cures else "--data or --size"
        raise ValueError(
            f"{run}: was converted without its data, so the {' and '.join(lacking)} of its images "
            f"are not known; give {' and '.join(cures)}, or convert again with {flag}"
        )
    if 0 in facts.size:
        return dataclasses.replace(facts, size=noise.shape[1:-1])
    return facts


def read_masks(
    paths: Sequence[str | Path],
    mask_labels: Sequence[str],
    size: Sequence[int],
    fit: str | None = None,
    channels: int = 0,
) -> Masks:
    """Masks from files.

    Args:
      paths: PNG (or BMP, TIFF) with label values as grey or palette numbers, NIfTI, or npy with the
        array as in memory; folders stand for all such files in them, sorted. A single npy may also
        hold labels [M, *S], or floats [M, *S, C] that the network takes as they are.
      mask_labels: label names by value: the values allowed; empty where the run does not know them,
        which leaves the floats.
      size: S, which every mask must have unless fit is given.
      fit: "pad" or "stretch" resizes labels to S, nearest neighbour; see `geometry.fit`.
      channels: C, the mask channels of the network.

    Raises:
      ValueError: a file that is no mask, or none of this run's.
    """
    first, dims = Path(paths[0]), len(size)
    lone = len(paths) == 1 and first.suffix.lower() == ".npy" and first.is_file()
    array = read_array(first) if lone else np.empty(0)
    if array.ndim == dims + 2:
        return _as_given(first, array, size, channels)
    are_rows = array.ndim == dims + 1
    if are_rows:
        named = ((f"{first}, row {row}", values, None) for row, values in enumerate(array))
    else:
        named = ((str(path), *_read_mask(path, dims)) for path in _found(paths))
    masks, affines, origins = [], [], []
    for name, values, affine in named:
        if affine is None:
            _refuse_fractions(name, values, size, channels)
        if not mask_labels:
            raise ValueError(
                f"{name}: labels cannot be encoded, for this run was converted without its data; "
                f"give one npy of floats {_said('N', *size, channels)} as the network takes them, "
                "or convert again with --data"
            )
        mask = files.to_labels(name, values, range(len(mask_labels))).astype(np.uint8)
        mask, affine = _to_size(name, mask, affine, size, fit)
        masks.append(mask)
        affines.append(None if affine is None else affine.tolist())
        origins.append(name)
    return Masks(np.stack(masks), origins, affines, are_rows)


def _as_given(path: Path, values: np.ndarray, size: Sequence[int], channels: int) -> Masks:
    """Floats [M, *S, C] untouched."""
    if values.dtype.kind != "f" or values.shape[1:] != (*size, channels):
        raise ValueError(
            f"{path}: {values.dtype} {values.shape}, but the network takes floats "
            f"{_said('N', *size, channels)}, or whole-numbered labels {_said('N', *size)}"
        )
    names = [f"{path}, row {row}" for row in range(len(values))]
    return Masks(_float32(path, values), names, [None] * len(values), are_rows=True)


def _found(paths: Sequence[str | Path]) -> list[Path]:
    """The files of paths and of the folders among them."""
    found = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.name.lower().endswith(MASK_SUFFIXES)
            )
            if not inside:
                raise ValueError(f"{path}: no mask in it; files {', '.join(MASK_SUFFIXES)} needed")
        found += inside
    return found


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
    if suffix == ".npy":
        return read_array(path), None
    if suffix not in PICTURES:
        raise ValueError(f"{path}: unknown type of mask; use {', '.join(MASK_SUFFIXES)}")
    try:
        # Of any other format the reader might be a program of its own.
        with Image.open(path, formats=("PNG", "BMP", "TIFF")) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS or max(width, height) > LONGEST:
                raise ValueError(
                    f"{width} x {height} pixels, at most {MOST_PIXELS} and {LONGEST} a side are "
                    "read"
                )
            if getattr(picture, "n_frames", 1) > 1:
                raise ValueError(f"{picture.n_frames} pictures in one file, one a file needed")
            values = np.asarray(picture)
    except Exception as error:  # a decoder may raise anything on foreign bytes
        raise ValueError(f"{path}: cannot be read ({error}); copy or export it again") from error
    if values.ndim != 2:
        raise ValueError(
            f"{path}: a colour picture {values.shape}; save labels as grey or palette numbers"
        )
    return values, None


def _refuse_fractions(name: str, values: np.ndarray, size: Sequence[int], channels: int) -> None:
    """Raises ValueError for floats that may be meant as a network's input."""
    if values.dtype.kind == "f" and np.isfinite(values).all():
        fractions = values[np.abs(values - np.rint(values)) > 1e-3]
        if fractions.size:
            raise ValueError(
                f"{name}: mask values such as {fractions[0]}, whole numbers needed: labels; floats "
                f"that the network shall take as they are: one npy {_said('N', *size, channels)}"
            )


def _to_size(
    name: str, mask: np.ndarray, affine: np.ndarray | None, size: Sequence[int], fit: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if mask.shape == tuple(size):
        return mask, affine
    if not fit or mask.ndim != len(size):
        raise ValueError(
            f"{name}: mask {mask.shape}, but the network's images are {tuple(size)}"
            + ("; resize it, or use --fit=pad or --fit=stretch" * (mask.ndim == len(size)))
        )
    spacing = None
    if affine is not None:
        spacing = np.linalg.norm(affine[:3, : mask.ndim], axis=0)
    empty = np.broadcast_to(np.float32(0), (*mask.shape, 1))
    resized = geometry.fit(empty, mask, affine, spacing, size, fit)
    return resized.mask, resized.affine


def _float32(path: str | Path, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused
        values = np.array(values, np.float32)
    infinite = int((~np.isfinite(values)).sum())
    if infinite:
        raise ValueError(f"{path}: {infinite} values are NaN, infinite or beyond float32")
    return values


def _said(*axes: str | int) -> str:
    """Axes as text: [N, 16, 16, 1], with "any" for what is not known."""
    return f"[{', '.join(str(axis or 'any') for axis in axes)}]"
