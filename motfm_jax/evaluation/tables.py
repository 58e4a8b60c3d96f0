"""Results saved row by row, and tables of them in Markdown, CSV and HTML."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence, Set
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.evaluation.intervals import SUFFIX
from motfm_jax.io.folders import check_same, read_json, whole_file, write_json

Rows = Sequence[Mapping[str, Any]]
STD = "_std"


class Results:
    """Rows in a JSON file, each saved as soon as it is known. A later call continues with them.

    Args:
      path: the JSON file.
      settings: everything else the rows depend on, JSON-able.
      overwrite: replace whatever is there.

    Raises:
      ValueError: the file holds results of other settings, or something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool = False):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if not path.exists() or overwrite:
            return
        saved = read_json(path, "give another --out")
        try:
            before, self.rows = dict(saved["settings"]), [dict(row) for row in saved["rows"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: holds no such results; give another --out") from error
        check_same(path, before, self.settings)

    def has(self, **key: Any) -> bool:
        """Whether a row with these entries is there."""
        return self._find(key) is not None

    def add(self, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Adds a row, or replaces the one with this key, and writes the file. NaN and inf become
        null."""
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {**key, **values}.items()
        }
        place = self._find(key)
        if place is None:
            self.rows.append(row)
        else:
            self.rows[place] = row
        write_json(self.path, {"settings": self.settings, "rows": self.rows})

    def _find(self, key: Mapping[str, Any]) -> int | None:
        for place, row in enumerate(self.rows):
            if all(row.get(name) == value for name, value in key.items()):
                return place
        return None


def mean_and_spread(rows: Rows, group: str, measures: Sequence[str]) -> list[dict[str, Any]]:
    """One row per group, with the mean and the sample standard deviation (n - 1) of each measure.

    Both are None if a row lacks the measure; the deviation of a single row is None.
    """
    table = []
    for name in dict.fromkeys(row[group] for row in rows):
        entry: dict[str, Any] = {group: name}
        own = [row for row in rows if row[group] == name]
        for measure in measures:
            values: list[Any] = [row.get(measure) for row in own]
            known = None not in values
            entry[measure] = float(np.mean(values)) if known else None
            entry[measure + STD] = (
                float(np.std(values, ddof=1)) if known and len(values) > 1 else None
            )
        table.append(entry)
    return table


class Table(NamedTuple):
    """Rows to print.

    Attributes:
      caption: what they hold; "" for none.
      rows: values by title of their column; "x_std" stands beside "x" as ±, "x_interval" in
        brackets, None is "n/a".
      best: (row, column) of the values to stress.
      meanings: of columns, by title; shown in HTML alone, as are the links.
      links: where the value of (row, column) leads.
    """

    caption: str
    rows: Rows
    best: Set[tuple[int, str]] = frozenset()
    meanings: Mapping[str, str] = MappingProxyType({})
    links: Mapping[tuple[int, str], str] = MappingProxyType({})

    def markdown(self) -> str:
        titles = [title for title in self._names() if not title.endswith((STD, SUFFIX))]
        lines = [self.caption, ""] if self.caption else []
        lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for cells in self._cells(titles, "**{}**", lambda text: text.replace("|", "\\|")):
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        titles = [title for title in self._names() if not title.endswith((STD, SUFFIX))]
        head = "".join(map(self._head, titles))
        body = ""
        for number, cells in enumerate(self._cells(titles, "<b>{}</b>", escape)):
            shown = [self._linked(number, *each) for each in zip(titles, cells)]
            values = "".join(f"<td>{each}</td>" for each in shown[1:])
            body += f'<tr><th scope="row">{shown[0]}</th>{values}</tr>\n'
        return (
            f"<p>{escape(self.caption)}</p>\n"
            f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>\n"
        )

    def _linked(self, row: int, title: str, cell: str) -> str:
        """A cell's text, in a link that says on hover what its column means. The Tab key stops at
        those of first cells alone: there are hundreds of others."""
        if (row, title) not in self.links:
            return cell
        meaning = escape(self.meanings.get(title, ""))
        says = f' title="{meaning}"' if meaning else ""
        says += ' tabindex="-1"' if title else ""
        return f'<a href="{escape(self.links[row, title])}"{says}>{cell}</a>'

    def _head(self, title: str) -> str:
        meaning = escape(self.meanings.get(title, ""))
        shown = f'<abbr title="{meaning}">{escape(title)}</abbr>' if meaning else escape(title)
        return f'<th scope="col">{shown}</th>' if title else "<td></td>"

    def leading_to(self, places: Set[str]) -> "Table":
        """The table without the links that lead elsewhere."""
        links = {cell: place for cell, place in self.links.items() if place in places}
        return self._replace(links=links)

    def write(self, path: Path) -> None:
        """Writes path.md and path.csv; the second holds the numbers unrounded, "x_std" apart."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self._names(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        for suffix, content in ((".md", self.markdown()), (".csv", text.getvalue())):
            with whole_file(path.with_suffix(suffix)) as draft:
                draft.write_text(content)

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def _cells(self, titles: Sequence[str], stress: str, quote: Callable = str) -> list[list[str]]:
        return [
            [
                stress.format(quote(_text(row, title)))
                if (number, title) in self.best
                else quote(_text(row, title))
                for title in titles
            ]
            for number, row in enumerate(self.rows)
        ]


def _text(row: Mapping[str, Any], title: str) -> str:
    value, spread, ends = (row.get(title + end) for end in ("", STD, SUFFIX))
    if value is None:
        return "n/a"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.4g}" + ("" if spread is None else f" ± {spread:.2g}")
    return text if ends is None else f"{text} [{ends[0]:.4g}, {ends[1]:.4g}]"
