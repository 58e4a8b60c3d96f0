"""Raw intensities to the networks' range, and back."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from motfm_jax.fields import are_numbers

MODES, SCOPES = ("none", "minmax", "percentile", "zscore"), ("dataset", "sample")

Bound = float | tuple[float, ...]  # of all channels, or of each


@dataclasses.dataclass(frozen=True)
class Intensity:
    """An affine map that sends raw [low, high] to `range`.

    Per mode, [low, high] is: minmax, the smallest and largest value; percentile, two percentiles,
    and values beyond them are clipped, so that the inverse is exact only inside; zscore, mean and
    mean + standard deviation, sent to (0, 1) whatever the range; window, two given values, clipped
    as percentiles are; none, the identity.
    With scope "dataset" they come from all training images together; with "sample" every image
    has its own, and `low` and `high` hold the medians over the training images, which `invert`
    uses because a generated image has none. Each of several channels has its own map.

    Attributes:
      mode: none | minmax | percentile | zscore | window.
      scope: dataset | sample.
      range: where low and high go.
      percentiles: of mode percentile, in per cent.
      low, high: raw intensities, see above: a number, or of several channels one each.
    """

    mode: str
    scope: str
    range: tuple[float, float]
    percentiles: tuple[float, float]
    low: Bound
    high: Bound

    @classmethod
    def fit(
        cls,
        images: Sequence[np.ndarray] | np.ndarray,
        mode: str = "minmax",
        scope: str = "dataset",
        range: Sequence[float] = (-1.0, 1.0),
        percentiles: Sequence[float] = (0.5, 99.5),
        names: Sequence[str] = (),
        shared: bool = False,
    ) -> "Intensity":
        """Statistics of the training images, read one at a time (float64 sums; percentiles exact).

        Args:
          images: [*S, C] each, finite; iterated up to twice.
          names: of the images, for messages.
          shared: one map for all channels, as in runs of 0.1.0.

        Raises:
          ValueError: unknown mode or scope, or an image (or the whole set) that is constant and so
            cannot be scaled.
        """
        if mode not in MODES or scope not in SCOPES:
            raise ValueError(
                f"intensity mode {mode!r}, scope {scope!r}: use {', '.join(MODES)} "
                "with dataset or sample"
            )
        goal = (0.0, 1.0) if mode in ("none", "zscore") else (float(range[0]), float(range[1]))
        blank = cls(mode, scope, goal, (float(percentiles[0]), float(percentiles[1])), 0.0, 1.0)
        if mode == "none":
            return blank
        channels = next(iter(images)).shape[-1]
        if channels > 1 and not shared:
            blank = dataclasses.replace(blank, low=(0.0,) * channels, high=(1.0,) * channels)
        if scope == "sample":
            names = names or [f"image {index}" for index in np.arange(len(images))]
            bounds = [blank._bounds(np.asarray(image), name) for image, name in zip(images, names)]
            low, high = np.median(np.array(bounds, np.float64), axis=0)
        elif isinstance(blank.low, tuple):
            parts = [
                [np.asarray(image)[..., each] for image in images] for each in np.arange(channels)
            ]
            bounds = [_DATASET[mode](part, blank.percentiles) for part in parts]
            low, high = np.array(bounds, np.float64).T
        else:
            low, high = _DATASET[mode](images, blank.percentiles)
        _refuse_constant(low, high, "the training images together", mode)
        return dataclasses.replace(blank, low=_bound(low), high=_bound(high))

    @classmethod
    def of_window(cls, window: Sequence[float], range: Sequence[float]) -> "Intensity":
        """Fixed bounds, the same for all channels."""
        (low, high), goal = map(float, window), (float(range[0]), float(range[1]))
        return cls("window", "dataset", goal, (0.5, 99.5), low, high)

    def apply(self, image, name: str = "image"):
        """Raw [*S, C] to scaled float32; one image at a time where the scope is "sample".

        Args:
          image: numpy or JAX array of any real type.
          name: of the record, for messages.

        Raises:
          ValueError: scope "sample" and a (numpy) image too constant to scale.
        """
        if self.mode == "none":
            return image.astype(np.float32)
        low, high = self._raw if self.scope == "dataset" else self._bounds(image, name)
        start, stop = self.range
        factor = _by_channel((stop - start) / (high - low), image)
        scaled = (image.astype(np.float32) - _by_channel(low, image)) * factor + start
        scaled = scaled.clip(start, stop) if self.mode in ("percentile", "window") else scaled
        return scaled.astype(np.float32)

    def invert(self, image):
        """Scaled to raw, float32, any leading axes; numpy or JAX arrays, inside jit too."""
        if self.mode == "none":
            return image.astype(np.float32)
        (low, high), (start, stop) = self._raw, self.range
        scale = _by_channel((high - low) / (stop - start), image)
        return (image.astype(np.float32) - start) * scale + _by_channel(low, image)

    def span(self, images: Sequence[np.ndarray] | np.ndarray) -> tuple[Bound, Bound]:
        """The least and the greatest intensity of training images [*S, C] once scaled and restored,
        of several channels one each; without images [low, high]."""
        if self.mode not in ("none", "zscore") or not len(images):
            return self.low, self.high
        restored = (self.invert(self.apply(np.asarray(image))) for image in images)
        flat = (image.reshape(-1, image.shape[-1]) for image in restored)
        extremes = np.array([(image.min(axis=0), image.max(axis=0)) for image in flat])
        return _bound(extremes[:, 0].min(axis=0)), _bound(extremes[:, 1].max(axis=0))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Intensity":
        """The scaling of a run.

        Raises:
          KeyError, TypeError: this is not a scaling.
        """
        pairs = {name: tuple(values[name]) for name in ("range", "percentiles")}
        return cls(
            **{**values, **pairs, "low": _bound(values["low"]), "high": _bound(values["high"])}
        )

    @property
    def words(self) -> str:
        """low .. high as text."""
        return f"{in_words(self.low)} .. {in_words(self.high)}"

    @property
    def _raw(self):
        """[low, high] of the data set: numbers, or arrays [C]."""
        return (
            (np.array(self.low), np.array(self.high))
            if isinstance(self.low, tuple)
            else (self.low, self.high)
        )

    def _bounds(self, image, name: str):
        """[low, high] of one image: numbers, or arrays [C]."""
        image = image.astype(np.float32)
        axes = tuple(np.arange(image.ndim - 1)) if isinstance(self.low, tuple) else None
        if self.mode == "minmax":
            low, high = image.min(axis=axes), image.max(axis=axes)
        elif self.mode == "zscore":
            low = image.mean(axis=axes)
            high = low + image.std(axis=axes)
        else:
            percentile = image.__array_namespace__().percentile
            low, high = percentile(image, np.array(self.percentiles, np.float32), axis=axes)
        if isinstance(image, np.ndarray):  # inside jit there is nothing to look at
            low, high = (low, high) if axes else (float(low), float(high))
            _refuse_constant(low, high, name, self.mode)
        return low, high


def window_fault(bounds: Sequence[float]) -> str:
    """What is wrong with config.data.intensity.window; "" for nothing."""
    needed = are_numbers(bounds, count=2) if len(bounds) else ""
    return needed or (
        "the first must be the lower" if len(bounds) and bounds[0] >= bounds[1] else ""
    )


def fill_fault(value: float | str) -> str:
    """What is wrong with config.data.intensity.nan; "" for nothing."""
    try:
        return "" if value == "" or np.isfinite(float(value)) else "a finite number needed"
    except (TypeError, ValueError):
        return 'a number needed, such as 0, or ""'


def in_words(bound: Any) -> str:
    """A bound as text: "-160", or "(0, 12.5)" of two channels."""
    return f"{bound:g}" if np.ndim(bound) == 0 else f"({', '.join(f'{each:g}' for each in bound)})"


def _bound(values: Any) -> Bound:
    """A number of one channel, a tuple of several."""
    values = np.asarray(values, np.float64)
    return float(values.item()) if values.size == 1 else tuple(values.tolist())


def _by_channel(values, image):
    """A number, or one of each channel along the last axis of an image."""
    if np.ndim(values) == 0:
        return values
    return values.astype(np.float32).reshape((1,) * (image.ndim - 1) + (-1,))


def _refuse_constant(low, high, name: str, mode: str) -> None:
    for channel, (least, most) in enumerate(zip(np.atleast_1d(low), np.atleast_1d(high))):
        if most - least > np.finfo(np.float32).tiny:  # to divide by less would overflow
            continue
        of, cure = "", "remove it"
        if np.ndim(low):
            of, cure = f" of channel {channel + 1} of {len(low)}", "leave the channel out"
        raise ValueError(
            f"{name}: intensities{of} from {least:g} to {most:g} leave nothing to scale by {mode}; "
            f"{cure}, or set config.data.intensity.scope=dataset, wider percentiles or mode=none"
        )


def _minmax(images: Iterable[np.ndarray], _) -> tuple[float, float]:
    extremes = [(image.min(), image.max()) for image in images]
    return float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))


def _zscore(images: Iterable[np.ndarray], _) -> tuple[float, float]:
    """Mean and mean + std, by merging each image's moments (Chan et al. 1979)."""
    count, mean, squares = 0, 0.0, 0.0
    for image in images:
        image_mean = float(np.mean(image, dtype=np.float64))
        image_squares = float(np.var(image, dtype=np.float64)) * image.size
        shift, total = image_mean - mean, count + image.size
        squares += image_squares + shift**2 * count * image.size / total
        mean += shift * image.size / total
        count = total
    return mean, mean + (squares / count) ** 0.5


