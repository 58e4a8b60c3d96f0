"""How many examples a second the data path yields, from a warm cache."""

import time
from pathlib import Path
from typing import Any

from motfm_jax import datasets, presets, settings
from motfm_jax.data import pipeline

BATCH = {2: 16, 3: 4}
PATIENTS = {2: 120, 3: 40}  # simulated
WARM_BATCHES = 20


def feed(dims: int, side: int, cache: Path, seconds: float = 4.0) -> dict[str, Any]:
    """Batches of simulated scans as training gets them, without a training.

    Args:
      dims: 2, echocardiograms with masks, scaled by one map; 3, brains, each by its percentiles.
      side: pixels or voxels.
      cache: folder for the decoded examples.
      seconds: measured after the first batches.

    Returns:
      name, side, batch, examples_per_second.
    """
    config = settings.default()
    presets.apply(config, dims, "paper")
    config.cond = "mask"
    config.data.update(
        source="phantom_echo" if dims == 2 else "phantom_brain",
        size=(side,) * dims,
        phantom_patients=PATIENTS[dims],
        cache=str(cache),
    )
    if dims == 3:
        config.data.intensity.update(mode="percentile", scope="sample")
    data = datasets.data(config)
    batches = pipeline.train_batches(
        data.examples("train"),
        batch_size=BATCH[dims],
        seed=0,
        augment=datasets.augmentation(config, data.facts),
    )
    for _ in range(WARM_BATCHES):
        next(batches)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += BATCH[dims]
    return {
        "data": f"{side}^{dims}",
        "batch": BATCH[dims],
        "examples_per_second": count / (time.perf_counter() - begin),
    }
