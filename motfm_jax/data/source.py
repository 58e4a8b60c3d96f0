"""`Record`, the protocol `Source`, and the checks of records."""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np

from motfm_jax.data import geometry, nifti

MOST_SKIPPED = 0.5  # of the examples of a split
MOST_CHANNELS = 16  # a last axis that is longer is an axis of space


class NoSplit(ValueError):
    """The data set has no such split, or nothing in it; the data may be whole all the same."""


class Record(NamedTuple):
    """One example.

    Attributes:
      image: [*S] or [*S, C], raw intensities in any numeric type.
      mask: [*S] labels, or None.
      label: class index, or None.
      patient: no patient may be in two splits; "" if each image is a patient.
      name: for messages and tables; "" for the position in the split.
      source: like `image`: what `image` is to be made from; None if there is no pair.
      spacing_mm: one number per axis of S, or None.
      affine: [4, 4], array index to millimetres, or None.
      extra: further JSON-able facts, such as "view" or "quality".
    """

    image: np.ndarray
    mask: np.ndarray | None = None
    label: int | None = None
    patient: str = ""
    name: str = ""
    source: np.ndarray | None = None
    spacing_mm: Sequence[float] | None = None
    affine: Any = None
    extra: Mapping[str, Any] | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """The JSON-able facts: "name", "patient", `extra`, and if known "spacing_mm", "affine"."""
        meta = {"name": self.name, "patient": self.patient or self.name, **(self.extra or {})}
        if self.spacing_mm is not None:
            meta["spacing_mm"] = [float(step) for step in self.spacing_mm]
        if self.affine is not None:
            meta["affine"] = np.asarray(self.affine, float).tolist()
        return meta


