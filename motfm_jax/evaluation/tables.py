"""Results that are kept one by one, and the Markdown and CSV tables made of them."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.io.files import whole_file

Rows = Sequence[Mapping[str, Any]]


class Results:
    """Rows in a JSON file, each written as soon as it is known; a later call goes on with them.

    Args:
      path: of the file.
      settings: everything else the rows depend on, JSON-able.
      overwrite: begin anew, whatever is there.

    Raises:
      ValueError: the file holds results of other settings, or something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool = False):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if not path.exists() or overwrite:
            return
        try:
            kept = json.loads(path.read_text())
            before, self.rows = kept["settings"], kept["rows"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: holds no such results; give another --out") from error
        differing = [
            name for name in sorted(before.keys() | self.settings.keys())
            if before.get(name) != self.settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"{path}: holds results of other {', '.join(differing)}; --overwrite replaces "
                "them, or give another --out")

    def has(self, **key: Any) -> bool:
        """Whether a row with these entries is there."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Adds a row and writes the file; a number that is not finite becomes null."""
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {**key, **values}.items()
        }
        self.rows.append(row)
        with whole_file(self.path) as draft:
            draft.write_text(
                json.dumps({"settings": self.settings, "rows": self.rows}, indent=2) + "\n")


def mean_and_spread(rows: Rows, group: str, measures: Sequence[str]) -> list[dict[str, Any]]:
    """One row a group: of each measure the mean and the sample standard deviation (n - 1).

    A measure that one of the rows lacks has neither; a single row has no spread.
    """
    table = []
    for name in dict.fromkeys(row[group] for row in rows):
        entry: dict[str, Any] = {group: name}
        own = [row for row in rows if row[group] == name]
        for measure in measures:
            values = [row.get(measure) for row in own]
            known = None not in values
            entry[measure] = float(np.mean(values)) if known else None
            entry[f"{measure}_std"] = (
                float(np.std(values, ddof=1)) if known and len(values) > 1 else None)
        table.append(entry)
    return table


def write(path: Path, table: Rows, caption: str = "") -> None:
    """Writes path.md and path.csv; "x_std" stands beside "x" as ± in the first."""
    names = list(dict.fromkeys(name for row in table for name in row))
    shown = [name for name in names if not name.endswith("_std")]
    lines = [caption, ""] if caption else []
    lines += [f"| {' | '.join(shown)} |", "|---" * len(shown) + "|"]
    for row in table:
        lines.append(f"| {' | '.join(_cell(row, name) for name in shown)} |")
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    for suffix, content in ((".md", "\n".join(lines) + "\n"), (".csv", text.getvalue())):
        with whole_file(path.with_suffix(suffix)) as draft:
            draft.write_text(content)


def _cell(row: Mapping[str, Any], name: str) -> str:
    value, spread = row.get(name), row.get(f"{name}_std")
    if value is None:
        return "n/a"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" + ("" if spread is None else f" ± {spread:.2g}")
