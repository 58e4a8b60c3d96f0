"""Pictures (PNG) of images, masks, trajectories and curves.

A picture is assembled from tiles, uint8 RGB arrays [h, w, 3]. All grey tiles of a picture share one
window [low, high], which the picture states, so that brightness can be compared across tiles.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motfm_jax.io.folders import whole_file

Window = tuple[float, float]

# Background first. Colour-blind readers can tell them apart, too (Okabe and Ito 2008).
_COLOURS = "000000 56b4e9 e69f00 009e73 cc79a7 f0e442 0072b2 d55e00"
MASK_COLOURS = np.frombuffer(bytes.fromhex(_COLOURS), np.uint8).reshape(-1, 3)
SMALLEST_TILE = 112  # smaller tiles are enlarged by a whole factor, without smoothing
FONT_SIZE, GAP = 13, 4
OPACITY = 0.35  # of masks over images


def shared_window(images: np.ndarray) -> Window:
    """Grey window [low, high] of many images: the 0.5 and 99.5 percentiles of all their values."""
    low, high = np.percentile(np.asarray(images, np.float32), (0.5, 99.5))
    return float(low), float(high) if high > low else float(low) + 1.0


def grey_tile(image: np.ndarray, window: Window) -> np.ndarray:
    """An image as a tile; a volume as `three_planes`.

    Args:
      image: [*S, C]; only the first channel is shown.
      window: the intensities that become black and white.
    """
    low, high = window
    plane = _flat(np.asarray(image, np.float32)[..., 0], fill=low)
    grey = np.clip((plane - low) / (high - low), 0, 1) * 255
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)


def mask_tile(mask: np.ndarray) -> np.ndarray:
    """A label map [*S] as a tile in MASK_COLOURS. Label 8 has the colour of label 1 again."""
    return _colours(_flat(np.asarray(mask), fill=0))


def overlay_tile(image: np.ndarray, mask: np.ndarray, window: Window) -> np.ndarray:
    """`grey_tile` under the colours of `mask` [*S]; the background stays grey."""
    grey, labels = grey_tile(image, window), _flat(np.asarray(mask), fill=0)
    mixed = (1 - OPACITY) * grey + OPACITY * _colours(labels)
    return np.where((labels > 0)[..., None], np.rint(mixed), grey).astype(np.uint8)


def three_planes(volume: np.ndarray) -> np.ndarray:
    """The three middle planes of a volume side by side.

    Args:
      volume: [I, J, K]. For axes to the right, front and top (RAS) these are the axial, coronal
        and sagittal planes with front and top upwards, and the patient's left on the left.

    Returns:
      [max(J, K), 2 I + J], planes centred in height; NaN (float volumes) or 0 around them.
    """
    i, j, k = (extent // 2 for extent in volume.shape)
    planes = [volume[:, :, k], volume[:, j, :], volume[i, :, :]]
    height = max(plane.shape[1] for plane in planes)
    fill = np.nan if volume.dtype.kind == "f" else 0
    columns = []
    for plane in planes:
        upright = plane.T[::-1]
        above = (height - upright.shape[0]) // 2
        below = height - upright.shape[0] - above
        columns.append(np.pad(upright, ((above, below), (0, 0)), constant_values=fill))
    return np.concatenate(columns, axis=1)


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
      rows: tiles [h, w, 3] of one size; rows may differ in length.
      row_titles: left of the rows; () for none.
      column_titles: above the first row; () for none.
      tile_titles: in place of column_titles, one list per row; () for a row without titles.
      caption: lines below the tiles, such as `window_caption`; wrapped to the width.
    """
    titles = [*(tile_titles or [column_titles])] + [()] * len(rows)
    height, width = rows[0][0].shape[:2]
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


def window_caption(window: Window) -> str:
    """The line that states a picture's window."""
    return f"grey window {window[0]:.4g} to {window[1]:.4g}, the same for all images"


