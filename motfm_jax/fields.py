"""Fields of a config: a default, and the rule that its values keep."""

import difflib
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

LARGEST = 2**32  # whole numbers stay below it, since seeds and counts have 32 bits


class Field(NamedTuple):
    """One field.

    Attributes:
      default: its value unless a config sets it; every value has this type.
      rule: value -> what it needs, in words; "" for a value that is right.
      fixed: trained weights mean something else under another value.
      kind: of its values; None for the type of the default.
    """

    default: Any
    rule: Callable[[Any], str] = lambda value: ""
    fixed: bool = False
    kind: type | None = None

    def fix(self) -> "Field":
        """The same field, marked `fixed`."""
        return self._replace(fixed=True)


def choice(default: str, *others: str) -> Field:
    """One of some words."""
    return Field(default, lambda value: one_of(value, (default, *others)))


def one_of(value: Any, options: Collection[str]) -> str:
    """The rule of `choice`, for options that are known only when a value is checked."""
    if value in options:
        return ""
    close = difflib.get_close_matches(str(value), options, n=1)
    return f"use one of {', '.join(options)}" + (f"; did you mean {close[0]!r}?" if close else "")


def check_choice(name: str, value: Any, options: Collection[str]) -> None:
    """Raises ValueError if the field `name` is not one of the options."""
    needed = one_of(value, options)
    if needed:
        raise ValueError(f"config.{name}={value!r}: {needed}")


def number(default: float, low: float = 0, high: float = math.inf, *, above: bool = False) -> Field:
    """A number from low to high.

    Args:
      default: an int admits whole numbers below `LARGEST` alone.
      low, high: the least and the greatest value.
      above: the least value itself is too small.
    """
    if isinstance(default, int):
        high = min(high, LARGEST - 1)
    bound = f"above {low:g}" if above else f"of {low:g} or more"
    bound += f", at most {high:.12g}" if math.isfinite(high) else ""

    def rule(value: Any) -> str:
        fits = not isinstance(value, bool) and low <= value <= high and value < math.inf
        return "" if fits and not (above and value == low) else f"needs a number {bound}"

    return Field(default, rule)


def positive(default: float, high: float = math.inf) -> Field:
    """A number above 0."""
    return number(default, 0, high, above=True)


def each_level(default: int, low: int, high: int = LARGEST - 1) -> Field:
    """A whole number from low to high for all levels of a network, or a tuple with one for each."""

    def rule(value: Any) -> str:
        values = value if isinstance(value, list | tuple) and value else (value,)
        fits = all(type(one) is int and low <= one <= high for one in values)
        return "" if fits else f"give a whole number from {low} to {high}, or one for each level"

    return Field(default, rule, kind=object)


def by_level(value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """The value of such a field at each level, the finest first."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * levels


def are_names(value: Any) -> str:
    """The rule of one name or a tuple of names."""
    parts = value if isinstance(value, tuple) and value else (value,)
    fit = all(isinstance(part, str) for part in parts)
    return "" if fit else 'give a name, or several such as "T1w,FLAIR" or ("T1w", "FLAIR")'


def numbers(
    default: Sequence, count: int = 0, kind: type | tuple = (int, float), above: float = -math.inf
) -> Field:
    """A tuple of numbers of a kind; `count` of them, one or more where it is 0."""
    return Field(tuple(default), lambda values: are_numbers(values, count, kind, above))


def are_numbers(
    values: Sequence, count: int = 0, kind: type | tuple = (int, float), above: float = -math.inf
) -> str:
    """The rule of `numbers`, for counts that depend on other fields."""
    fit = all(
        isinstance(value, kind) and not isinstance(value, bool) and above < value < math.inf
        for value in values
    )
    if fit and values and (not count or len(values) == count):
        return ""
    numbers = "whole numbers" if kind is int else "numbers"
    bound = f", each above {above}" if math.isfinite(above) else ""
    return f"give {count or 'one or more'} {numbers}{bound}"
