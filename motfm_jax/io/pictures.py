"""Pictures (PNG) of images, masks, trajectories and curves.

A picture is assembled from tiles, see tiles.py. All images of a picture share one view, whose
windows the picture states, so that brightness can be compared across tiles.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motfm_jax.io.folders import whole_file
from motfm_jax.io.tiles import (
    View,
    image_tile,
    mask_tile,
    outline_tile,
    overlay_tile,
    shared_view,
)

SMALLEST_TILE = 112  # smaller tiles are enlarged by a whole factor, without smoothing
FONT_SIZE, GAP = 13, 4


def write_grid(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    tile_titles: Sequence[Sequence[str]] = (),
    caption: str = "",
) -> None:
    """Writes tiles as a PNG of rows and columns.

    Args:
      path: the PNG file.
      rows: tiles [h, w, 3] of one height; rows may differ in length.
      row_titles: left of the rows; () for none.
      column_titles: above the first row; () for none.
      tile_titles: in place of column_titles, one list per row; () for a row without titles.
      caption: lines below the tiles, such as `View.caption`; wrapped to the width.
    """
    titles = [*(tile_titles or [column_titles])] + [()] * len(rows)
    height, width = len(rows[0][0]), max(tile.shape[1] for row in rows for tile in row)
    factor = max(1, -(-SMALLEST_TILE // height))
    height, width = height * factor, width * factor
    font, line = ImageFont.load_default(FONT_SIZE), FONT_SIZE + GAP
    left = GAP + max((int(font.getlength(title)) + 2 * GAP for title in row_titles), default=0)
    across = left + max(len(row) for row in rows) * (width + GAP)
    tops = []  # of each row's tiles
    for row in range(len(rows)):
        tops.append((tops[-1] + height if tops else 0) + GAP + line * bool(len(titles[row])))
    foot = tops[-1] + height + GAP
    notes = _wrap(caption, font, across - 2 * GAP)
    page = Image.new("RGB", (across, foot + len(notes) * line), "white")
    draw = ImageDraw.Draw(page)
    for row, (top, tiles) in enumerate(zip(tops, rows)):
        if row_titles:
            draw.text((GAP, top + height // 2), row_titles[row], "black", font, anchor="lm")
        for column, tile in enumerate(tiles):
            x = left + column * (width + GAP)
            if column < len(titles[row]):
                title = _shorten(titles[row][column], font, width)
                draw.text((x, top - line), title, "black", font)
            enlarged = np.repeat(np.repeat(tile, factor, axis=0), factor, axis=1)
            page.paste(Image.fromarray(enlarged), (x, top))
    for number, note in enumerate(notes):
        draw.text((GAP, foot + number * line), note, "black", font)
    with whole_file(path) as draft:
        page.save(draft)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Writes the values of a frame's mask [H, W] uint8 or uint16 as they are."""
    with whole_file(path) as draft:
        Image.fromarray(mask).save(draft)


def write_image(path: Path, image: np.ndarray, is_colour: bool = False) -> None:
    """Writes one frame pixel by pixel as an 8-bit PNG: 0 is black, 1 is white.

    Args:
      path: the PNG file.
      image: [H, W, C]; channels are put side by side.
      is_colour: they are red, green and blue instead.
    """
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if not is_colour:
        levels = np.concatenate(np.moveaxis(levels, -1, 0), axis=1)
    with whole_file(path) as draft:
        Image.fromarray(levels).save(draft)


