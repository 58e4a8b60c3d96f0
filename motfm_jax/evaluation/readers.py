"""Makes reader studies: can people tell generated images from real ones?

A study is one HTML file that needs neither server nor network, and a key. The order is sealed: the
page holds the hash of salt and order, the key holds both. So nobody finds the order in the page,
and a key that was changed afterwards is noticed.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation.sets import ImageSet, Real, in_units
from motfm_jax.io.folders import read_json, whole_file, write_json
from motfm_jax.io.tiles import View, data_uri, image_tile, shared_view

PAGE = Path(__file__).with_name("readers.html")
REAL, GENERATED = "real", "generated"
SIDES = ("left", "right")
NOTICE = (
    "study.html shows images of real patients: keep it where these may be kept. key.json says "
    "which are real: keep it from the readers"
)


class Choice(NamedTuple):
    """What a study shows.

    Attributes:
      num: real images, and as many generated ones.
      seed: which of them. Their order is drawn anew for each study.
      pairs: one of each side by side, in place of one after another.
      stack: volumes as axial slices to scroll through, in place of their three middle planes.
    """

    num: int = 50
    seed: int = 0
    pairs: bool = False
    stack: bool = False


def make(
    out: Path, generated: ImageSet, real: Real, intensity: Intensity, choice: Choice
) -> dict[str, Any]:
    """Writes OUT/study.html and OUT/key.json.

    Images are drawn at random. Where they have classes, as many real as generated ones of each are
    drawn, and a pair is of one class. All are shown in one grey window, that of the real ones.

    Args:
      out: folder, made where it does not exist; files of another study there are refused.
      generated: images in the units of the files.
      real: that they are to be told from.
      intensity: of the run; real images are shown as a perfect network would give them.
      choice: see `Choice`.

    Returns:
      The key: "study", the sealed order's hash, "salt" and "truth", of each trial "real" or
      "generated" or, of a pair, the side of the real one; "images", of each trial the rows shown.

    Raises:
      ValueError: fewer images than asked for, images of another shape, or a folder in use.
    """
    for name in ("study.html", "key.json"):
        if (out / name).exists():
            raise ValueError(
                f"{out / name} is there already, and readers may have it: give another --out"
            )
    if choice.stack and len(generated.shape) < 5:
        raise ValueError("--view=stack: these images have two axes; leave it out")
    rows = _drawn(generated, real, choice)
    shown = in_units(real.arrays, intensity, rows[REAL])
    if shown.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"generated images are {generated.shape[1:]}, real ones {shown.shape[1:]}: they must "
            "be of one size"
        )
    images = {
        REAL: shown.take(range(choice.num)),
        GENERATED: generated.take(rows[GENERATED]),
    }
    if not np.isfinite(images[GENERATED]).all():
        raise ValueError("some generated images have values that are not finite; sample again")
    view = shared_view(images[REAL], real.arrays.channel_names)
    salt = secrets.token_hex(16)  # the page alone must not tell the order: not from the seed
    trials, truth = _ordered(choice, np.random.default_rng(int(salt, 16)))
    study = _seal(salt, truth)
    page = {
        "study": study,
        "mode": "pairs" if choice.pairs else "single",
        "trials": [
            [_frames(images[kind][n], view, choice.stack) for kind, n in trial] for trial in trials
        ],
    }
    key = {
        "study": study,
        "mode": page["mode"],
        "salt": salt,
        "truth": truth,
        "images": [[f"{kind} {rows[kind][n]}" for kind, n in trial] for trial in trials],
        "split": real.name,
        "choice": choice._asdict(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "key.json", key)
    text = PAGE.read_text(encoding="utf-8").replace("@DATA@", json.dumps(page))
    with whole_file(out / "study.html") as draft:
        draft.write_text(text, encoding="utf-8")
    return key


def _drawn(generated: ImageSet, real: Real, choice: Choice) -> dict[str, np.ndarray]:
    """Rows of the generated images, and of real ones that match them one by one in class."""
    if choice.seed < 0:
        raise ValueError(f"--seed={choice.seed}: a number from 0 needed")
    random = np.random.default_rng(choice.seed)
    for name, size in ((GENERATED, len(generated)), (real.name, len(real.arrays))):
        if not 0 < choice.num <= size:
            raise ValueError(f"--num={choice.num}: there are {size} {name} images")
    made = random.permutation(len(generated))[: choice.num]
    order = random.permutation(len(real.arrays))
    if generated.labels is None or real.arrays.labels is None:
        return {GENERATED: made, REAL: order[: choice.num]}
    own, classes = np.empty(choice.num, int), real.arrays.classes
    if classes and not ((generated.labels >= 0) & (generated.labels < len(classes))).all():
        raise ValueError(
            f"generated images have classes beyond the run's {len(classes)} "
            f"({', '.join(classes)}); give the run they were sampled from, or one on its data"
        )
    for label in np.unique(generated.labels[made]):
        places = np.flatnonzero(generated.labels[made] == label)
        rows = order[real.arrays.labels[order] == label][: len(places)]
        if len(rows) < len(places):
            name = classes[label] if classes else label
            raise ValueError(
                f"--num={choice.num}: {len(places)} generated images of class {name}, and only "
                f"{len(rows)} real ones in {real.name}; give a smaller --num"
            )
        own[places] = rows
    return {GENERATED: made, REAL: own}


def _ordered(
    choice: Choice, random: np.random.Generator
) -> tuple[list[tuple[tuple[str, int], ...]], list[str]]:
    """Of each trial what it shows, (kind, number) from left to right, and the right answer."""
    if choice.pairs:
        sides = random.permutation(np.arange(choice.num) % 2)
        trials = [((REAL, n), (GENERATED, n))[:: -1 if side else 1] for n, side in enumerate(sides)]
        return trials, [SIDES[side] for side in sides]
    both = [(kind, n) for kind in (REAL, GENERATED) for n in range(choice.num)]
    kept = [both[place] for place in random.permutation(len(both))]
    return [(each,) for each in kept], [kind for kind, _ in kept]


def _seal(salt: str, truth: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([salt, *truth]).encode()).hexdigest()


def _frames(image: np.ndarray, view: View, stack: bool) -> list[str]:
    """An image [*S, C] as PNGs for a page: a frame, a volume's three planes, or its axial slices
    from the lowest."""
    if stack and image.ndim == 4:
        planes = [image[:, :, k].swapaxes(0, 1)[::-1] for k in range(image.shape[2])]
    else:
        planes = [image]
    return [data_uri(image_tile(plane, view)) for plane in planes]


def read_key(path: Path) -> dict[str, Any]:
    """The key of a study; ValueError if it is none, or was changed."""
    key = read_json(path, "give the key.json of motfm study make")
    try:
        sealed = _seal(key["salt"], key["truth"])
        known = key["study"], key["mode"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the key of a study; give its key.json") from error
    if sealed != known[0]:
        raise ValueError(f"{path}: its order is not the one that was sealed; give the original")
    return key
