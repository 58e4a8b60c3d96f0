"""The paper's tables, from measured rows."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from motfm_jax.io.files import whole_file
from motfm_jax.report.measure import FLOOR
from motfm_jax.report.plan import SYNTHETIC, SYSTEMS, Plan

NOT_RUN = "not run"
Rows = Sequence[Mapping[str, Any]]


class Measure(NamedTuple):
    """A group of columns: its title, its key in the rows, whether less is better (None: neither).
    """

    title: str
    key: str
    less: bool | None


class Table(NamedTuple):
    """A table as it is shown.

    Attributes:
      name: of its files.
      caption: what it holds.
      header: titles of the columns.
      rows: cells: numbers, text, or None for what is not known.
      best: (row, column) of the cells to stress.
    """

    name: str
    caption: str
    header: list[str]
    rows: list[list[Any]]
    best: set[tuple[int, int]] = frozenset()

    def markdown(self) -> str:
        lines = [self.caption, ""]
        lines += [f"| {' | '.join(self.header)} |", "|---" * len(self.header) + "|"]
        for cells in self._shown("**{}**"):
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        head = "".join(f"<th>{escape(title)}</th>" for title in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
            for cells in self._shown("<b>{}</b>", escape))
        return f"<p>{escape(self.caption)}</p>\n<table><tr>{head}</tr>\n{body}</table>\n"

    def write(self, folder: Path) -> None:
        """Writes NAME.md and NAME.csv; the second holds the numbers unrounded."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        for suffix, content in ((".md", self.markdown()), (".csv", text.getvalue())):
            with whole_file(folder / (self.name + suffix)) as draft:
                draft.write_text(content)

    def _shown(self, stress: str, quote=str) -> list[list[str]]:
        return [
            [stress.format(quote(_text(cell))) if (row, column) in self.best else quote(_text(cell))
             for column, cell in enumerate(cells)]
            for row, cells in enumerate(self.rows)
        ]  # fmt: skip


def _text(cell: Any) -> str:
    if cell is None:
        return "n/a"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def generation(
    name: str, caption: str, plan: Plan, rows: Rows, systems: Sequence[str],
    measures: Sequence[Measure],
) -> Table:  # fmt: skip
    """A row a system, a group of columns a measure, in it one a number of steps.

    Args:
      name, caption: of the table.
      plan: whose steps and spacings it has.
      rows: of `measure.measure`.
      systems: all rows of the paper's table; those without numbers are marked so.
      measures: those that some row holds are shown.
    """
    shown = [measure for measure in measures if any(row.get(measure.key) is not None
                                                    for row in rows)]  # fmt: skip
    header = ["", *(f"{each.title} {steps}" for each in shown for steps in plan.steps)]
    body, group = [], []  # a group: rows of one condition, in which the best is stressed
    for system in systems:
        own = [row for row in rows if row["system"] == system]
        spacings = dict.fromkeys(row["spacing"] for row in own) or [None]
        for spacing in spacings:
            title = f"{system} ({spacing})" if spacing else system
            cells = [title]
            for each in shown:
                for steps in plan.steps:
                    found = [row.get(each.key) for row in own
                             if row["spacing"] == spacing and row["steps"] == steps]  # fmt: skip
                    alone = system in SYSTEMS and SYSTEMS[system].method == "spade"
                    unknown = "" if alone and own else NOT_RUN
                    cells.append(found[0] if found else unknown)
            body.append(cells)
            group.append(SYSTEMS[system].cond)
    best = set()
    for number, each in enumerate(shown):
        columns = range(1 + number * len(plan.steps), 1 + (number + 1) * len(plan.steps))
        for condition in dict.fromkeys(group) if each.less is not None else ():
            known = {
                (row, column): body[row][column] for row in range(len(body)) for column in columns
                if group[row] == condition and isinstance(body[row][column], float)}
            if known:
                best.add((min if each.less else max)(known, key=known.get))
    floor = next((row for row in rows if row["system"] == FLOOR), {})
    if any(floor.get(each.key) is not None for each in shown):
        cells = ["real against real"]
        for each in shown:
            cells += [floor.get(each.key)] + [""] * (len(plan.steps) - 1)
        body.append(cells)
    return Table(name, caption, header, body, best)


def downstream_table(plan: Plan, results: Mapping[tuple[str, int], Rows], num_test: int) -> Table:
    """Table 3.

    Args:
      plan: of the report.
      results: (task, depth) -> rows of scripts/downstream.py; none for what was not trained.
      num_test: real images tested on.
    """
    measures = {
        "classify": (("ACC ↑", "accuracy"), ("F1 ↑", "macro_f1")),
        "segment": (("Dice ↑", "dice"), ("IoU ↑", "iou"), ("HD ↓", "hausdorff"), ("ASD ↓", "asd")),
    }
    columns = [pair for pairs in measures.values() for pair in pairs]
    body = []
    for task, model in (("classify", "ResNet{}"), ("segment", "UNet-Res{}")):
        names = [f"{system}({steps})" for system, steps in SYNTHETIC[task]]
        for depth in (18, 50):
            rows = results.get((task, depth), ())
            for trained_on in ("real", *names, *(f"real + {name}" for name in names)):
                own = [row for row in rows if row["trained_on"] == trained_on]
                cells = [model.format(depth), trained_on]
                for _, key in columns:
                    if key not in {name for _, name in measures[task]}:
                        cells.append("")
                    elif not own:
                        cells.append(NOT_RUN)
                    else:
                        cells.append(_mean_and_spread([row.get(key) for row in own]))
                body.append(cells)
    seeds = f"{plan.seeds} seed{'s' * (plan.seeds > 1)}"
    return Table(
        "table3",
        f"Table 3. Networks trained on real images, on as many generated ones, and on both; the "
        f"best of {plan.epochs} epochs on validation, tested on {num_test} real images; {seeds}"
        f"{', mean ± standard deviation' * (plan.seeds > 1)}. HD and ASD in mm where the data has "
        "a spacing, else in pixels.",
        ["model", "trained on", *(title for title, _ in columns)], body)


def _mean_and_spread(values: Sequence[float | None]) -> Any:
    if None in values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.3g} ± {spread:.1g}"
