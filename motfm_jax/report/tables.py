"""The paper's tables, from measured rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from motfm_jax.evaluation.intervals import SUFFIX
from motfm_jax.evaluation.tables import STD, Rows, Table, mean_and_spread
from motfm_jax.report.measure import FLOOR
from motfm_jax.report.plan import SYNTHETIC, SYSTEMS, Plan

NOT_RUN = "not run"


class Measure(NamedTuple):
    """Columns: title, key in the rows, whether less is better (None: neither), and what it is."""

    title: str
    key: str
    less: bool | None
    meaning: str


# The measures of table 1, of table 2, and of the tables beside them.
TABLE1 = (
    Measure(
        "FID (64) ↓", "fid_64", True, "Frechet distance of Inception-v3's first 64 pooled features"
    ),
    Measure(
        "FID (2048) ↓",
        "fid_2048",
        True,
        "Frechet distance of Inception-v3's 2,048 last features: FID",
    ),
    Measure(
        "Frechet ↓",
        "frechet",
        True,
        "Frechet distance between normal distributions fitted to real and to generated features",
    ),
    Measure(
        "SSIM ↑",
        "ssim",
        False,
        "structural similarity to the real image beside it, mean over images; 1: equal",
    ),
    Measure(
        "KID ↓",
        "kid",
        True,
        "squared maximum mean discrepancy of Inception-v3's features, cubic kernel",
    ),
    Measure(
        "kernel ↓", "kernel", True, "squared maximum mean discrepancy of features, cubic kernel"
    ),
    Measure(
        "CMMD ↓",
        "cmmd",
        True,
        "maximum mean discrepancy of CLIP's features, Gaussian kernel",
    ),
    Measure(
        "IS",
        "is",
        None,
        "Inception score of the generated images alone: sharp and diverse in ImageNet's classes",
    ),
    Measure(
        "intensity W1 ↓",
        "density_w1",
        True,
        "Wasserstein-1 distance between the distributions of all pixels, in grey levels",
    ),
    Measure(
        "SSIM between",
        "ssim_between",
        None,
        "structural similarity between generated images: less is more diverse",
    ),
)
TABLE2 = (
    Measure("3D-FID ↓", "fid_3d", True, "Frechet distance of a 3-D ResNet's features"),
    Measure(
        "MS-SSIM ↑",
        "ms_ssim",
        False,
        "structural similarity at several scales to the real volume beside it",
    ),
    Measure(
        "SSIM ↑",
        "ssim",
        False,
        "structural similarity to the real image beside it, mean over images; 1: equal",
    ),
    Measure("MMD (voxels) ↓", "linear_mmd", True, "maximum mean discrepancy of intensities"),
    Measure(
        "MMD (blocks) ↓",
        "pixel_mmd",
        True,
        "maximum mean discrepancy of block means",
    ),
    Measure(
        "intensity W1 ↓",
        "density_w1",
        True,
        "Wasserstein-1 distance between the distributions of all pixels, in grey levels",
    ),
    Measure(
        "MS-SSIM between",
        "ms_ssim_between",
        None,
        "structural similarity at several scales between generated volumes: less is more diverse",
    ),
)
# What is measured in features: in several spaces, each has columns of its own.
SPACED = ("frechet", "kernel", "precision", "recall", "density", "coverage")
QUALITY = (
    Measure(
        "precision ↑",
        "precision",
        False,
        "share of generated images within the reach of real ones in feature space",
    ),
    Measure(
        "recall ↑",
        "recall",
        False,
        "share of real images within the reach of generated ones in feature space",
    ),
    Measure(
        "density",
        "density",
        None,
        "how many real images have a generated one within their reach, over the expected number",
    ),
    Measure(
        "coverage ↑",
        "coverage",
        False,
        "share of real images with a generated one within their reach",
    ),
    Measure(
        "spectrum, dB ↓",
        "spectrum_db",
        True,
        "distance of the mean radial power spectra, in decibels: blur and grain",
    ),
    Measure(
        "speckle contrast",
        "speckle_contrast",
        None,
        "local standard deviation over local mean, in windows of 5 pixels",
    ),
    Measure(
        "grain, pixels",
        "grain_width",
        None,
        "width of the autocorrelation of the texture, in pixels; blur widens it",
    ),
    Measure(
        "diversity",
        "diversity",
        None,
        "mean root mean square distance of images of one mask and class, in grey levels",
    ),
    Measure(
        "mask Dice ↑",
        "faithful_dice",
        False,
        "Dice between the mask and a segmentation of the image made from it",
    ),
    Measure(
        "mask boundary F1 ↑",
        "faithful_boundary_f1",
        False,
        "F1 of the borders of mask and segmentation, within one pixel",
    ),
)
TIMES = (Measure("seconds", "seconds_per_image", None, "wall time of an image after compilation"),)
COPIES = (
    Measure(
        "closer, pixels",
        "share_closer",
        None,
        "share of images nearer to a training image than 95% of held-out ones are, by pixels",
    ),
    Measure(
        "closer, features",
        "share_closer_features",
        None,
        "share nearer to a training image than 95% of held-out ones are, by features",
    ),
    Measure(
        "third of next, pixels",
        "ratio_share",
        None,
        "share at less than a third of the distance to the next patient's image",
    ),
    Measure(
        "AUC, pixels",
        "auc",
        None,
        "AUC of generated against held-out distances to training images, by pixels",
    ),
    Measure("AUC, features", "auc_features", None, "AUC of the same distances by features"),
)
# Of table 3, by task: column and key.
TABLE3 = {
    "classify": {"ACC ↑": "accuracy", "F1 ↑": "macro_f1"},
    "segment": {"Dice ↑": "dice", "IoU ↑": "iou", "HD ↓": "hausdorff", "ASD ↓": "asd"},
}


def in_spaces(measures: Sequence[Measure], endings: Sequence[str]) -> list[Measure]:
    """Measures in features once for each space, see `evaluation.spaces`."""
    return [
        each._replace(key=each.key + ending, title=f"{each.title}{ending.replace('_', ' ')}")
        for each in measures
        for ending in (endings if each.key in SPACED else [""])
    ]


def generation(
    caption: str, plan: Plan, rows: Rows, systems: Sequence[str], measures: Sequence[Measure]
) -> Table:
    """A row a system, a group of columns a measure, in it one a number of steps.

    Args:
      caption: of the table.
      plan: whose steps and spacings it has.
      rows: of `measure.measure`.
      systems: all rows of the paper's table; those without numbers are marked so.
      measures: those that some row holds are shown; if none, the first.
    """
    reported = [
        measure for measure in measures if any(row.get(measure.key) is not None for row in rows)
    ] or measures[:1]
    body, group = [], []  # a group: rows of one condition, in which the best is stressed
    for system in systems:
        own = [row for row in rows if row["system"] == system]
        unknown = "" if own and SYSTEMS[system].method == "spade" else NOT_RUN
        for spacing in dict.fromkeys(row["spacing"] for row in own) or [None]:
            by_steps = {
                steps: [row for row in own if (row["spacing"], row["steps"]) == (spacing, steps)]
                for steps in plan.steps
            }
            body.append(
                {"": f"{system} ({spacing})" if spacing else system}
                | _cells(reported, plan.steps, by_steps, unknown)
            )
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
    return Table(caption, body, best, meanings)


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
    body = []
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
    )
