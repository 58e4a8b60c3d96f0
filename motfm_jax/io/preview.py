"""A picture of what a loader makes of a data set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motfm_jax.io.images import (
    grey_tile,
    overlay_tile,
    shared_window,
    window_caption,
    write_grid,
)


def write_preview(
    path: Path,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    caption: str = "",
) -> None:
    """Writes examples as a PNG: each as it is, and below it with its mask laid over.

    Args:
      path: of the PNG.
      images: [*S, C] of one size; volumes are shown by their three middle planes.
      masks: [*S] labels, or None.
      titles: one an example.
      caption: put before the statement of the grey window.
    """
    window = shared_window(np.stack(images))
    columns = 4 if images[0].ndim == 3 else 1  # volumes make wide tiles
    rows, row_titles, tile_titles = [], [], []
    for start in range(0, len(images), columns):
        chosen = range(start, min(start + columns, len(images)))
        rows.append([grey_tile(images[index], window) for index in chosen])
        row_titles.append("image")
        tile_titles.append([titles[index] for index in chosen])
        masked = [index for index in chosen if masks[index] is not None]
        if masked:
            rows.append([overlay_tile(images[index], masks[index], window) for index in masked])
            row_titles.append("with mask")
            tile_titles.append([])
    write_grid(
        path, rows, row_titles=row_titles, tile_titles=tile_titles,
        caption="\n".join(filter(None, (caption, window_caption(window)))))
