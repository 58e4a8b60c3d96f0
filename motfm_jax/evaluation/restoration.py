"""Denoising and image to image: how much nearer a flow takes its source images to the real ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.core import Array, Condition, Network, Params
from motfm_jax.evaluation import tables
from motfm_jax.io import images as pictures
from motfm_jax.metrics import similarity
from motfm_jax.sampling import generate
from motfm_jax.sampling.conditions import Conditions

STRIP_STEPS = 10  # Figure 4 of the paper
SHOWN = 8  # images in the comparison
STRIPS = 3  # images in the strip

Progress = Callable[[str, int, int], None]  # (what is solved, images done, images in all)


def restore(
    out: Path,
    *,
    network: Network,
    params: Params,
    condition: Callable[[Array | None, Array | None], Condition],
    sources: Mapping[str, np.ndarray],
    real: np.ndarray,
    conditions: Conditions,
    steps: Sequence[int],
    bounds: tuple[float, float],
    settings: Mapping[str, Any],
    batch: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measures sources and what the flow makes of them against the real images.

    Writes restoration.{json,md,csv}, comparison.png and strip.png, the way of some images in ten
    steps. Goes on where an interrupted call stopped.

    Args:
      out: folder, made where it does not exist.
      network, params, condition: the velocity field, see `generate.make_sampler`.
      sources: name, such as "power 0.065" -> [N, *S, C] float32, scaled.
      real: [N, *S, C] float32, scaled: what sources should become.
      conditions: of the N images.
      steps: of Euler's method, each its network calls.
      bounds: black and white. Images are clipped to them, as a display does; they are the data
        range of PSNR and SSIM, and black is what SNR counts signal from.
      settings: everything else the numbers depend on, JSON-able.
      batch: images a solve; 0 for `generate.default_batch`.
      overwrite: replace the measurements there, whatever their settings.
      progress: called after each batch.

    Returns:
      The rows of restoration.json: one for each name and number of steps (0: the sources
      themselves), with mean and standard deviation over images of each measure.

    Raises:
      ValueError: the folder holds measurements of other settings, or images are not finite.
    """
    results = tables.Results(
        out / "restoration.json",
        {
            **settings,
            "num": len(real),
            "sources": list(sources),
            "steps": list(steps),
            "bounds": list(bounds),
        },
        overwrite,
    )
    # One for the measurements and the picture, whose programs are then the same.
    batch = batch or generate.default_batch(len(real), real.ndim - 2)
    wanted = {count: generate.make_solver("euler", count) for count in steps}
    samplers = {
        count: generate.make_sampler(network, condition, lambda image: image, solver)
        for count, solver in wanted.items()
    }
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
    low, high = bounds
    clipped = np.clip(real, low, high)
    for name, count in todo:
        start = sources[name]
        restored, seconds = start, 0.0
        if count:
            solved = generate.generate(
                samplers[count],
                params,
                conditions,
                shape=start.shape[1:],
                solver=wanted[count],
                noise=start,
                batch=batch,
                timed=True,
                progress=progress
                and (lambda *said, what=f"{name}, steps {count}": progress(what, *said)),
            )
            restored, seconds = solved.images, solved.seconds_per_image
        results.add(
            {"source": name, "steps": count},
            _measure(np.clip(restored, low, high), clipped, bounds)
            | {"seconds_per_image": seconds},
        )
    middle = list(sources)[len(sources) // 2]
    few, start = np.arange(min(SHOWN, len(real))), sources[middle]
    compared = {}
    for count in steps:
        compared[f"{count} step{'s' * (count > 1)}"] = generate.generate(
            samplers[count],
            params,
            _first(conditions, len(few)),
            shape=start.shape[1:],
            solver=wanted[count],
            noise=start[few],
            batch=batch,
        ).images
    pictures.write_comparison(
        out / "comparison.png", {middle: start[few], **compared, "real": real[few]}, window=bounds
    )
    solver = generate.make_solver("euler", STRIP_STEPS)
    strip = generate.generate_trajectory(
        generate.make_sampler(network, condition, lambda image: image, solver, trajectory=True),
        params,
        conditions,
        shape=start.shape[1:],
        solver=solver,
        seed=0,
        noise=start,
        num=STRIPS,
    )
    pictures.write_trajectory(
        out / "strip.png",
        strip,
        window=bounds,
        caption=f"{middle}: from source to restored image in {STRIP_STEPS} steps",
    )
    tables.Table(
        f"Mean ± standard deviation over {len(real)} images; PSNR and SNR in dB; steps 0: the "
        "sources themselves.",
        results.rows,
    ).write(out / "restoration")
    return results.rows


def _measure(images: np.ndarray, real: np.ndarray, bounds: tuple[float, float]) -> dict[str, float]:
    low, high = bounds
    values = {
        "psnr": similarity.psnr(images, real, high - low),
        "snr": similarity.snr(images, real, black=low),
        "ssim": similarity.ssim(images, real, high - low),
    }
    with np.errstate(invalid="ignore"):  # decibels of equal images are infinite
        return {
            name: float(number)
            for measure, each in values.items()
            for name, number in ((measure, np.mean(each)), (f"{measure}_std", np.std(each)))
        }


def _first(conditions: Conditions, num: int) -> Conditions:
    masks, labels = conditions.masks, conditions.labels
    return Conditions(
        num, None if masks is None else masks[:num], None if labels is None else labels[:num]
    )
