"""A simulated brain MRI: folded cortex, ventricles, deep nuclei, cerebellum and brainstem in 3-D.

Positions are (x, y, z) in millimetres from the centre of the picture, to the right, to the front
and up. Every surface is the zero of a depth in millimetres that is positive inside, so that
tissue fractions follow from depths and partial volumes are rendered at any resolution.
"""

from typing import NamedTuple

import numpy as np

from motfm_jax.data.phantom.texture import rician, smooth_field

LABELS = ("background", "csf", "grey", "white")
CLASSES = ("young", "old")
BOX_MM = (156.0, 192.0, 156.0)  # what the picture spans, whatever its size
CONTRASTS = {  # intensity of csf, grey and white matter
    "T1w": (62, 128, 186),
    "T1gd": (70, 135, 180),
    "T2w": (220, 140, 95),
    "FLAIR": (35, 165, 130),
}


class Brain(NamedTuple):
    """One patient's anatomy. Lengths in millimetres."""

    radii: tuple[float, float, float, float]  # half-width, half-length, above, below
    wavelength: float  # of the folds
    sulcus: float  # depth of the folds
    cortex: float  # thickness
    fluid: float  # between the cortex and the middle of a sulcus
    ventricles: float  # width over that of a young adult
    centre: tuple[float, float, float]
    tilt: float  # rotation about the left-right axis, radians


def age_class(seed: int, patient: int) -> int:
    """Index into CLASSES. Classes alternate, so that two patients in a row have both."""
    return (seed + patient) % len(CLASSES)


def draw_brain(rng: np.random.Generator, age: int) -> Brain:
    """One anatomy of class CLASSES[age]: the old have lost cortex to sulci and ventricles."""
    cortex, fluid, ventricles = (
        ((2.4, 2.9), (0.7, 0.9), (0.7, 1.1)),
        ((2.0, 2.4), (1.05, 1.25), (1.3, 1.8)),
    )[age]
    size = rng.normal(1.0, 0.035)
    radii = size * np.array((65.0, 82.0, 64.0, 50.0)) * rng.uniform(0.97, 1.03, 4)
    return Brain(
        radii=tuple(map(float, radii)),
        wavelength=float(rng.uniform(20, 23)),
        sulcus=float(rng.uniform(18, 24)),
        cortex=float(rng.uniform(*cortex)),
        fluid=float(rng.uniform(*fluid)),
        ventricles=float(rng.uniform(*ventricles)),
        centre=tuple(map(float, rng.uniform((-2, -3, 2), (2, 3, 7)))),
        tilt=float(rng.normal(0, 0.06)),
    )


def fractions(brain: Brain, rng: np.random.Generator, axes, soft_mm: float) -> np.ndarray:
    """How much of each voxel is csf, grey and white matter.

    Args:
      brain: the anatomy.
      rng: source of the folds.
      axes: 1-D positions along x, y and z in millimetres.
      soft_mm: distance over which one tissue gives way to the next.

    Returns:
      [3, *S] float32 in 0 .. 1; outside the brain they sum to 0.
    """
    centred = [np.float32(a - c) for a, c in zip(axes, brain.centre, strict=True)]
    x, y, z = np.ix_(*centred)
    y, z = y + np.float32(brain.tilt) * z, z - np.float32(brain.tilt) * y
    depth, to_sulcus = _cerebrum(brain, rng, axes, x, y, z)
    hindbrain, hind_sulcus, stem = _hindbrain(rng, axes, x, y, z)
    behind = hindbrain > depth
    depth = np.where(behind, hindbrain, depth)
    to_sulcus = np.where(behind, hind_sulcus, to_sulcus)

    def inside(distance):
        return np.clip(0.5 + distance / soft_mm, 0, 1)

    brain_fraction = inside(depth)
    to_fluid = np.minimum(np.minimum(depth + 0.3, to_sulcus), -_ventricles(brain, x, y, z))
    fluid = np.where(behind, np.float32(0.8), np.float32(brain.fluid))
    solid = inside(to_fluid - fluid)
    cortical = np.minimum(depth, to_sulcus) - fluid
    white = inside(np.maximum(cortical - np.where(behind, 1.8, brain.cortex), stem))
    white = np.minimum(white, inside(-_nuclei(x, y, z)))
    return np.stack([1 - solid, solid * (1 - white), solid * white]) * brain_fraction


def _ellipsoid(x, y, z, centre, radii):
    """Depth below an ellipsoid's surface, roughly in millimetres: positive inside."""
    offsets = zip((x, y, z), centre, radii, strict=True)
    norm = np.sqrt(sum(((p - np.float32(c)) / np.float32(r)) ** 2 for p, c, r in offsets))
    return (1 - norm) * np.float32(min(radii))