def write_samples(
    path: Path,
    images: np.ndarray,
    *,
    masks: np.ndarray | None = None,
    titles: Sequence[str] = (),
    window: Window | None = None,
    columns: int = 8,
    caption: str = "",
) -> None:
    """Writes images as a PNG grid, each below its mask if it has one.

    Args:
      path: the PNG file.
      images: [N, *S, C].
      masks: [N, *S] labels, or None.
      titles: one per image, such as its class; () for none.
      window: None for `shared_window` of the images.
      columns: images per row; a quarter of it for volumes, whose tiles are wide.
      caption: written before the window's.
    """
    window = window or shared_window(images)
    columns = min(columns if images.ndim == 4 else max(1, columns // 4), len(images))
    rows, row_titles, tile_titles = [], [], []
    for start in range(0, len(images), columns):
        chosen = range(start, min(start + columns, len(images)))
        if masks is not None:
            rows.append([mask_tile(masks[index]) for index in chosen])
        rows.append([grey_tile(images[index], window) for index in chosen])
        row_titles += ["mask", "image"] if masks is not None else [""]
        tile_titles += [titles[start : chosen.stop]] + [()] * (masks is not None)
    caption = "\n".join(filter(None, (caption, window_caption(window))))
    write_grid(
        path,
        rows,
        row_titles=row_titles if masks is not None else (),
        tile_titles=tile_titles,
        caption=caption,
    )


def write_comparison(
    path: Path, images: Mapping[str, np.ndarray], *, window: Window | None = None
) -> None:
    """Writes several versions of the same images as a PNG: one row per version.

    Args:
      path: the PNG file.
      images: title of the row -> [N, *S, C].
      window: None for `shared_window` of the last version.
    """
    window = window or shared_window(list(images.values())[-1])
    rows = [[grey_tile(image, window) for image in version] for version in images.values()]
    write_grid(path, rows, row_titles=list(images), caption=window_caption(window))


def write_trajectory(
    path: Path,
    trajectory: np.ndarray,
    *,
    row_titles: Sequence[str] = (),
    window: Window | None = None,
    columns: int = 11,
    caption: str = "",
) -> None:
    """Writes the states between noise and image as a PNG, one row per sample.

    Args:
      path: the PNG file.
      trajectory: [T, N, *S, C], states at T equally spaced times from 0 to 1.
      row_titles: one per sample; () for none.
      window: None for `shared_window` of the last states; earlier ones may lie beyond it.
      columns: states to show, spread evenly from the first to the last.
      caption: written before the window's.
    """
    window = window or shared_window(trajectory[-1])
    last = len(trajectory) - 1
    steps = np.unique(np.rint(np.linspace(0, last, min(columns, last + 1))).astype(int))
    write_grid(
        path,
        [
            [grey_tile(trajectory[step, index], window) for step in steps]
            for index in range(trajectory.shape[1])
        ],
        row_titles=row_titles,
        column_titles=[f"t = {step / max(last, 1):.3g}" for step in steps],
        caption="\n".join(filter(None, (caption, window_caption(window)))),
    )


def write_preview(path: Path, source: Any, num: int) -> int:
    """Writes examples spread over a source as a PNG, each above a copy with its mask laid over.

    Args:
      path: the PNG file.
      source: a sequence of records, with `classes` and `mask_labels`.
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


def _flat(image: np.ndarray, fill: float) -> np.ndarray:
    """[H, W] unchanged; [I, J, K] as three planes with `fill` around them."""
    if image.ndim == 2:
        return image
    planes = three_planes(image)
    return np.where(np.isnan(planes), fill, planes) if planes.dtype.kind == "f" else planes


def _colours(labels: np.ndarray) -> np.ndarray:
    others = len(MASK_COLOURS) - 1
    labels = labels.astype(np.int64)
    return MASK_COLOURS[np.where(labels > 0, (labels - 1) % others + 1, 0)]


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