def write_samples(
    path: Path,
    images: np.ndarray,
    *,
    masks: np.ndarray | None = None,
    titles: Sequence[str] = (),
    view: View | None = None,
    columns: int = 8,
    caption: str = "",
    outlines: bool = False,
) -> None:
    """Writes images as a PNG grid, each below its mask if it has one.

    Args:
      path: the PNG file.
      images: [N, *S, C].
      masks: [N, *S] labels, or None.
      titles: one per image, such as its class; () for none.
      view: None for `shared_view` of the images.
      columns: images per row; a quarter of it for volumes, whose tiles are wide, and fewer where
        channels are side by side.
      caption: written before the view's.
      outlines: in the place of the mask, draw the image once more with its labels' outlines.
    """
    view, channels = view or shared_view(images), images.shape[-1]
    title = "outlines" if outlines else "mask"
    across = view.across(channels) * (1 if images.ndim == 4 else 4)
    columns = min(max(1, columns // across), len(images))
    rows, row_titles, tile_titles = [], [], []
    for start in range(0, len(images), columns):
        chosen = range(start, min(start + columns, len(images)))
        if masks is not None:
            rows.append(
                [
                    outline_tile(images[index], masks[index], view)
                    if outlines
                    else mask_tile(masks[index])
                    for index in chosen
                ]
            )
        rows.append([image_tile(images[index], view) for index in chosen])
        row_titles += [title, "image"] if masks is not None else [""]
        tile_titles += [titles[start : chosen.stop]] + [()] * (masks is not None)
    caption = "\n".join(filter(None, (caption, view.caption(channels))))
    write_grid(
        path,
        rows,
        row_titles=row_titles if masks is not None else (),
        tile_titles=tile_titles,
        caption=caption,
    )


def write_comparison(
    path: Path, images: Mapping[str, np.ndarray], *, view: View | None = None
) -> None:
    """Writes several versions of the same images as a PNG: one row per version.

    Args:
      path: the PNG file.
      images: title of the row -> [N, *S, C].
      view: None for `shared_view` of the last version.
    """
    last = list(images.values())[-1]
    view = view or shared_view(last)
    rows = [[image_tile(image, view) for image in version] for version in images.values()]
    write_grid(path, rows, row_titles=list(images), caption=view.caption(last.shape[-1]))


def write_trajectory(
    path: Path,
    trajectory: np.ndarray,
    *,
    row_titles: Sequence[str] = (),
    view: View | None = None,
    columns: int = 11,
    caption: str = "",
) -> None:
    """Writes the states between noise and image as a PNG, one row per sample.

    Args:
      path: the PNG file.
      trajectory: [T, N, *S, C], states at T equally spaced times from 0 to 1.
      row_titles: one per sample; () for none.
      view: None for `shared_view` of the last states; earlier ones may lie beyond it.
      columns: states to show, spread evenly from the first to the last; fewer where channels are
        side by side.
      caption: written before the view's.
    """
    view, channels = view or shared_view(trajectory[-1]), trajectory.shape[-1]
    last, columns = len(trajectory) - 1, max(2, columns // view.across(channels))
    steps = np.unique(np.rint(np.linspace(0, last, min(columns, last + 1))).astype(int))
    write_grid(
        path,
        [
            [image_tile(trajectory[step, index], view) for step in steps]
            for index in range(trajectory.shape[1])
        ],
        row_titles=row_titles,
        column_titles=[f"t = {step / max(last, 1):.3g}" for step in steps],
        caption="\n".join(filter(None, (caption, view.caption(channels)))),
    )


def write_preview(path: Path, source: Any, num: int) -> int:
    """Writes examples spread over a source as a PNG, each above a copy with its mask laid over.

    Args:
      path: the PNG file.
      source: a sequence of records, with `classes`, `mask_labels`, and if known `channel_names`.
      num: examples, at most the length of the source.

    Returns:
      The number of examples shown.

    Raises:
      ValueError: num below 1.
    """
    if num < 1:
        raise ValueError(f"{num} examples: 1 or more needed")
    num = min(num, len(source))
    records = [source[int(index)] for index in np.linspace(0, len(source) - 1, num).round()]
    names, channels = getattr(source, "channel_names", ()), records[0].image.shape[-1]
    view = shared_view(np.stack([record.image for record in records]), names)
    # volumes make wide tiles
    columns = max(1, 4 // view.across(channels)) if records[0].image.ndim == 3 else 1
    rows, row_titles, tile_titles = [], [], []
    for start in range(0, num, columns):
        chosen = records[start : start + columns]
        rows.append([image_tile(record.image, view) for record in chosen])
        row_titles.append("image")
        tile_titles.append([_title(record, source.classes) for record in chosen])
        if all(record.mask is not None for record in chosen):
            rows.append([overlay_tile(record.image, record.mask, view) for record in chosen])
            row_titles.append("with mask")
            tile_titles.append([])
    masks = [f"masks: {', '.join(source.mask_labels)}"] if source.mask_labels else []
    write_grid(
        path,
        rows,
        row_titles=row_titles,
        tile_titles=tile_titles,
        caption="\n".join([*masks, view.caption(channels)]),
    )
    return num


def write_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> None:
    """Writes a plot of curves as a PNG.

    Args:
      path: the PNG file.
      curves: name -> (x, y).
      xlabel, ylabel: of the axes.
      log: logarithmic y.
    """
    from matplotlib.figure import Figure  # slow to import; needs no display

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        axes.plot(x, y, label=name, marker="." if len(x) < 40 else None, linewidth=1.2)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120)


def _wrap(text: str, font: Any, width: float) -> list[str]:
    lines = []
    for paragraph in filter(None, text.split("\n")):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _shorten(text: str, font: Any, width: float) -> str:
    while text and font.getlength(text) > width:
        text = text[:-2] + "." if len(text) > 2 else ""
    return text


def _title(record: Any, classes: Sequence[str] | None) -> str:
    if record.label is None:
        return record.meta["name"]
    name = classes[record.label] if classes else record.label
    return f"{record.meta['patient'].removeprefix('patient')} {name}"
