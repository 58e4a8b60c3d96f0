"""The paper's tables, from measured rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from motfm_jax.evaluation.intervals import SUFFIX
from motfm_jax.evaluation.tables import STD, Rows, Table, mean_and_spread
from motfm_jax.report.measure import FLOOR
from motfm_jax.report.measures import MEANINGS, Measure
from motfm_jax.report.plan import SYNTHETIC, SYSTEMS, Cell, Plan
from motfm_jax.report.stages import anchor, of_downstream, of_sampling, of_training

NOT_RUN = "not run"


# Of table 3, by task: column and key.
TABLE3 = {
    "classify": {"ACC ↑": "accuracy", "F1 ↑": "macro_f1"},
    "segment": {"Dice ↑": "dice", "IoU ↑": "iou", "HD ↓": "hausdorff", "ASD ↓": "asd"},
}


def generation(
    caption: str,
    plan: Plan,
    anatomy: str,
    rows: Rows,
    systems: Sequence[str],
    measures: Sequence[Measure],
) -> Table:
    """A row a system, a group of columns a measure, in it one a number of steps.

    A system leads to the command of its training, a number to that of its images; of several
    trainings, to the first.

    Args:
      caption: of the table.
      plan: whose steps and spacings it has.
      anatomy: "echo" or "brain".
      rows: of `measure.measure`.
      systems: all rows of the paper's table; those without numbers are marked so.
      measures: those that some row holds are shown; if none, the first.
    """
    reported = [
        measure for measure in measures if any(row.get(measure.key) is not None for row in rows)
    ] or measures[:1]
    body, group = [], []  # a group: rows of one condition, in which the best is stressed
    links: dict[tuple[int, str], str] = {}
    for system in systems:
        own = [row for row in rows if row["system"] == system]
        unknown = "" if own and SYSTEMS[system].method == "spade" else NOT_RUN
        for spacing in dict.fromkeys(row["spacing"] for row in own) or [None]:
            by_steps = {
                steps: [row for row in own if (row["spacing"], row["steps"]) == (spacing, steps)]
                for steps in plan.steps
            }
            entry = {"": f"{system} ({spacing})" if spacing else system}
            entry |= _cells(reported, plan.steps, by_steps, unknown)
            if own:
                links[len(body), ""] = f"#{anchor(of_training(anatomy, system))}"
            for steps in (steps for steps in plan.steps if by_steps[steps]):
                made = of_sampling(Cell(anatomy, system, steps, spacing or ""), plan.reference)
                for each in reported:
                    links[len(body), f"{each.title} {steps}"] = f"#{anchor(made)}"
            body.append(entry)
            group.append(SYSTEMS[system].cond)
    best = set()
    for each in reported:
        for condition in dict.fromkeys(group) if each.less is not None else ():
            known = {
                (number, title): row[title]
                for number, row in enumerate(body)
                if group[number] == condition
                for title in (f"{each.title} {steps}" for steps in plan.steps)
                if isinstance(row[title], float)
            }
            if known:
                best.add((min if each.less else max)(known, key=known.get))
    floor = next((row for row in rows if row["system"] == FLOOR), {})
    if any(floor.get(each.key) is not None for each in reported):
        body.append(
            {"": "real against real"} | _cells(reported, plan.steps, {plan.steps[0]: [floor]}, "")
        )
    meanings = {
        f"{each.title} {count}": f"{each.meaning}; {count} step{'s' * (count > 1)}"
        for each in reported
        for count in plan.steps
    }
    return Table(caption, body, best, meanings, links)


def _cells(
    measures: Sequence[Measure],
    steps: Sequence[int],
    by_steps: Mapping[int, Rows],
    unknown: str,
) -> dict[str, Any]:
    """A system's values: of one training with their intervals, of several with their spread."""
    cells = {}
    for each in measures:
        for count in steps:
            rows, title = by_steps.get(count), f"{each.title} {count}"
            if not rows:
                cells[title] = unknown
            elif len(rows) == 1:
                cells[title] = rows[0].get(each.key)
                if each.key + SUFFIX in rows[0]:
                    cells[title + SUFFIX] = rows[0][each.key + SUFFIX]
            else:
                (spread,) = mean_and_spread(rows, "system", [each.key])
                cells[title], cells[title + STD] = spread[each.key], spread[each.key + STD]
    return cells


def downstream_table(plan: Plan, results: Mapping[tuple[str, int], Rows], num_test: int) -> Table:
    """Table 3.

    Args:
      plan: of the report.
      results: (task, depth) -> rows of motfm downstream; none for what was not trained.
      num_test: real images tested on.
    """
    body, links = [], {}
    for task, model in (("classify", "ResNet{}"), ("segment", "UNet-Res{}")):
        names = [
            f"{system}({steps})"
            for system, steps in SYNTHETIC[task]
            if not SYSTEMS[system].teacher or system in plan.echo.systems
        ]
        for depth in (18, 50):
            means = {
                row["trained_on"]: row
                for row in mean_and_spread(
                    results.get((task, depth), ()), "trained_on", list(TABLE3[task].values())
                )
            }
            for trained_on in ("real", *names, *(f"real + {name}" for name in names)):
                entry = {"model": model.format(depth), "trained on": trained_on}
                for other, columns in TABLE3.items():
                    for title, key in columns.items():
                        if other != task or trained_on not in means:
                            entry[title] = "" if other != task else NOT_RUN
                            continue
                        entry[title] = means[trained_on][key]
                        links[len(body), title] = f"#{anchor(of_downstream(task, depth))}"
                        if plan.seeds > 1:
                            entry[f"{title}_std"] = means[trained_on][f"{key}_std"]
                body.append(entry)
    several = plan.seeds > 1
    return Table(
        "Table 3. Networks trained on real images, on as many generated ones, and on both; the "
        f"best of {plan.epochs} epochs on validation, tested on {num_test} real images; "
        f"{plan.seeds} seed{'s, mean ± standard deviation' * several}. D: DDPM of "
        f"{plan.spacings[-1]} levels. HD and ASD in mm where the data has a spacing, else in "
        "pixels.",
        body,
        meanings={
            title: MEANINGS[key] for columns in TABLE3.values() for title, key in columns.items()
        },
        links=links,
    )
