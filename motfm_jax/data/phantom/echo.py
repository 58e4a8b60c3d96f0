"""A simulated apical echocardiogram: anatomy in millimetres, scanned by a sector transducer.

Positions are (x, y) in millimetres from the transducer, x to the right, y into the body. The left
ventricle hangs from its apex towards its base and the left atrium; in the four-chamber view the
right ventricle and atrium lie to the left of the septum.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

from motfm_jax.data.phantom.texture import smooth_field, speckle

VIEWS = ("2CH", "4CH")
PHASES = ("ED", "ES")
LABELS = ("background", "cavity", "myocardium", "atrium")
BEAMS, SAMPLES = 96, 224  # the scanner's grid, whatever the size of the picture
POINT_SPREAD = (0.9, 1.0)  # standard deviation: samples in depth, beams across


class Heart(NamedTuple):
    """One patient's heart in one view and phase, and the sector it is seen in.

    Lengths in millimetres, angles in radians. "left" and "right" are sides of the picture.
    """

    depth: float  # of the sector
    half_angle: float  # of the sector
    apex: tuple[float, float]  # of the cavity
    tilt: float  # of the long axis, positive when the base lies to the right
    length: float  # apex to mitral plane
    bend: float  # how far the middle of the long axis bows to the right
    half_width: float  # of the cavity, where it is widest
    widest: float  # where that is, as a fraction of the length
    taper: float  # by which fraction the cavity narrows from there to the base
    wall: tuple[float, float, float]  # thickness at left, right, apex
    base_slope: float  # of the mitral plane
    atrium: tuple[float, float]  # length, half-width
    right_heart: float  # half-width of the right ventricle; 0 in the two-chamber view


class Scan(NamedTuple):
    """How the scanner was set for one patient and view. Levels in dB relative to myocardium."""

    blood: float
    tissue: float  # around the heart
    haze: float  # reverberation clutter, strongest near the transducer
    line: float  # valves and pericardium
    attenuation: float  # left after time-gain compensation, dB a millimetre
    gain: float
    dynamic_range: float


def draw_heart(seed: int, patient: int, view: str, phase: str) -> Heart:
    """The anatomy: a pure function of its arguments; phases and views share the patient's draw."""
    rng = np.random.default_rng((seed, patient))
    size = rng.normal(1.0, 0.07)
    depth = rng.uniform(112, 138) * np.clip(size, 0.92, 1.1)
    half_angle = rng.uniform(0.72, 0.80)
    contraction = rng.uniform(0.6, 1.0)  # 1: healthy
    half_width = size * rng.uniform(18, 24)
    wall = size * rng.uniform(8, 12)
    length = size * rng.uniform(62, 78)
    atrium_length = size * rng.uniform(32, 48)
    right_heart = size * rng.uniform(11, 17)

    rng = np.random.default_rng((seed, patient, 1 + VIEWS.index(view)))
    four = view == "4CH"
    tilt = rng.normal(0.05 if four else 0.08, 0.08)
    apex = (rng.normal(6 if four else -2, 4), rng.uniform(0.20, 0.26) * depth)
    length *= rng.uniform(0.95, 1.05)
    half_width *= rng.uniform(0.92, 1.08)
    bend = rng.normal(2.0 if four else 3.5, 2.0)
    left, right, tip = wall * rng.uniform((1.0, 0.8, 0.6), (1.3, 1.1, 0.9))
    base_slope = rng.normal(-0.05, 0.1)
    widest, taper = rng.uniform(0.5, 0.72), rng.uniform(0.1, 0.3)
    atrium_half_width = half_width * rng.uniform(0.7, 0.95)
    if phase == "ES":
        length *= 1 - 0.16 * contraction
        half_width *= 1 - 0.36 * contraction
        left, right, tip = np.array((left, right, tip)) * (1 + 0.4 * contraction)
        apex = (apex[0], apex[1] + 1.5)
        atrium_length *= 1 + 0.3 * contraction
        atrium_half_width *= 1 + 0.12 * contraction
    values = (
        depth,
        half_angle,
        apex,
        tilt,
        length,
        bend,
        half_width,
        widest,
        taper,
        (left, right, tip),
        base_slope,
        (atrium_length, atrium_half_width),
        right_heart if four else 0.0,
    )
    return Heart(*map(_plain, values))  # NumPy's float64 scalars would widen float32 grids


def _plain(value):
    return tuple(map(float, value)) if isinstance(value, tuple) else float(value)


def draw_scan(rng: np.random.Generator) -> Scan:
    return Scan(
        blood=float(rng.uniform(-26, -18)),
        tissue=float(rng.uniform(-8, 0)),
        haze=float(rng.uniform(-20, -12)),
        line=float(rng.uniform(4, 11)),
        attenuation=float(rng.uniform(-0.04, 0.10)),
        gain=float(rng.uniform(-30, -18)),
        dynamic_range=float(rng.uniform(52, 62)),
    )


