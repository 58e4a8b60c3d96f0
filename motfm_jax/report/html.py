"""The page of a report as HTML, readable without a network."""

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from motfm_jax.evaluation.tables import Table
from motfm_jax.io.environment import environment
from motfm_jax.io.folders import read_json
from motfm_jax.io.run_folder import PARENT
from motfm_jax.report.plan import Plan, anatomies, repeats
from motfm_jax.report.stages import Stage, anchor, run_folder, seconds


def parents(plan: Plan, out: Path) -> str:
    """The runs that some of the networks began with, a paragraph each."""
    folders = [
        run_folder(out, name, system, repeat)
        for name, anatomy in anatomies(plan).items()
        for system in anatomy.systems
        for repeat in range(repeats(plan, system))
    ]
    paths = {f"{folder.parent.name}/{folder.name}": folder / PARENT for folder in folders}
    begun = [
        f"<p>{system} began with the weights of {escape(parent['run'])}, step {parent['step']}.</p>"
        for system, path in paths.items()
        if path.is_file()
        for parent in [read_json(path)]
    ]
    return "\n".join(begun)


def page(
    plan: Plan,
    out: Path,
    report_tables: Sequence[Table],
    figures: Sequence[tuple[Path, str]],
    done: Sequence[Stage],
    volumes: str,
) -> str:
    """The page.

    Args:
      plan, out: see `page.write_report`.
      report_tables: from top to bottom.
      figures: files, and their captions.
      done: the stages carried out.
      volumes: see `volumes.viewer`.
    """
    known = {f"#{anchor(stage.name)}" for stage in done}
    report_tables = [table.leading_to(known) for table in report_tables]
    shown = [(os.path.relpath(path, out / "report"), escape(caption)) for path, caption in figures]
    pictures_html = "".join(
        f'<figure><a href="{path}"><img src="{path}" alt="{caption}"></a>'
        f"<figcaption>{caption}</figcaption></figure>\n"
        for path, caption in shown
    )
    meanings = {
        re.sub(r" \d+$", "", title): re.sub(r"; \d+ steps?$", "", meaning)
        for table in report_tables
        for title, meaning in table.meanings.items()
    }
    words = "".join(
        f"<dt>{escape(each)}</dt><dd>{escape(meanings[each])}</dd>" for each in meanings
    )
    took = sum(seconds(out, stage) for stage in done)
    commands = "\n".join(
        f'<span id="{anchor(stage.name)}"># {escape(stage.name)}, {seconds(out, stage):.0f} s\n'
        f"{escape(stage.command_line())}</span>"
        for stage in done
    )
    settings = json.dumps(dataclasses.asdict(plan), indent=2, default=dict)
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(plan.title)}</title><style>{style}</style></head>
<body><main>
<h1>{escape(plan.title)}</h1>
<p>{escape(plan.notes)}</p>
{parents(plan, out)}
<p>The pictures show real images: keep this page where the data may be.</p>
<h2>Tables</h2>
<p class="screen">A click on a column sorts by it. The name of a system leads to the command that
trained it, a number to the command that it comes from (of several trainings, the first). The
pointer on a column or a number shows what it measures.</p>
{"".join(table.html() for table in report_tables)}
<h2>What is measured</h2>
<dl>{words}</dl>
<h2>Figures</h2>
{pictures_html}
{volumes}
<h2>Where and how</h2>
<pre tabindex="0">{escape(json.dumps(environment(), indent=2))}</pre>
<p>All stages together: {took / 60:.0f} min.</p>
<pre tabindex="0">{escape(settings)}</pre>
<h2>Every command</h2>
<pre tabindex="0">{commands}</pre>
</main><script>{script}</script></body></html>
"""
