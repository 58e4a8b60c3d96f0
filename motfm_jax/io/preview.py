"""A picture of what a loader makes of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.io.images import grey_tile, overlay_tile, shared_window, window_caption, write_grid


def write_preview(path: Path, source: Any, num: int) -> int:
    """Writes examples spread over a source as a PNG, each with its mask laid over it below.

    Args:
      path: of the PNG.
      source: sequence of records, with `classes` and `mask_labels`; volumes are shown by their
        three middle planes.
      num: examples; all where there are fewer.

    Returns:
      The number of examples shown.

    Raises:
      ValueError: num below 1.
    """
    if num < 1:
        raise ValueError(f"{num} examples: 1 or more needed")
    num = min(num, len(source))
    records = [source[int(index)] for index in np.linspace(0, len(source) - 1, num).round()]
    window = shared_window(np.stack([record.image for record in records]))
    columns = 4 if records[0].image.ndim == 3 else 1  # volumes make wide tiles
    rows, row_titles, tile_titles = [], [], []
    for start in range(0, num, columns):
        chosen = records[start : start + columns]
        rows.append([grey_tile(record.image, window) for record in chosen])
        row_titles.append("image")
        tile_titles.append([_title(record, source.classes) for record in chosen])
        if all(record.mask is not None for record in chosen):
            rows.append([overlay_tile(record.image, record.mask, window) for record in chosen])
            row_titles.append("with mask")
            tile_titles.append([])
    masks = [f"masks: {', '.join(source.mask_labels)}"] if source.mask_labels else []
    write_grid(
        path,
        rows,
        row_titles=row_titles,
        tile_titles=tile_titles,
        caption="\n".join([*masks, window_caption(window)]),
    )
    return num


def _title(record: Any, classes: Sequence[str]) -> str:
    if record.label is None:
        return record.meta["name"]
    return f"{record.meta['patient'].removeprefix('patient')} {classes[record.label]}"