class Regions(NamedTuple):
    """Where things are, on a grid of any shape; all arrays [...]."""

    labels: np.ndarray  # uint8, indices of LABELS
    right_blood: np.ndarray  # bool: right ventricle and atrium
    lines: np.ndarray  # float32 in 0 .. 1: mitral and tricuspid leaflets, pericardium
    across: np.ndarray  # millimetres to the right of the long axis


def regions(heart: Heart, x: np.ndarray, y: np.ndarray) -> Regions:
    """Anatomy at positions x, y [...] in millimetres."""
    dx, dy = x - heart.apex[0], y - heart.apex[1]
    sin, cos = math.sin(heart.tilt), math.cos(heart.tilt)
    along = sin * dx + cos * dy
    middle = np.clip(along / heart.length, -0.3, 1)
    across = cos * dx - sin * dy - 4 * heart.bend * middle * (1 - middle)
    side = np.abs(across)

    left, right, tip = heart.wall
    base = heart.length + heart.base_slope * across
    cavity_side = heart.half_width * _dome(along / heart.length, heart.widest, heart.taper)
    rightness = 0.5 + 0.5 * np.clip(across / heart.half_width, -1, 1)
    grown = heart.half_width + left + (right - left) * rightness
    dome = _dome((along + tip) / (heart.length + tip), heart.widest, 0.6 * heart.taper)
    outer_side = grown * dome
    above = along <= base
    cavity = above & (side < cavity_side)
    myocardium = above & (side < outer_side) & ~cavity

    atrium_length, atrium_width = heart.atrium
    below = along - base
    annulus = heart.half_width * (1 - heart.taper)
    atrium = side < _bulb(below / atrium_length, 0.8 * min(annulus, atrium_width), atrium_width)
    labels = np.where(cavity, 1, np.where(myocardium, 2, np.where(atrium, 3, 0)))

    lines = _line(below + 0.18 * annulus * np.cos(np.clip(side / annulus, 0, 1) * np.pi / 2), 0.9)
    lines = lines * (side < annulus)
    pericardium = _line(side - outer_side - 1.5, 1.5) * (across > 0) * above
    roof = _line(side - _bulb(below / (atrium_length + 5), 0.0, atrium_width + 4), 1.5)
    lines = np.maximum(lines, np.maximum(0.8 * pericardium, 0.7 * roof * (below > 0)))
    right_blood = np.zeros(labels.shape, bool)
    if heart.right_heart > 0:
        right_blood, valve = _right_heart(heart, across + outer_side, along / heart.length, below)
        right_blood &= labels == 0
        lines = np.maximum(lines, valve)
    return Regions(labels.astype(np.uint8), right_blood, lines.astype(np.float32), across)


def _right_heart(heart: Heart, from_septum, along, below):
    """Right ventricle and atrium beside the septum: blood mask, tricuspid line."""
    width = 2 * heart.right_heart
    tricuspid = below - 0.06 * heart.length  # a little nearer the apex than the mitral plane
    ventricle_width = width * _dome((along - 0.25) / 0.75, 0.7, 0.15)
    ventricle = (from_septum < 0) & (from_septum > -ventricle_width) & (tricuspid < 0)
    atrium_length, atrium_width = heart.atrium
    centre = -0.55 * width + 0.2 * heart.wall[0]
    atrium = np.abs(from_septum - centre) < _bulb(
        tricuspid / (0.95 * atrium_length), 0.3 * width, 0.5 * width + 0.15 * atrium_width
    )
    valve = _line(tricuspid + 2 * np.cos((from_septum - centre) / width * np.pi), 0.8)
    valve = valve * (from_septum < 0) * (from_septum > -ventricle_width)
    free_wall = _line(from_septum + ventricle_width + 2, 1.5) * (tricuspid < 0) * (along > 0.3)
    return ventricle | atrium, np.maximum(valve, 0.6 * free_wall)


def _dome(fraction, widest, taper):
    """Half-width, as a fraction of the largest, of a chamber closed at 0 and open at 1."""
    above = np.clip((widest - fraction) / widest, 0, 1)
    closed = np.sqrt(1 - above * above * np.sqrt(above))  # a little blunter than an ellipse
    opening = 1 - taper * ((fraction - widest) / (1 - widest)) ** 2
    return np.where(fraction < 0, 0, np.where(fraction < widest, closed, opening))


