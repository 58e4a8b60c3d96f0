"""Denoising and image to image: PSNR, SNR and SSIM of source and restored images."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.evaluation import tables
from motfm_jax.io import pictures
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.io.tiles import View
from motfm_jax.metrics import similarity
from motfm_jax.model import Bundle
from motfm_jax.sampling import generate
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.generate import Request

STEPS = (1, 2, 5, 10, 50)
STRIP_STEPS = 10  # Figure 4 of the paper
SHOWN = 8  # images in the comparison
STRIPS = 3  # images in the strip


class Task(NamedTuple):
    """Images to restore.

    Attributes:
      sources: name, such as "power 0.065" -> [N, *S, C] float32, scaled: what a flow starts from.
      real: [N, *S, C] float32, scaled: what the sources should become.
      conditions: of the N images.
      bounds: black and white. Images are clipped to them, as a display does; they are the data
        range of PSNR and SSIM, and black is what SNR counts signal from.
    """

    sources: Mapping[str, np.ndarray]
    real: np.ndarray
    conditions: Conditions
    bounds: tuple[float, float]


def restore(
    out: Path,
    model: Bundle,
    task: Task,
    *,
    steps: Sequence[int] = STEPS,
    batch: int = 0,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measures sources and what the flow makes of them against the real images.

    Writes restoration.{json,md,csv}, comparison.png and strip.png, the way of some images in ten
    steps. Continues an interrupted call.

    Args:
      out: folder, made where it does not exist.
      model: its flow starts from images.
      task: see `Task`.
      steps: of Euler's method, each its network calls.
      batch: images a solve; 0 for `generate.default_batch`.
      settings: everything else that the numbers depend on, JSON-able.
      overwrite: replace the measurements there, whatever their settings.
      progress: called after each batch.

    Returns:
      The rows of restoration.json: one for each name and number of steps (0: the sources
      themselves), with mean and standard deviation over images of each measure.

    Raises:
      ValueError: the folder holds measurements of other settings, or images are not finite.
    """
    sources, real = task.sources, task.real
    results = tables.Results(
        out / "restoration.json",
        {
            **(settings or {}),
            "checkpoint": model.checkpoint_hash,
            "training_step": model.step,
            "data": hash_arrays({"real": real, **sources}),
            "num": len(real),
            "sources": list(sources),
            "steps": list(steps),
            "bounds": list(task.bounds),
            "ssim": "of intensities from 0",
        },
        overwrite,
    )
    # One for the measurements and the picture, whose programs are then the same.
    batch = batch or generate.default_batch(len(real), real.ndim - 2)
    table = out / "restoration.md"  # written last: with it, all is done
    todo = [
        (name, count)
        for name in sources
        for count in (0, *steps)
        if not results.has(source=name, steps=count)
    ]
    if not todo and table.exists():
        return results.rows
    table.unlink(missing_ok=True)
    low, high = task.bounds
    clipped = np.clip(real, low, high)

    def solve(start: np.ndarray, count: int, **options: Any) -> generate.Generated:
        request = Request(model.solver("euler", count), start=start, batch=batch, raw=True)
        return generate.generate(model, task.conditions.first(len(start)), request, **options)

    for name, count in todo:
        restored, seconds = sources[name], 0.0
        if count:
            show = progress and functools.partial(_show, progress, f"{name}, steps {count}")
            solved = solve(sources[name], count, timed=True, progress=show)
            restored, seconds = solved.images, solved.seconds_per_image
        results.add(
            {"source": name, "steps": count},
            _measure(np.clip(restored, low, high), clipped, task.bounds)
            | {"seconds_per_image": seconds},
        )
    middle = list(sources)[len(sources) // 2]
    view = View(*task.bounds, model.facts.channel_names)
    few = sources[middle][:SHOWN]
    compared = {f"{count} step{'s' * (count > 1)}": solve(few, count).images for count in steps}
    pictures.write_comparison(
        out / "comparison.png",
        {middle: few, **compared, "real": real[:SHOWN]},
        view=view,
    )
    request = Request(model.solver("euler", STRIP_STEPS), start=sources[middle], raw=True)
    pictures.write_trajectory(
        out / "strip.png",
        generate.generate_trajectory(model, task.conditions, request, STRIPS),
        view=view,
        caption=f"{middle}: from source to restored image in {STRIP_STEPS} steps",
    )
    tables.Table(
        f"Mean ± standard deviation over {len(real)} images; PSNR and SNR in dB; steps 0: the "
        "sources themselves.",
        results.rows,
    ).write(out / "restoration")
    return results.rows


def _show(progress: Progress, what: str, images: str, done: int, total: int) -> None:
    progress(f"{what}: {images}", done, total)


def _measure(images: np.ndarray, real: np.ndarray, bounds: tuple[float, float]) -> dict[str, float]:
    low, high = bounds
    # SSIM depends on where 0 lies: as in `evaluation.score`, and of images of bytes, at black.
    units = ((array - low) / (high - low) for array in (images, real))
    values = {
        "psnr": similarity.psnr(images, real, high - low),
        "snr": similarity.snr(images, real, black=low),
        "ssim": similarity.ssim(*units, 1.0),
    }
    with np.errstate(invalid="ignore"):  # decibels of equal images are infinite
        return {
            name: float(number)
            for measure, each in values.items()
            for name, number in ((measure, np.mean(each)), (f"{measure}_std", np.std(each)))
        }
