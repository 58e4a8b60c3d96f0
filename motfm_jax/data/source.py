"""`Record`, the protocol `Source`, and the checks of records."""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np

from motfm_jax.data import geometry, labels, orientation
from motfm_jax.data.labels import Labels
from motfm_jax.data.nifti import finite

MOST_SKIPPED = 0.5  # of the examples of a split
MOST_CHANNELS = 16  # a last axis that is longer is an axis of space
UNNAMED_CHANNELS = 4  # more, as many as another axis is long, may be an axis of space too


class NoSplit(ValueError):
    """The data set has no such split, or nothing in it; the data may be whole all the same."""


class Record(NamedTuple):
    """One example.

    Attributes:
      image: [*S] or [*S, C], raw intensities in any numeric type.
      mask: [*S], the values of the files, or None.
      label: class index (any number from 0 where the source has no `classes`), or None.
      patient: no patient may be in two splits; "" if each image is a patient.
      name: for messages and tables; "" for the position in the split, "example 0".
      source: like `image`: what `image` is to be made from; None if there is no pair.
      spacing_mm: one number per axis of S, or None.
      affine: [4, 4], array index to millimetres, or None.
      extra: further JSON-able facts, such as "view" or "quality".
      filled: how many NaN or infinite values `nifti.finite` has replaced.
      lost: values of the mask of which resizing left nothing.
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
    filled: int = 0
    lost: Sequence[int] = ()

    @property
    def meta(self) -> dict[str, Any]:
        """The JSON-able facts: "name", "patient", `extra`, and if known "spacing_mm", "affine",
        "filled", "lost_labels"."""
        meta = {"name": self.name, "patient": self.patient or self.name, **(self.extra or {})}
        if self.spacing_mm is not None:
            meta["spacing_mm"] = [float(step) for step in self.spacing_mm]
        if self.affine is not None:
            meta["affine"] = np.asarray(self.affine, float).tolist()
        if self.filled:
            meta["filled"] = self.filled
        if len(self.lost):
            meta["lost_labels"] = list(self.lost)
        return meta


class Source(Protocol):
    """The examples of one split: anything with a length whose items are records.

    Optional attributes:
      classes: names by index; () if there are no classes. Default: the numbers found in the
        training examples.
      mask_labels: names of the mask labels, background first; () if there are no masks. Default:
        the values found in the training examples.
      label_values: the value of each in the masks. Default: 0, 1, 2, ...
      channel_names: of the images' channels; ("red", "green", "blue") are shown in colour.
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

    Images become [*S, C] and masks [*S] uint8, numbered by the labels (values as they are where
    nothing is declared). Volumes with an affine are brought to RAS+ axes. An image of another size
    is resampled like a file, see `geometry.fit`. Names default to the position in the split.

    Args:
      source: see `Source`.
      size: S.
      fit: "pad" or "stretch".
      named: the mask labels; None for those that the source declares.
      nan: see `nifti.finite`.
      numbers: the classes where the source names none: the numbers that stand for them; () for
        those that occur.
      turns: bring volumes to RAS+ axes.
    """

    def __init__(
        self,
        source: Source,
        size: Sequence[int],
        fit: str,
        named: Labels | None = None,
        nan: str = "",
        numbers: Sequence[str] = (),
        turns: bool = True,
    ):
        self.source = source
        self.size, self.fit, self.nan, self.turns = tuple(size), fit, nan, turns
        classes = getattr(source, "classes", None)
        self.numbers = tuple(numbers) if classes is None else ()
        self.classes = self.numbers or None if classes is None else tuple(map(str, classes))
        self.labels = named or labels.declared(source)
        self.mask_labels = None if self.labels is None else self.labels.names
        self.label_values = () if self.labels is None else self.labels.gaps
        self.channel_names = tuple(map(str, getattr(source, "channel_names", ())))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        if not isinstance(record, Record):
            raise ValueError(f"example {index} is a {type(record).__name__}, a Record needed")
        record = record._replace(name=record.name or f"example {index}")
        where = locate(self.source, index, record)
        image, source = (
            None if values is None else self._channels_last(values, where)
            for values in (record.image, record.source)
        )
        mask = record.mask
        if mask is not None:
            number = self.labels.number if self.labels else labels.to_numbers
            mask = number(np.asarray(mask), where)
        filled = record.filled
        try:
            image, count = finite(image, self.nan)
            filled += count
            if source is not None:
                source, count = finite(source, self.nan)
                filled += count
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        label = self._label(record.label, where)
        record = record._replace(image=image, source=source, mask=mask, label=label, filled=filled)
        if record.affine is not None and len(self.size) == 3 and self.turns:
            record = _turned(record, where)
            image, source = record.image, record.source
        is_placed = image.shape[:-1] == self.size
        if is_placed or (source is not None and source.shape != image.shape):
            return record  # `check_record` refuses the second
        return self._resample(record, where)

    def _label(self, label: Any, where: str) -> int | None:
        number = _index(label, where)
        if number is None or not self.numbers:
            return number
        if str(number) not in self.numbers:
            raise ValueError(
                f"{where}: class {number}, but the training examples have only "
                f"{', '.join(self.numbers)}; give both sources the same `classes`"
            )
        return self.numbers.index(str(number))

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
            lost=[*record.lost, *self._in_files(resized.lost)],
        )

    def _in_files(self, numbers: Sequence[int]) -> list[int]:
        """The files' values of label numbers."""
        return [self.label_values[n] if self.label_values else n for n in numbers]

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
        channels = image.shape[-1]
        if channels > UNNAMED_CHANNELS and channels in image.shape[:-1] and not self.channel_names:
            raise ValueError(
                f"{where}: image {image.shape} with config.data.size={self.size}: is it a volume, "
                f"or are these {channels} channels? give a size of {rank + 1} numbers, or the data "
                "set its `channel_names`"
            )
        return image

    def where(self, index: int) -> str:
        """The file of a record, or its position."""
        return self.source.where(index) if hasattr(self.source, "where") else f"example {index}"

    def fingerprint(self) -> dict[str, Any]:
        own = self.source.fingerprint()
        size = list(self.size)
        return {"source": own, "size": size, "fit": self.fit, "nan": self.nan, "turns": self.turns}

    def source_files(self) -> list[Path]:
        return self.source.source_files() if hasattr(self.source, "source_files") else []


