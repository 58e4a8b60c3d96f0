"""The report itself: tables, figures and one HTML page of all."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motfm_jax.evaluation.audit import FEWEST
from motfm_jax.evaluation.intervals import SUFFIX
from motfm_jax.evaluation.score import density, to_units
from motfm_jax.evaluation.sets import ImageSet, stored
from motfm_jax.evaluation.tables import Rows, Table
from motfm_jax.io import pictures
from motfm_jax.io.folders import read_json, whole_file
from motfm_jax.io.tiles import View, image_tile, mask_tile
from motfm_jax.metrics.density import GRID
from motfm_jax.report import html, measures, tables, volumes
from motfm_jax.report.measure import Real, measure, read_real
from motfm_jax.report.plan import SYNTHETIC, SYSTEMS, Cell, Plan, anatomies
from motfm_jax.report.stages import (
    RESTORE,
    Stage,
    anchor,
    downstream_folder,
    sample_folder,
    sampled,
)

ROWS = {"echo": 2, "brain": 1}  # of figure 2
logger = logging.getLogger(__name__)


def write_report(plan: Plan, out: Path, done: Sequence[Stage]) -> Path:
    """Measures what is not measured yet, and writes OUT/report; trains and samples nothing.

    Args:
      plan: checked.
      out: folder of the report.
      done: the stages carried out.

    Returns:
      The page.
    """
    folder = out / "report"
    report_tables: dict[str, Table] = {}
    figures: list[tuple[Path, str]] = []
    turning = ""
    for name in anatomies(plan):
        if not sampled(plan, out, name):
            continue
        real = read_real(plan, out, name)
        rows, networks = measure(plan, out, name, real)
        report_tables |= _tables(plan, name, rows, networks)
        logger.info("%s: figures", name)
        figures += _samples(plan, out, name, real, folder)
        if name == "brain":
            turning = _volumes(plan, out, real)
    if plan.depths:
        report_tables["table3"] = _downstream(plan, out)
    denoised = out / "denoised"
    if plan.denoise is not None and (denoised / "restoration.json").is_file():
        figures += [
            (denoised / "strip.png", "Figure 4. From a speckled to a clean image."),
            (denoised / "comparison.png", "Speckled, denoised and clean images."),
        ]
        rows = read_json(denoised / "restoration.json")["rows"]
        report_tables["denoising"] = Table(
            "Speckle removal: noisy (steps 0) and denoised against clean, validation split; PSNR "
            "and SNR in dB, mean ± standard deviation over images.",
            rows,
            meanings={key: measures.MEANINGS[key] for key in ("psnr", "snr", "ssim")},
            links={
                (n, title): f"#{anchor(RESTORE)}" for n, row in enumerate(rows) for title in row
            },
        )
    report_tables = dict(
        sorted(report_tables.items(), key=lambda item: (not item[0].startswith("table"), item[0]))
    )
    for name, table in report_tables.items():
        table.write(folder / name)
    page = folder / "index.html"
    with whole_file(page) as draft:
        draft.write_text(html.page(plan, out, list(report_tables.values()), figures, done, turning))
    return page


def _tables(plan: Plan, name: str, rows: Rows, networks: Sequence[str]) -> dict[str, Table]:
    num, reference = anatomies(plan)[name].num, plan.reference
    beside = (
        f"{num} images a cell against the real images of {reference}; image i beside real image i "
        "for the similarity (made from a mask: its own). Columns: steps. Levels of DDIM in "
        "brackets. Best of each conditioning in bold. "
    )
    if plan.repeats > 1:
        beside += f"Flows and flow maps: mean ± standard deviation of {plan.repeats} trainings. "
    own = [system for system in SYSTEMS if system in anatomies(plan)[name].systems]
    if name == "echo":
        paper, columns = [each for each in SYSTEMS if not SYSTEMS[each].teacher], measures.TABLE1
        title = "table1"
        caption = (
            "Table 1. D, M, SD-M: DDPM, MOTFM, ControlNet; F, not of the paper: the flow map of M; "
            "-C, -M, -CM: class, mask, both. "
        )
        unknown = "FID, KID, CMMD and IS are shown where the published weights are there. "
        if networks:
            named = " and ".join(networks)
            unknown += f"Frechet and kernel: in the features of this data's own {named}."
    else:
        title, paper, columns = "table2", ["D", "M"], measures.TABLE2
        caption = "Table 2. D, M and F: DDPM, MOTFM and its flow map, unconditional. "
        unknown = "3D-FID is shown where the published weights are there."
    systems = [*paper, *(system for system in own if SYSTEMS[system].teacher)]
    found = {key for row in rows for key in row}
    endings = sorted(
        key.removeprefix("frechet")
        for key in found
        if key.startswith("frechet") and not key.endswith(SUFFIX)
    ) or [""]
    return {
        title: tables.generation(
            caption + beside + unknown,
            plan,
            name,
            rows,
            systems,
            measures.in_spaces(columns, endings),
        ),
        f"quality_{name}": tables.generation(
            f"Fidelity, diversity and texture, {name}, by steps: in brackets 95% intervals over "
            "patients and generated images, or ± standard deviation over trainings. See the page "
            "on evaluation for each measure.",
            plan,
            name,
            rows,
            own,
            measures.in_spaces(measures.QUALITY, endings),
        ),
        f"times_{name}": tables.generation(
            f"Sampling times, {name}: seconds an image after warm-up (compilation apart), by "
            "steps; padding of the last batch counts as images.",
            plan,
            name,
            rows,
            own,
            measures.TIMES,
        ),
        f"copies_{name}": tables.generation(
            f"Memorisation, {name}: share of images nearer to a training image than 95% of real "
            "held-out images are, by pixels (after translation) and by features; 0.05 is expected "
            f"without copying. Share at less than a third of the distance to the next patient; and "
            "AUC of generated against held-out distances, 0.5 without copying. "
            f"{FEWEST} held-out images are needed: of validation and test together where the "
            "reference alone has fewer.",
            plan,
            name,
            rows,
            own,
            measures.COPIES,
        ),
    }


def _downstream(plan: Plan, out: Path) -> Table:
    results, num_test = {}, 0
    for task in SYNTHETIC:
        for depth in plan.depths:
            path = downstream_folder(out, task, depth) / "downstream.json"
            if path.is_file():
                saved = read_json(path)
                results[task, depth] = saved["rows"]
                num_test = saved["settings"]["tested_on"]
    return tables.downstream_table(plan, results, num_test)


def _samples(plan: Plan, out: Path, name: str, real: Real, folder: Path) -> list[tuple[Path, str]]:
    """Figure 2's rows of an anatomy, and for echo figure 3."""
    masks = real.reference.masks
    num = min(ROWS[name], anatomies(plan)[name].num, len(real.images))
    view = View(*real.bounds, real.facts.channel_names)
    first = range(num)
    titles, columns = (
        ["real"],
        [[image_tile(image, view) for image in real.images.take(first)]],
    )
    if masks is not None and name == "echo":
        titles.insert(0, "mask")
        columns.insert(0, [mask_tile(np.asarray(mask)) for mask in masks[:num]])
    first_trained = [cell for cell in sampled(plan, out, name) if not cell.repeat]
    for cell in first_trained:
        generated = stored(sample_folder(out, cell, plan.reference) / "samples.npz")
        columns.append([image_tile(image, view) for image in generated.take(first)])
        titles.append(_title(cell))
    path = folder / f"figure2_{name}.png"
    pictures.write_grid(
        path, list(zip(*columns)), column_titles=titles, caption=view.caption(real.images.shape[-1])
    )
    figures = [(path, f"Figure 2, {name}. Steps in brackets; t: trailing levels.")]
    last_of = {cell.system: cell for cell in first_trained}
    for last in last_of.values():
        pairs = sample_folder(out, last, plan.reference) / "audit.png"
        if pairs.is_file():
            figures.append((pairs, f"Closest pairs of {name} {_title(last)}: generated, training."))
    if name == "echo":
        figures.insert(
            1,
            (
                _densities(plan, out, folder, real),
                "Figure 3. Density of intensities, real and generated.",
            ),
        )
    return figures