class Source(Protocol):
    """The examples of one split: anything with a length whose items are records.

    Optional attributes:
      classes: names by index; () if there are no classes. Default: "0", "1", ... as found.
      mask_labels: names by value, background first; () if there are no masks. Default likewise.
      fingerprint(): a JSON-able description of everything a record depends on except the contents
        of `source_files()`. With it the decoded arrays are kept on disk, and several threads read
        `source[i]`; without it they are decoded into memory.
      source_files(): the files that the records are read from.
      where(index): the file of a record, for messages.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class FromPython:
    """The entry of `SOURCES` for runs whose sources were passed to `motfm.train`."""

    dims = None
    needs_root = False
    has_channels = True

    @classmethod
    def from_config(cls, data: Any, split: str, source_channel: str = "") -> Source:
        raise ValueError(
            "config.data.source='python': this run was trained on sources given from Python; give "
            "them again as train= and valid=, or set config.data.source"
        )


class Fitted:
    """A source whose records have the size of the config.

    Images become [*S, C] and masks [*S] uint8. An image of another size is resampled like a file,
    see `geometry.fit`. Names default to the position in the split.

    Args:
      source: see `Source`.
      size: S.
      fit: "pad" or "stretch".
    """

    def __init__(self, source: Source, size: Sequence[int], fit: str):
        self.source = source
        self.size, self.fit = tuple(size), fit
        self.classes = _names(source, "classes")
        self.mask_labels = _names(source, "mask_labels")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        if not isinstance(record, Record):
            raise ValueError(f"example {index} is a {type(record).__name__}, a Record needed")
        record = record._replace(name=record.name or str(index))
        where = locate(self.source, index, record)
        image, source = (
            None if values is None else self._channels_last(values, where)
            for values in (record.image, record.source)
        )
        mask = record.mask
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != np.uint8:
                mask = nifti.to_labels(where, mask, range(256)).astype(np.uint8)
        record = record._replace(
            image=image, source=source, mask=mask, label=_index(record.label, where)
        )
        is_placed = image.shape[:-1] == self.size
        if is_placed or (source is not None and source.shape != image.shape):
            return record  # `check_record` refuses the second
        return self._resample(record, where)

    def _resample(self, record: Record, where: str) -> Record:
        image = record.image
        if record.source is not None:
            image = np.concatenate([image, record.source], axis=-1)
        affine = None if record.affine is None else np.asarray(record.affine, float)
        try:
            resized = geometry.fit(
                image, record.mask, affine, record.spacing_mm, self.size, self.fit
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        channels = record.image.shape[-1]
        return record._replace(
            image=resized.image[..., :channels],
            source=None if record.source is None else resized.image[..., channels:],
            mask=resized.mask,
            affine=resized.affine,
            spacing_mm=resized.spacing_mm,
        )

    def _channels_last(self, values: Any, where: str) -> np.ndarray:
        image, rank = np.asarray(values), len(self.size)
        if image.dtype.kind not in "buif":
            raise ValueError(f"{where}: image of type {image.dtype}, numbers needed; convert it")
        image = image[..., None] if image.ndim == rank else image
        channels_first = image.shape[1:] == self.size != image.shape[:-1]
        is_image = image.ndim == rank + 1 and image.size and image.shape[-1] <= MOST_CHANNELS
        if channels_first or not is_image:
            raise ValueError(
                f"{where}: image {np.shape(values)} with config.data.size={self.size}: {rank} axes "
                f"needed, or {rank + 1} with at most {MOST_CHANNELS} channels last"
            )
        return image

    def where(self, index: int) -> str:
        """The file of a record, or its position."""
        return self.source.where(index) if hasattr(self.source, "where") else str(index)

    def fingerprint(self) -> dict[str, Any]:
        own = self.source.fingerprint()
        return {"source": own, "size": list(self.size), "fit": self.fit}

    def source_files(self) -> list[Path]:
        return self.source.source_files() if hasattr(self.source, "source_files") else []


def _names(source: Source, attribute: str) -> tuple[str, ...] | None:
    names = getattr(source, attribute, None)
    return None if names is None else tuple(map(str, names))


def _index(label: Any, where: str) -> int | None:
    try:
        return None if label is None else operator.index(label)
    except TypeError:
        raise ValueError(
            f"{where}: label {label!r}, a whole number needed: an index into classes"
        ) from None


def check_record(source: Source, index: int, record: Record, first: Record) -> None:
    """Raises ValueError, naming the record, if it does not fit the first or its own labels."""
    name, image, mask = locate(source, index, record), record.image, record.mask
    if image.shape != first.image.shape:
        raise ValueError(
            f"{name}: image {image.shape}, but {first.name} is {first.image.shape}; "
            "all must have one size: set config.data.size"
        )
    parts = ("mask", "label", "source")
    if any((getattr(record, part) is None) != (getattr(first, part) is None) for part in parts):
        raise ValueError(
            f"{name}: all examples of a split need masks, classes and source images, or none; "
            f"{first.name} differs"
        )
    if record.source is not None and record.source.shape != image.shape:
        raise ValueError(
            f"{name}: image {image.shape} and its source {record.source.shape} differ in shape; "
            "resample them to one grid first"
        )
    if mask is not None:
        if mask.shape != image.shape[:-1]:
            raise ValueError(
                f"{name}: mask {mask.shape} and image {image.shape[:-1]} differ in space; "
                "resample them to one grid first"
            )
        labels = source.mask_labels
        if labels is not None and (mask.min() < 0 or mask.max() >= len(labels)):
            raise ValueError(
                f"{name}: mask values {np.unique(mask).tolist()[:8]}, but the declared labels are "
                f"0 to {len(labels) - 1} ({', '.join(labels)}); remap them"
            )
    most = np.inf if source.classes is None else len(source.classes)
    if record.label is not None and not 0 <= record.label < most:
        declared = (
            "classes count from 0"
            if source.classes is None
            else f"the declared classes are 0 to {most - 1} ({', '.join(source.classes)})"
        )
        raise ValueError(f"{name}: class {record.label}, but {declared}")


def check_varied(source: Source, index: int, record: Record) -> None:
    """Raises ValueError for a constant image, which cannot be scaled by its own range."""
    if record.image.min() == record.image.max():
        raise ValueError(
            f"{locate(source, index, record)}: the image is constant ({record.image.max():g}), "
            "which config.data.intensity.scope=sample cannot scale"
        )


class Faults:
    """What becomes of examples that cannot be used: config.data.on_fault.

    `with faults:` around the use of an example lets its ValueError pass with "stop". With "skip" it
    is added to `lines`, and the example is to be left out.
    """

    def __init__(self, on_fault: str):
        self.is_skipping = on_fault == "skip"
        self.lines: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        is_skipped = self.is_skipping and isinstance(error, ValueError)
        if is_skipped:
            self.lines.append(str(error))
        return is_skipped

    def check(self, total: int) -> None:
        """Raises ValueError if most of a split's examples would be left out."""
        if len(self.lines) > MOST_SKIPPED * total:
            raise ValueError(
                f"{len(self.lines)} of {total} examples cannot be used, with "
                "config.data.on_fault=skip at most half may be left out; the first: "
                f"{self.lines[0]}"
            )


def check_finite(source: Source, index: int, record: Record, stored: Mapping[str, Any]) -> None:
    """Raises ValueError if the values of a record are not finite once stored as float32."""
    for name in ("images", "sources"):
        if name not in stored or np.isfinite(stored[name]).all():
            continue
        values = record.image if name == "images" else record.source
        bad = int(np.size(values) - np.isfinite(values).sum())
        reason = (
            f"{bad} of {np.size(values)} values are NaN or infinite"
            if bad
            else "values beyond the range of float32"
        )
        raise ValueError(
            f"{locate(source, index, record)}: {reason}; images must be finite: repair or remove it"
        )


def locate(source: Source, index: int, record: Record) -> str:
    """A record's name for messages, with its file and position if the source knows them."""
    place = source.where(index) if hasattr(source, "where") else record.name
    return place if record.name in place else f"{place} ({record.name})"
