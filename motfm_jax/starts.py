"""The start of each generated image: noise, an array of the user, or an image of the data."""

from collections.abc import Sequence

import numpy as np

from motfm_jax import datasets
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pipeline import Examples, read_pairs
from motfm_jax.evaluation.restoration import Task
from motfm_jax.model import Bundle
from motfm_jax.sampling import inputs
from motfm_jax.sampling.conditions import DEFAULT_NUM, Selection, check_num, choose

POWERS = (0.02, 0.065, 0.2)  # of speckle; the paper's 11.87 dB are 0.065


def read(
    model: Bundle,
    selection: Selection,
    noise: inputs.Values | None = None,
    source: inputs.Values | None = None,
    seed: int = 0,
) -> np.ndarray | None:
    """The arrays that images start from; None for noise of the seed.

    Args:
      model: its flow starts from noise, or from images (config.flow.source).
      selection: the images asked for.
      noise: [N, *S, C] floats in the place of a seed's noise.
      source: [N, *S, C] images to start from, in the units of the training data; None takes those
        of the selection's split. For a flow that starts from images.
      seed: of the speckle.

    Returns:
      [N, *S, C] float32, scaled.

    Raises:
      ValueError: arrays that do not fit the model.
    """
    flow_source = model.config.flow.source
    if not model.starts_from_images:
        if source is not None:
            raise ValueError(f"--source: the flow of {model.run} starts from noise; leave it out")
        return None if noise is None else inputs.start_images(noise, model.shape)
    if noise is not None:
        raise ValueError(
            f"--noise: the flow of {model.run} starts from images (config.flow.source="
            f"{flow_source!r}); give them as --source"
        )
    if source is None:
        return _of_split(model, selection, seed)
    lacks_masks = "mask" in model.cond and not len(selection.masks)
    if lacks_masks or ("class" in model.cond and not len(selection.classes)):
        raise ValueError(
            f"--source without its conditions: this model was trained with cond={model.cond}; "
            "give --masks, --classes of the same images"
        )
    images = inputs.start_images(source, model.shape, "source")
    intensity = model.intensity
    if model.facts.source_intensity:
        intensity = Intensity.from_json(model.facts.source_intensity)
    return np.stack([intensity.apply(image, f"source {row}") for row, image in enumerate(images)])


def _of_split(model: Bundle, selection: Selection, seed: int) -> np.ndarray:
    if len(selection.masks) or len(selection.classes):
        raise ValueError(
            "--masks, --classes without --source: the images to start from come with their own "
            "conditions; leave them out, or give --source"
        )
    check_num(selection.num)
    arrays = datasets.of_run(model, selection.split)
    rows = np.arange(selection.num or DEFAULT_NUM) % len(arrays)
    start = datasets.start(model.config, model.facts)
    return read_pairs(Examples(arrays, model.intensity, start), rows, seed)[0]


def restoration(
    model: Bundle,
    split: str,
    *,
    powers: Sequence[float] = (),
    num: int | None = None,
    seed: int = 0,
) -> Task:
    """What a flow that starts from images is to restore, from a split of its data.

    Args:
      model: its flow starts from images.
      split: of the real images.
      powers: of speckle, the noise's mean square over the image's; empty for POWERS.
      num: the first so many images; None for all.
      seed: of the speckle.

    Raises:
      ValueError: a flow from noise, or powers for one without speckle.
    """
    flow = model.config.flow
    if not model.starts_from_images:
        raise ValueError(
            f"{model.run}: its flow starts from noise; train one with --config.flow.source=speckle "
            "or channel"
        )
    if powers and flow.source != "speckle":
        raise ValueError(
            f"--powers: the flow of {model.run} starts from {flow.source_channel}, without "
            "speckle; leave it out"
        )
    check_num(num)
    arrays = datasets.of_run(model, split)
    rows = np.arange(min(num or len(arrays), len(arrays)))
    sources, real = {}, np.empty(0)
    for power in (powers or POWERS) if flow.source == "speckle" else [None]:
        name = flow.source_channel if power is None else f"power {power:g}"
        start = datasets.start(model.config, model.facts, power)
        sources[name], real = read_pairs(Examples(arrays, model.intensity, start), rows, seed)
    scaling = model.config.data.intensity
    bounds = scaling.range
    if not scaling.window and scaling.mode not in ("minmax", "percentile"):
        bounds = real.min(), real.max()
    conditions = choose(model, Selection(len(rows), split=split), lambda _: arrays)
    return Task(sources, real, conditions, tuple(map(float, bounds)))
