"""Reads and checks the noise, masks and classes of a user, from arrays or files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from motfm_jax.data import nifti
from motfm_jax.data.geometry import fit as fit_to_size
from motfm_jax.data.labels import Labels
from motfm_jax.data.orientation import to_ras

MASK_SUFFIXES = (*nifti.NIFTI_SUFFIXES, ".npy", ".png")

Values = str | Path | np.ndarray  # an npy file, or its array


class Masks(NamedTuple):
    """Of M images.

    Attributes:
      values: [M, *S] uint8 labels, or [M, *S, C] float32 as the network takes them.
      origins: M texts, which file (and row) each came from.
      affines: M of 4 x 4 nested lists or None.
      are_rows: of one array, so that mask i is image i's and there are no more images than masks.
    """

    values: np.ndarray
    origins: list[str]
    affines: list[Any]
    are_rows: bool = False


def read_array(path: str | Path) -> np.ndarray:
    """The array of an npy file, memory-mapped; pickles are refused, not executed."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; write it with numpy.save")
    try:
        # Mapped, a header that claims more than the file holds is refused before it is allocated.
        with np.errstate(over="raise"):
            values = np.lib.format.open_memmap(path, mode="r")
    except (OSError, EOFError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write it with numpy.save") from error
    return _numbers(str(path), values)


def start_images(values: Values, shape: Sequence[int], name: str = "noise") -> np.ndarray:
    """The arrays that images start from: [N, *S, C] float32.

    Args:
      values: floats [N, *S, C].
      shape: (*S, C) of the model.
      name: of an array, for messages.

    Raises:
      ValueError: another shape or type, or values that are not finite.
    """
    name, values = _named(values, name)
    if values.dtype.kind != "f" or values.ndim != len(shape) + 1:
        raise ValueError(f"{name}: {values.dtype} {values.shape}, floats {_axes(*shape)} needed")
    if values.shape[1:] != tuple(shape):
        raise ValueError(f"{name}: array {values.shape}, this model starts from {_axes(*shape)}")
    return _float32(name, values)


def class_indices(values: Values | Sequence[int], classes: Sequence[str]) -> np.ndarray:
    """Class indices [N] int32, checked.

    Raises:
      ValueError: another shape or type, or an index beyond the classes.
    """
    name, values = _named(values, "classes")
    if values.ndim != 1 or values.dtype.kind not in "ui":
        raise ValueError(
            f"{name}: {values.dtype} {values.shape}, but one whole number an image, [N], needed: "
            "the index of its class"
        )
    wrong = np.flatnonzero((values < 0) | (values >= len(classes)))
    if len(wrong):
        raise ValueError(
            f"{name}: row {wrong[0]} is {values[wrong[0]]}, but the classes are 0 to "
            f"{len(classes) - 1}: {', '.join(classes)}"
        )
    return np.array(values, np.int32)


def read_masks(
    masks: np.ndarray | Sequence[str | Path],
    mask_labels: Sequence[str],
    size: Sequence[int],
    fit: str | None = None,
    channels: int = 0,
    geometry: str = "",
    label_values: Sequence[int] = (),
) -> Masks:
    """Masks from an array or from files.

    Args:
      masks: labels [M, *S], or floats [M, *S, C] as the network takes them: an array or one npy
        file. Or label maps of one image each: PNG with label values as grey or palette
        numbers, NIfTI, or npy with the array as in memory; a folder stands for all such files in
        it, sorted.
      mask_labels: label names by number, which arrays and npy files hold.
      size: S, which every mask must have unless fit is given.
      fit: "pad" or "stretch" resizes labels to S, nearest neighbour; see `geometry.fit`.
      channels: C, the mask channels of the network.
      geometry: the field of NIfTI headers that places voxels, see `nifti.read`.
      label_values: what PNG and NIfTI files hold for each label; () for its number.

    Raises:
      ValueError: a file that is no mask, or none of this model's.
    """
    array, dims, name = np.empty(0), len(size), "masks"
    if isinstance(masks, np.ndarray):
        array = _numbers(name, masks)
    elif len(masks) == 1 and Path(masks[0]).is_file() and str(masks[0]).lower().endswith(".npy"):
        name, array = str(masks[0]), read_array(masks[0])
    if array.ndim == dims + 2:
        return _network_input(name, array, size, channels)
    are_rows = array.ndim == dims + 1
    if are_rows:
        named = ((f"{name}, row {row}", array[row], None) for row in range(len(array)))
    elif isinstance(masks, np.ndarray):
        raise ValueError(f"{name}: array {array.shape}, labels {_axes(*size)} needed")
    else:
        named = ((str(path), *_read_mask(path, dims, geometry)) for path in _listed(masks))
    numbers = range(len(mask_labels))
    masks, affines, origins = [], [], []
    for origin, mask, affine in named:
        if affine is None:
            _refuse_fractions(origin, mask, size, channels)
        is_array = are_rows or origin.lower().endswith(".npy")
        values = numbers if is_array else label_values or numbers
        labels = Labels(tuple(mask_labels), tuple(values)).number(mask, origin)
        labels, affine = _to_size(origin, labels, affine, size, fit)
        masks.append(labels)
        affines.append(None if affine is None else affine.tolist())
        origins.append(origin)
    return Masks(np.stack(masks), origins, affines, are_rows)


def _network_input(name: str, values: np.ndarray, size: Sequence[int], channels: int) -> Masks:
    """Floats [M, *S, C], unchanged."""
    if values.dtype.kind != "f" or values.shape[1:] != (*size, channels):
        raise ValueError(
            f"{name}: {values.dtype} {values.shape}, but the network takes floats "
            f"{_axes(*size, channels)}, or whole-numbered labels {_axes(*size)}"
        )
    names = [f"{name}, row {row}" for row in range(len(values))]
    return Masks(_float32(name, values), names, [None] * len(values), are_rows=True)


def _listed(paths: Sequence[str | Path]) -> list[Path]:
    """The files of paths and of the folders among them."""
    listed = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.name.lower().endswith(MASK_SUFFIXES)
            )
            if not inside:
                raise ValueError(f"{path}: no mask in it; files {', '.join(MASK_SUFFIXES)} needed")
        listed += inside
    return listed