def _cerebrum(brain, rng, axes, x, y, z):
    """Depth below the hull, and distance to the nearest sulcus or fissure."""
    wide, long, above, below = map(np.float32, brain.radii)
    wide = wide * (1 - 0.12 * np.clip(y / long, 0, 1))  # narrower in front
    squared = (x / wide) ** 2 + (y / long) ** 2
    norm = np.sqrt(squared + np.where(z > 0, z / above, z / below) ** 2)
    depth = (1 - norm) * np.float32(50) + 1.2 * smooth_field(rng, axes, 50)
    underside = np.exp(-((x / 20) ** 2) - ((y + 10) / 60) ** 2)  # hollow between temporal lobes
    depth = depth - 30 * underside * np.clip(-(z + 14) / 22, 0, 1)

    # Folds lie where a random field of one wavelength crosses zero; near the zero, distance is
    # |field| over its typical slope. A fold ends at its own depth below the hull.
    slope = 2 * np.pi / brain.wavelength
    folds = np.abs(smooth_field(rng, axes, brain.wavelength, 40)) / np.float32(slope)
    wander = smooth_field(rng, axes, 40)
    reach = brain.sulcus + 4 * wander
    to_fold = np.hypot(folds, np.maximum(depth - reach, 0))
    core = _ellipsoid(x, y, z, (0, -4, 3), (60, 42, 22))  # what the fissures do not enter
    midline = np.hypot(np.abs(x) + 0.2, 1.5 * np.maximum(core + 3, 0))
    lateral = np.abs(z + 6 - 0.35 * (y + 5) + 3 * wander)
    short = np.maximum(np.maximum(32 - np.abs(x), 0), np.maximum(np.abs(y - 5) - 28, 0))
    return depth, np.minimum(np.minimum(to_fold, midline), np.hypot(lateral, short))


def _hindbrain(rng, axes, x, y, z):
    """Cerebellum and brainstem: depth, distance to the nearest folium, depth in the stem."""
    cerebellum = _ellipsoid(x, y, z, (0, -46, -43), (48, 28, 22))
    around = np.hypot(y + 22, z + 40) + 2 * smooth_field(rng, axes, 30)  # leaves circle the stem
    leaves = np.sin(around * np.float32(2 * np.pi / 10) + 0.5 * smooth_field(rng, axes, 20))
    folium = np.hypot(np.abs(leaves) * 1.5 + 0.3, 0.6 * np.maximum(cerebellum - 12, 0))
    lean = y + 18 - 0.25 * (z + 40)
    girth = 11 + 3 * np.exp(-(((z + 34) / 9) ** 2))  # the pons
    stem = np.minimum(girth - np.hypot(x, lean), 28 - np.abs(z + 38))
    return np.maximum(cerebellum, stem), np.maximum(folium, stem), stem


def _ventricles(brain, x, y, z):
    """Depth inside lateral, third and fourth ventricles."""
    size = np.float32(brain.ventricles)
    arch = z - 13 + ((y + 2) / 13) ** 2
    apart = np.abs(x) - 5 * size**0.75 - 0.15 * np.abs(y + 2)
    norm = np.sqrt((apart / (4 * size)) ** 2 + ((y + 2) / 31) ** 2 + (arch / (6 * size)) ** 2)
    lateral = (1 - norm) * 4 * size
    third = _ellipsoid(x, y, z, (0, -8, -1), (2.2 * size, 12, 10))
    fourth = _ellipsoid(x, y, z, (0, -31, -38), (6, 4, 8))
    return np.maximum(np.maximum(lateral, third), fourth)


def _nuclei(x, y, z):
    """Depth inside thalamus, putamen and caudate of either side."""
    side = np.abs(x)
    thalamus = _ellipsoid(side, y, z, (10, -14, 3), (8, 13, 8))
    putamen = _ellipsoid(side - 0.25 * np.abs(y), y, z, (23, 4, 1), (5, 17, 9))
    caudate = _ellipsoid(side, y, z, (13, 16, 8), (5, 9, 8))
    return np.maximum(np.maximum(thalamus, putamen), caudate)


def render_brain(
    seed: int, patient: int, size: tuple[int, int, int], contrasts: tuple[str, ...] = ("T1w",)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One patient's volume, labels and affine.

    Volumes span BOX_MM whatever their size, with axes to the right, to the front and up. Outside
    the brain they are exactly 0, as after brain extraction. The patient is young or old by
    `age_class`.

    Returns:
      image [*S, len(contrasts)] uint8, labels [*S] uint8 (indices of LABELS), affine [4, 4]
      float64 from voxel indices to millimetres.
    """
    rng = np.random.default_rng((seed, patient))
    brain = draw_brain(rng, age_class(seed, patient))
    spacing = np.array(BOX_MM) / size
    finer = np.maximum(1, np.ceil(spacing / 3.2)).astype(int)  # averaged where voxels are coarse
    axes = [
        (np.arange(n * k) + 0.5) * box / (n * k) - box / 2
        for n, k, box in zip(size, finer, BOX_MM, strict=True)
    ]
    tissue = fractions(brain, rng, axes, soft_mm=float(np.mean(spacing / finer)))
    (a, b, c), (i, j, k) = size, finer
    tissue = tissue.reshape(3, a, i, b, j, c, k).mean((2, 4, 6))
    total = tissue.sum(0)
    labels = np.where(total > 0.5, 1 + tissue.argmax(0), 0).astype(np.uint8)

    centres = [(np.arange(n) + 0.5) * box / n for n, box in zip(size, BOX_MM, strict=True)]
    bias = np.exp(0.08 * smooth_field(rng, centres, 260, 6))
    gain, sigma = rng.uniform(0.88, 1.12), rng.uniform(2.0, 6.0)
    channels = []
    for name in contrasts:
        clean = np.tensordot(np.float32(CONTRASTS[name]), tissue, 1) * bias * np.float32(gain)
        noisy = rician(rng, clean, sigma) * (labels > 0)
        channels.append(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = spacing / 2 - np.array(BOX_MM) / 2
    return np.stack(channels, -1), labels, affine