def _bulb(fraction, neck, width):
    """Half-width of a sac that opens at 0 with half-width `neck` and closes at 1."""
    opening = neck + (width - neck) * np.sin(np.clip(fraction / 0.45, 0, 1) * np.pi / 2)
    closing = width * np.sqrt(np.clip(1 - ((fraction - 0.45) / 0.55) ** 2, 0, None))
    return np.where(fraction <= 0, 0, np.where(fraction < 0.45, opening, closing))


def _line(distance, width):
    """1 on a line, falling off as a Gaussian over `width`."""
    return np.exp(-0.5 * (distance / width) ** 2)


def render_echo(
    seed: int, patient: int, view: str, phase: str, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """One frame, its mask and its pixel spacing.

    The picture spans the sector's bounding box, whatever its aspect ratio; pixel [i, j] is centred
    at depth (i + 0.5) * spacing[0] and at (j + 0.5 - W / 2) * spacing[1] from the midline.

    Returns:
      image [H, W] uint8, mask [H, W] uint8 (indices of LABELS), spacing (rows, columns) in mm.
    """
    heart = draw_heart(seed, patient, view, phase)
    box = sector_mm(heart)
    echo = _log_envelope(heart, seed, patient, view, phase)
    fine = tuple(n * max(1, round(112 / n)) for n in size)  # averaged where pixels are coarse
    x, y = _positions(box, fine)
    radius = np.hypot(x, y) * ((SAMPLES - 1) / heart.depth)
    beam = (np.arctan2(x, y) / heart.half_angle + 1) * ((BEAMS - 1) / 2)
    image = map_coordinates(echo, [radius, beam], order=1, mode="constant", cval=0)
    image = image.reshape(size[0], fine[0] // size[0], size[1], fine[1] // size[1]).mean((1, 3))

    x, y = _positions(box, size)
    seen = (np.hypot(x, y) <= heart.depth) & (np.abs(np.arctan2(x, y)) <= heart.half_angle)
    mask = regions(heart, x, y).labels * seen
    spacing = (box[0] / size[0], box[1] / size[1])
    return np.round(255 * image).astype(np.uint8), mask.astype(np.uint8), spacing


def sector_mm(heart: Heart) -> tuple[float, float]:
    """Height and width of the sector's bounding box in millimetres."""
    return heart.depth, 2 * heart.depth * math.sin(heart.half_angle)


def _positions(box, size):
    """x [1, W] and y [H, 1] of pixel centres, broadcast to [H, W], in millimetres."""
    y = (np.arange(size[0], dtype=np.float32) + 0.5) * np.float32(box[0] / size[0])
    x = (np.arange(size[1], dtype=np.float32) + 0.5 - size[1] / 2) * np.float32(box[1] / size[1])
    return np.broadcast_arrays(x[None, :], y[:, None])


def _log_envelope(heart: Heart, seed: int, patient: int, view: str, phase: str) -> np.ndarray:
    """[SAMPLES, BEAMS] log-compressed echo in 0 .. 1 on the scanner's polar grid."""
    place = (seed, patient, 1 + VIEWS.index(view))
    setting = np.random.default_rng((*place, 3))  # 1 and 2 are the phases'
    scan = draw_scan(setting)
    radius = np.linspace(0, heart.depth, SAMPLES, dtype=np.float32)[:, None]
    angle = np.linspace(-heart.half_angle, heart.half_angle, BEAMS, dtype=np.float32)[None, :]
    seen = regions(heart, radius * np.sin(angle), radius * np.cos(angle))

    axes = (radius[:, 0], 70 * angle[0])  # arc length at a depth of 70 mm
    patches, spots = smooth_field(setting, axes, 45), smooth_field(setting, axes, 9)
    texture = 3.0 * patches + 1.0 * spots + 0.6 * spots * np.abs(spots)
    beams = 3.0 * smooth_field(setting, (60 * angle[0],), 45, 6)
    # The inferior wall's neighbours are bright in two chambers; four chambers have blood there.
    beside = np.where(seen.across < 0, np.float32(5 if heart.right_heart == 0 else 0), 0)
    level = np.select(
        [(seen.labels % 2 == 1) | seen.right_blood, seen.labels == 2],
        [scan.blood + 0 * texture, texture],
        scan.tissue + beside + 1.4 * texture,
    )
    level = np.maximum(level, seen.lines * (scan.line + 0.7 * texture + 30) - 30)
    near = scan.haze + 16 * np.exp(-radius / 12) + 2 * patches
    decibel = 10 / math.log(10)
    power = np.exp(level / decibel) + np.exp(near / decibel)

    rng = np.random.default_rng((*place, 1 + PHASES.index(phase)))
    envelope = speckle(rng, np.sqrt(power), POINT_SPREAD)
    level = 2 * decibel * np.log(envelope + 1e-6) + beams + (scan.gain - scan.attenuation * radius)
    return np.clip(1 + level / scan.dynamic_range, 0, 1)
