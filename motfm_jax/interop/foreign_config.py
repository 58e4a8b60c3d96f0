"""The YAML config of another project: every field is asked for by name, or refused."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

MOST_ALIASES = 24  # of a YAML; each may stand for many others, so that few make gigabytes
MOST = 2**20  # channels, classes, epochs, ...: more is no network of this world


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a file.

    Raises:
      ValueError: no such file, not YAML with a `model_args`, or too many aliases.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give the original's YAML config")
    try:
        text = Path(path).read_text()
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
        values = yaml.safe_load(text) if aliases <= MOST_ALIASES else None
    except Exception as error:  # a tag such as !!bool of anything else raises what it likes
        raise ValueError(f"{path}: is not YAML ({' '.join(str(error).split())[:200]})") from error
    if aliases > MOST_ALIASES:
        raise ValueError(
            f"{path}: {aliases} aliases (*name), at most {MOST_ALIASES} are read; write the values "
            "in their places"
        )
    if not isinstance(values, dict) or not isinstance(values.get("model_args"), dict):
        raise ValueError(
            f"{path}: has no model_args; give the config that the checkpoint was trained with"
        )
    return values


class Fields:
    """The fields "section.name" of a config, each asked for once; what is left is unknown.

    Args:
      values: sections of fields.
      sections: those there may be.
      where: the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], sections: Sequence[str], where: str):
        self.where = where
        self.left: dict[str, Any] = {}
        for section, fields in values.items():
            if section not in sections:
                raise ValueError(
                    f"{where}: {section}: unknown section; known are {', '.join(sections)}"
                )
            if not isinstance(fields, Mapping):
                raise ValueError(f"{where}: {section} is {fields!r}, fields needed")
            self.left.update({f"{section}.{name}": value for name, value in fields.items()})

    def take(self, name: str, missing: Any, fits: Callable[[Any], bool], wanted: str) -> Any:
        value = self.left.pop(name, missing)
        if not fits(value):
            raise ValueError(f"{self.where}: {name}={value!r}: {wanted}")
        return value

    def number(self, name: str, missing: float = 0, least: float = 0) -> float:
        return self.take(
            name,
            missing,
            lambda value: is_number(value) and least <= value < math.inf,
            f"a number from {least} needed (YAML reads 1e-4 as text: write 1.0e-4)",
        )

    def whole(self, name: str, missing: int | None = None, least: int = 1) -> int:
        return self.take(
            name,
            missing,
            lambda value: type(value) is int and least <= value <= MOST,
            f"a whole number from {least} to {MOST} needed",
        )

    def switch(self, name: str, missing: bool = False) -> bool:
        return self.take(
            name, missing, lambda value: isinstance(value, bool), "true or false needed"
        )

    def only(self, name: str, values: Sequence[Any], why: str) -> Any:
        """A field that has to have one of these values, or to be missing where the first does."""
        return self.take(name, values[0], lambda value: value in values, why)

    def each_level(self, name: str, levels: int, missing: Any, kind: type) -> list:
        """One value a level, or one for all."""
        value = self.left.pop(name, missing)
        values = list(value) if isinstance(value, Sequence) else [value] * levels
        if len(values) != levels or any(type(entry) is not kind for entry in values):
            raise ValueError(
                f"{self.where}: {name}={value!r}: one {kind.__name__} for each of the {levels} "
                "levels needed"
            )
        return values

    def ignore(self, section: str, names: Sequence[str]) -> None:
        """Fields that may be there and change nothing."""
        for name in names:
            self.left.pop(f"{section}.{name}", None)

    def refuse_rest(self) -> None:
        """Raises ValueError, naming them, where fields are left."""
        if self.left:
            raise ValueError(
                f"{self.where}: {', '.join(self.left)}: unknown; remove what changes neither the "
                "network nor its data or training"
            )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