def _volumes(plan: Plan, out: Path, real: Real) -> str:
    """The first brain of each system at its most steps; none that is real, as they lie in the page
    itself, which may be sent without the folder."""
    shown = {}
    for cell in sampled(plan, out, "brain"):
        if cell.steps == max(plan.steps) and not cell.repeat:
            images = stored(sample_folder(out, cell, plan.reference) / "samples.npz")
            shown[_title(cell)] = next(images.batches(1))[0]
    view = View(*real.bounds, real.facts.channel_names)
    return volumes.viewer(shown, view, real.facts.affine)


def _title(cell: Cell) -> str:
    return f"{cell.system}({cell.steps}{'t' * (cell.spacing == 'trailing')})"


def _densities(plan: Plan, out: Path, folder: Path, real: Real) -> Path:
    """Figure 3: diffusion and flow, unconditional, at the most steps."""

    def curve(images: ImageSet):
        return GRID, density(to_units(images, real.bounds), plan.seed)

    curves = {"real": curve(real.images)}
    for cell in sampled(plan, out, "echo"):
        last = cell.steps == max(plan.steps) and not cell.repeat
        if last and SYSTEMS[cell.system].cond == "none":
            generated = stored(sample_folder(out, cell, plan.reference) / "samples.npz")
            curves[_title(cell)] = curve(generated)
    path = folder / "figure3.png"
    pictures.write_curves(path, curves, xlabel="intensity (0 to 255)", ylabel="density", log=True)
    return path