def _percentile(images: Sequence[np.ndarray], percentiles) -> tuple[float, float]:
    """numpy's "linear" percentiles of all values together, exact, in bounded memory.

    A radix selection: every value becomes 32 bits that sort as it does; a first pass counts their
    upper halves, a second the lower halves inside the few upper halves that matter. Integers wider
    than 32 bits are rounded to float32 first.
    """
    counts = sum(np.bincount(_halves(image)[0], minlength=1 << 16) for image in images)
    total = np.cumsum(counts)
    positions = [percent / 100 * (total[-1] - 1) for percent in percentiles]
    ranks = sorted({int(f(position)) for position in positions for f in (np.floor, np.ceil)})
    uppers = {rank: int(np.searchsorted(total, rank, side="right")) for rank in ranks}
    inside = {upper: np.zeros(1 << 16, np.int64) for upper in set(uppers.values())}
    for image in images:
        upper_half, lower_half = _halves(image)
        for upper, histogram in inside.items():
            histogram += np.bincount(lower_half[upper_half == upper], minlength=1 << 16)
    dtype = _sortable_dtype(next(iter(images)).dtype)
    values = {}
    for rank, upper in uppers.items():
        before = total[upper] - counts[upper]
        lower = int(np.searchsorted(np.cumsum(inside[upper]), rank - before, side="right"))
        values[rank] = _from_bits((upper << 16) | lower, dtype)
    low, high = (
        values[int(position)]
        + (position - int(position)) * (values[int(np.ceil(position))] - values[int(position)])
        for position in positions
    )
    return low, high


_DATASET = {"minmax": _minmax, "zscore": _zscore, "percentile": _percentile}


def _sortable_dtype(dtype: np.dtype) -> type:
    narrow = np.issubdtype(dtype, np.integer) and np.can_cast(dtype, np.int32)
    return np.int32 if narrow else np.float32


def _halves(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower 16 of 32 bits that, read as an unsigned number, sort as the values do."""
    bits = np.ravel(image).astype(_sortable_dtype(image.dtype)).view(np.uint32)
    sign = np.uint32(1 << 31)
    if _sortable_dtype(image.dtype) is np.int32:
        bits = bits ^ sign
    else:  # negative floats sort backwards: flip all their bits
        bits = np.where(bits & sign, ~bits, bits | sign)
    return (bits >> 16).astype(np.intp), (bits & 0xFFFF).astype(np.intp)


def _from_bits(bits: int, dtype: type) -> float:
    """The value whose `_halves` make up `bits`."""
    sign = 1 << 31
    if dtype is np.int32:
        return float(bits - sign)
    raw = bits ^ sign if bits & sign else ~bits & 0xFFFFFFFF
    return float(np.uint32(raw).view(np.float32))
