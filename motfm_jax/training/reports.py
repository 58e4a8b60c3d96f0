"""The lines that a training logs at its start, and the picture of its losses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from motfm_jax.io import pictures
from motfm_jax.io.run_folder import PARENT, RETUNED, read_metrics

SHOWN_FAULTS = 5  # lines a split
SHOWN_NAMES = 4  # parameters a line


def startup_lines(config: Any, data: Any, model: Any, num_steps: int) -> list[str]:
    """Device, network and data of a training.

    Args:
      config: resolved.
      data: `datasets.Data`.
      model: `build.Architecture`.
      num_steps: updates in all.
    """
    devices, batch = jax.devices(), config.train.batch_size
    params = jax.eval_shape(model.init, jax.random.key(0))
    splits = ", ".join(
        f"{name} {len(part)} images of {len({meta['patient'] for meta in part.meta})} patients"
        for name, part in (("train", data.train), ("valid", data.valid))
    )
    low, high = data.intensity.range
    rows = batch // len(devices) // config.train.accumulation
    lines = [
        f"device: {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
        f"{jax.process_count()} process{'es' * (jax.process_count() > 1)}; "
        f"compute in {np.dtype(model.dtype).name}, parameters in float32",
        f"network: {sum(leaf.size for leaf in params.values()):,} parameters, "
        f"{config.method}, condition {config.cond}, images {' x '.join(map(str, data.facts.size))}",
    ]
    if config.train.base:
        lines.append(f"the UNet of {config.train.base} stays fixed: the mask UNet is trained")
    if config.train.teacher:
        lines.append(f"starts from the flow of {config.train.teacher}, which it learns from")
    lines += model.sites
    lines += [
        f"data: {splits}; intensity {data.intensity.mode} per {data.intensity.scope}: "
        f"{data.intensity.words} -> {low:g} .. {high:g}",
        f"batch: {batch} images an update ({len(devices)} devices x {rows} x "
        f"{config.train.accumulation} accumulated); {-(-len(data.train) // batch)} updates an "
        f"epoch, {num_steps} in all",
    ]
    lines += data.remarks()
    for split, faults in skipped(data).items():
        if faults:
            lines.append(f"{split}: {len(faults)} left out, listed in skipped.json")
        lines += [f"  {fault}" for fault in faults[:SHOWN_FAULTS]]
    return lines


def resume_lines(start: int, images: int, changes: Sequence[str], schedule: str) -> list[str]:
    """Where a training goes on, and what is no longer as it was.

    Args:
      start: updates made.
      images: seen in them.
      changes: of the config, such as "train.lr was 0.1, is 0.2".
      schedule: of the learning rate.
    """
    # A cosine is stretched to the number of updates.
    telling = {*RETUNED, *(("train.steps", "train.epochs") if schedule == "cosine" else ())}
    lines = [f"resumed after update {start}, {images} images"]
    lines += [f"changed: {change}" for change in changes]
    if any(change.partition(" ")[0] in telling for change in changes):
        lines.append(
            "the results are not comparable bit for bit with those of an uninterrupted run"
        )
    return lines


def parent_lines(parent: Mapping[str, Any]) -> list[str]:
    """What a training has from another run: `runs.inherited_weights`' record in words."""
    parameters = parent["parameters"]
    lines = [
        f"starts from the averaged weights of {parent['run']}, step {parent['step']}: "
        f"{len(parameters['taken'])} parameters taken, {len(parameters['in_part'])} in part, "
        f"{len(parameters['anew'])} begun anew, {len(parameters['left'])} left; see {PARENT}"
    ]
    for kind in ("image_channels", "label_channels", "mask_labels", "classes"):
        names = parent.get(kind, {})  # label_channels: since 0.1.0
        parts = [
            f"{', '.join(names[fate])} {word}"
            for fate, word in (("taken", "taken"), ("anew", "begun anew"), ("left", "left"))
            if names.get(fate)
        ]
        if parts:
            lines.append(f"  {kind.replace('_', ' ')}: {'; '.join(parts)}")
    there, here = parent["channel_names"]
    if bool(there) != bool(here):  # channels are taken by number
        for row, number in enumerate(parent["image_channels"]["taken"]):
            old, new = there[row] if there else number, here[row] if here else number
            lines.append(f"  channel {new} starts from the weights of channel {old}")
    for fate, word in (("in_part", "in part"), ("anew", "begun anew"), ("left", "left")):
        names = parameters[fate]
        more = f" and {len(names) - SHOWN_NAMES} more" * (len(names) > SHOWN_NAMES)
        if names:
            lines.append(f"  {word}: {', '.join(names[:SHOWN_NAMES])}{more}")
    there, here = (
        f"{each['mode']} per {each['scope']} to {each['range'][0]:g} .. {each['range'][1]:g}"
        for each in parent["intensity"]
    )
    if there != here:
        lines.append(f"  intensities were scaled by {there}; here by {here}")
    return lines


def skipped(data: Any) -> dict[str, list[str]]:
    """Examples left out, by split: a line with the file and the reason each."""
    return {"train": list(data.train.skipped), "valid": list(data.valid.skipped)}


def draw_losses(path: Path) -> None:
    """loss.png of a run: training loss between log points, and validation loss."""
    rows = read_metrics(path)
    curves = {}
    for name, key in (("training", "loss"), ("validation", "valid_loss")):
        points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
        if points:
            curves[name] = tuple(zip(*points))
    if curves:
        # An adversarial loss may fall below 0.
        positive = all(min(losses) > 0 for _, losses in curves.values())
        pictures.write_curves(
            path / "loss.png", curves, xlabel="training step", ylabel="loss", log=positive
        )