def _read_mask(path: Path, dims: int, geometry: str) -> tuple[np.ndarray, np.ndarray | None]:
    """One file as [*S0], volumes in RAS axes, with its affine where it states one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such mask file; check --masks")
    suffix = path.suffix.lower()
    if path.name.lower().endswith(nifti.NIFTI_SUFFIXES):
        values, affine, _ = nifti.read(path, geometry)
        while values.ndim > dims and values.shape[-1] == 1:
            values = values[..., 0]
        if dims == 2:  # files are x first; here rows are depth
            return values.T, affine[:, [1, 0, 2, 3]]
        return to_ras(values, affine) if values.ndim == 3 else (values, affine)
    if suffix == ".npy":
        return read_array(path), None
    if suffix != ".png":
        raise ValueError(f"{path}: unknown type of mask; use {', '.join(MASK_SUFFIXES)}")
    try:
        with Image.open(path, formats=("PNG",)) as picture:
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
                f"{name}: mask values such as {fractions[0]}, whole numbers needed: labels; for "
                f"floats as the network takes them give one array {_axes(*size, channels)}"
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
    empty = np.empty((*mask.shape, 0), np.float32)  # no channel: only the mask is resampled
    resized: Any = fit_to_size(empty, mask, affine, spacing, size, fit)
    return resized.mask, resized.affine


def _named(values: Values | Sequence, name: str) -> tuple[str, np.ndarray]:
    """An array with its name for messages."""
    if isinstance(values, str | Path):
        return str(values), read_array(values)
    return name, _numbers(name, np.asarray(values))


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "buif":
        raise ValueError(f"{name}: values of type {values.dtype}, real numbers needed")
    if not values.size:
        raise ValueError(f"{name}: an empty array, {values.shape}")
    return values


def _float32(name: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused
        values = np.array(values, np.float32)
    infinite = int((~np.isfinite(values)).sum())
    if infinite:
        raise ValueError(f"{name}: {infinite} values are NaN, infinite or beyond float32")
    return values


def _axes(*axes: int) -> str:
    """Axes as text: [N, 16, 16, 1]."""
    return f"[N, {', '.join(map(str, axes))}]"