def _index(label: Any, where: str) -> int | None:
    try:
        return None if label is None else operator.index(label)
    except TypeError:
        raise ValueError(
            f"{where}: label {label!r}, a whole number needed: an index into classes"
        ) from None


def _turned(record: Record, where: str) -> Record:
    """A record of volumes whose image, mask and source have RAS+ axes."""
    affine, shape = np.asarray(record.affine, float), record.image.shape[:3]
    if affine.shape != (4, 4) or not abs(np.linalg.det(affine)) > 0:
        raise ValueError(f"{where}: affine {affine.tolist()}, an invertible 4 x 4 matrix needed")
    parts = {"image": record.image, "mask": record.mask, "source": record.source}
    turned = {
        name: orientation.to_ras(array, affine)[0]
        for name, array in parts.items()
        if array is not None and array.shape[:3] == shape  # `check_record` refuses others
    }
    spacing = record.spacing_mm
    if spacing is not None:
        spacing = [spacing[axis] for axis in orientation.ras_order(affine)]
    affine = orientation.to_ras(record.image, affine)[1]
    return record._replace(**turned, affine=affine, spacing_mm=spacing)


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


def locate(source: Source, index: int, record: Record) -> str:
    """A record's name for messages, with its file and position if the source knows them."""
    place = source.where(index) if hasattr(source, "where") else record.name
    return place if record.name in place else f"{place} ({record.name})"
