"""The folder of generated images: taking it, writing it, and its sidecar.

out/{samples.npz, samples.json (the sidecar), grid.png, [trajectory.npz, trajectory.png],
     [sample_0000{,_mask}.nii.gz, ...], [sample_0000{,_mask}.png, ...], [samples.pkl]}
and out/.partial/, out/lock while sampling
"""

import contextlib
import datetime
import functools
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from motfm_jax.data import convert, nifti
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.source import Record
from motfm_jax.io import pictures
from motfm_jax.io.environment import environment
from motfm_jax.io.folders import claimed, read_json, write_json
from motfm_jax.io.npz import write_npz
from motfm_jax.io.tiles import View, shared_view

if TYPE_CHECKING:
    from motfm_jax.sampling.sample import Samples

FORMAT = "motfm_jax samples 1"
SIDECAR, PARTIAL, SETTINGS = "samples.json", ".partial", "settings.json"
# Everything that is written here. The sidecar shows whose folder this is, so it is deleted last.
OWN = (
    r"grid\.png|trajectory\.(npz|png)|samples\.(npz|pkl)|sample_\d+(_mask)?(\.png|\.nii\.gz)",
    re.escape(SIDECAR),
)
MAX_GRID = {2: 64, 3: 16}  # images in the picture


@contextlib.contextmanager
def claim(out: Path, settings: Mapping[str, Any], overwrite: bool = False) -> Iterator[Path | None]:
    """Takes a folder for images with these settings.

    Args:
      out: the folder; created if needed. Foreign files in it stay.
      settings: everything that the outputs depend on, JSON-able.
      overwrite: delete the images that are there, whatever their settings. Only what this module
        writes is deleted, and only if a sidecar or a settings file shows that it did.

    Yields:
      the folder for finished batches, which is deleted when the block ends without an error and
      otherwise kept for the next call; or None if all outputs are there already.

    Raises:
      ValueError: the images there have other settings, or are not ours, or are being sampled now.
    """
    out, partial = Path(out), Path(out) / PARTIAL
    settings = json.loads(json.dumps(settings))
    if not overwrite and _is_complete(out, settings):
        shutil.rmtree(partial, ignore_errors=True)  # left by a process killed at its very end
        yield None
        return
    recall = functools.partial(_recall, overwrite=overwrite)
    with claimed(out, settings, recall, OWN) as resumes:
        partial.mkdir(exist_ok=True)
        if not resumes:  # batches first: without the settings nobody would know whose they are
            for batch in partial.glob("*batch_*"):
                batch.unlink()
        write_json(partial / SETTINGS, settings)
        yield partial
        shutil.rmtree(partial, ignore_errors=True)


def read_sidecar(out: Path) -> dict[str, Any]:
    """The sidecar of a finished folder; empty if it is missing or damaged."""
    sidecar = _read(out / SIDECAR)
    ours = sidecar.get("format") == FORMAT and isinstance(sidecar.get("settings"), dict)
    return sidecar if ours else {}


def read_samples(out: Path) -> dict[str, Any]:
    """The sidecar of a finished folder whose images are in the units of the data.

    Raises:
      ValueError: the folder holds no samples, or raw ones.
    """
    sidecar = read_sidecar(out)
    if not (sidecar and (out / "samples.npz").is_file()):
        raise ValueError(f"{out}: no samples.json and samples.npz of motfm sample; sample there")
    if sidecar["settings"].get("raw"):
        raise ValueError(f"{out}: made with --raw; sample again without it")
    return sidecar


def _recall(out: Path, overwrite: bool) -> dict[str, Any] | None:
    """The settings of the images in a folder, or None to start afresh."""
    before = read_sidecar(out).get("settings") or _read(out / PARTIAL / SETTINGS)
    present = [
        path.name for path in sorted(out.glob("*")) if re.fullmatch("|".join(OWN), path.name)
    ]
    present += [path.name for path in (out / PARTIAL).glob("batch_*")]
    if present and not before:
        raise ValueError(
            f"{out}: holds {present[0]}, which was not written by sampling; give another --out"
        )
    return before if before and not overwrite else None


def _is_complete(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the images of these settings are there. The sidecar is written last."""
    return read_sidecar(out).get("settings") == settings and zipfile.is_zipfile(out / "samples.npz")


def draw_grid(path: Path, samples: "Samples") -> None:
    """The first images with their masks and class names."""
    images, names, drawn = samples.images, _class_names(samples), _to_draw(samples.masks)
    count = min(len(images), MAX_GRID[images.ndim - 2])
    pictures.write_samples(
        path,
        images[:count],
        masks=None if drawn is None else drawn[:count],
        titles=names[:count],
        view=shared_view(images, samples.model.facts.channel_names),
        caption=f"{_note(samples)}; images 0 to {count - 1} of {len(images)}",
        outlines=samples.generated.masks is not None,
    )


def write(out: Path, samples: "Samples") -> None:
    """Writes the outputs; the sidecar last.

    Args:
      out: the folder, claimed.
      samples: N images.
    """
    images, settings = samples.images, samples.settings()
    write_npz(out / "samples.npz", images=images, masks=samples.masks, classes=samples.labels)
    draw_grid(out / "grid.png", samples)
    states = samples.trajectory
    if states is not None:
        times = np.linspace(0, 1, len(states), dtype=np.float32)
        write_npz(out / "trajectory.npz", states=states, times=times)
        names = _class_names(samples)[: states.shape[1]]
        pictures.write_trajectory(
            out / "trajectory.png",
            states,
            row_titles=[f"{index} {name}" for index, name in enumerate(names)],
            view=shared_view(images, samples.model.facts.channel_names),
            caption=_note(samples),
        )
    digits = max(4, len(str(len(images) - 1)))
    stems = [out / f"sample_{index:0{digits}}" for index in range(len(images))]
    if settings["nifti"]:
        _write_niftis(stems, samples)
    if settings.get("png"):
        _write_pngs(stems, samples)
    if settings["pickle"]:
        entries = _entries(samples)
        # Under both names, as the original writes generated images for its own loader.
        convert.write_pickle(out / "samples.pkl", {"train": entries, "valid": entries})
    write_json(out / SIDECAR, describe(samples))


def _file_masks(samples: "Samples") -> np.ndarray | None:
    """Masks [N, *S] with the values that the training files have; None without labels."""
    facts, masks = samples.model.facts, samples.masks
    if masks is None or samples.conditions.raw_masks:
        return None
    values = np.array(facts.label_values or range(len(facts.mask_labels)), np.uint32)
    return values.astype(np.min_scalar_type(values.max()))[masks]


def _write_pngs(stems: Sequence[Path], samples: "Samples") -> None:
    """Each frame, and a mask that was made with it."""
    view, channels = _png_view(samples), samples.images.shape[-1]
    low, high = view.windows(channels)
    for stem, image in zip(stems, samples.images):
        scaled = (image - low) / (high - low)
        pictures.write_image(stem.with_suffix(".png"), scaled, view.in_colour(channels))
    masks = _file_masks(samples)
    if masks is not None and samples.generated.masks is not None:
        for stem, mask in zip(stems, masks):
            pictures.write_mask(stem.with_name(f"{stem.name}_mask.png"), mask)


def _write_niftis(stems: Sequence[Path], samples: "Samples") -> None:
    """Each image, and its mask."""
    facts, conditions = samples.model.facts, samples.conditions
    masks = _file_masks(samples)
    for index, stem in enumerate(stems):
        affine = conditions.affines[index] if conditions.affines else None
        affine = facts.affine if affine is None else affine
        parts = {".nii.gz": samples.images[index]}
        if masks is not None:
            parts["_mask.nii.gz"] = masks[index][..., None]
        for end, array in parts.items():
            path = stem.with_name(stem.name + end)
            nifti.write_nifti(path, array, affine, f"synthetic; {FORMAT}")


def _png_view(samples: "Samples") -> View:
    """What is black and white in single pictures: the least and the greatest intensity of the
    training images, or percentiles of images that are in other units."""
    facts = samples.model.facts
    if facts.bounds is None or samples.settings()["raw"]:
        return shared_view(samples.images, facts.channel_names)
    return View(*facts.bounds, facts.channel_names)


def _orientation(facts: Facts) -> str:
    """Where the axes of the images lead."""
    if len(facts.size) == 2:
        return "rows from top to bottom, columns from left to right"
    if facts.affine is None:
        return "unknown: the training data do not state it"
    codes = "".join(nibabel.aff2axcodes(np.array(facts.affine)))
    words = dict(zip("LRPASI", ("left", "right", "back", "front", "top", "bottom")))
    return f"{codes}: axes lead to the patient's {', '.join(words[code] for code in codes)}"


def describe(samples: "Samples") -> dict[str, Any]:
    """The sidecar of the images: where they come from and how they were generated."""
    model, conditions, generated = samples.model, samples.conditions, samples.generated
    settings, steps = samples.settings(), samples.generated.steps
    labelled = samples.masks is not None and not conditions.raw_masks
    made = "image" if generated.masks is None else "image and every mask"
    return {
        "format": FORMAT,
        "synthetic": True,
        "statement": f"Every {made} here was generated by a model; none shows a patient.",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run": model.run,
        "checkpoint": settings["checkpoint"],
        "training_step": settings["training_step"],
        **{name: settings[name] for name in ("num", "seed", "solver")},
        "start_noise": _start(settings["noise"]),
        "steps": int(steps[0]) if (steps == steps[0]).all() else [int(count) for count in steps],
        "calls": _calls(samples),
        "seconds_per_image": None if np.isnan(seconds := generated.seconds_per_image) else seconds,
        "batch": settings["batch"],
        "condition": {
            "kind": model.cond,
            "classes": None if samples.labels is None else _class_names(samples),
            "mask_labels": list(model.facts.mask_labels) if labelled else None,
            "label_values": list(model.facts.label_values) if labelled else None,
            "masks": "as the network takes them"
            if conditions.raw_masks
            else "label numbers"
            if labelled
            else None,
            "from": list(conditions.origins),
        },
        "generated": ["images"] if generated.masks is None else ["images", "masks"],
        "images": {
            "shape": list(generated.images.shape),
            "orientation": _orientation(model.facts),
            "units": _units(model.facts.intensity, settings["raw"]),
            "intensity": dict(model.facts.intensity),
            "min": float(generated.images.min()),
            "max": float(generated.images.max()),
            **({"png": _png(samples)} if settings.get("png") else {}),
        },
        "environment": environment(),
        "settings": settings,
    }


def _png(samples: "Samples") -> dict[str, Any]:
    black, white = _png_view(samples).windows(samples.images.shape[-1])
    return {"black": black.tolist(), "white": white.tolist()}


def _class_names(samples: "Samples") -> list[str]:
    classes = samples.model.facts.classes
    return [] if samples.labels is None else [classes[label] for label in samples.labels]


def _note(samples: "Samples") -> str:
    calls = _calls(samples)
    if isinstance(calls, Mapping):
        calls = f"{calls['min']} to {calls['max']}, mean {calls['mean']:.1f}"
    return f"synthetic; {samples.request.solver.name}, network calls: {calls}"


def _start(noise: str | None) -> str:
    if noise is None:
        return "image i: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i))"
    return f"image i: row i of the arrays given, whose BLAKE2b is {noise}"


def _to_draw(masks: np.ndarray | None) -> np.ndarray | None:
    """Labels [N, *S] to draw. Of masks as the network takes them: the strongest of several
    channels, or the rank of an only channel's values."""
    if masks is None or masks.dtype.kind != "f":
        return masks
    if masks.shape[-1] > 1:
        return masks.argmax(axis=-1)
    return np.unique(masks, return_inverse=True)[1].reshape(masks.shape[:-1])


def _units(intensity: Mapping[str, Any], raw: bool) -> str:
    if intensity["mode"] == "none":
        return "the network's: it was trained on unscaled intensities"
    low, high = intensity["range"]
    scaling = f"the {intensity['mode']} scaling from {Intensity.from_json(intensity).words}"
    scaling += f" to the network's {low:g} .. {high:g}"
    if intensity["scope"] == "sample":
        scaling += " (the median of the training images' own scalings)"
    if intensity["mode"] in ("percentile", "window"):
        scaling += ", which clips training images,"
    return f"the network's: {scaling} is not undone" if raw else f"the data's: {scaling} is undone"


def _entries(samples: "Samples") -> list[dict[str, Any]]:
    masks, labels = samples.masks, samples.labels
    return [
        convert.to_entry(
            Record(
                image,
                None if masks is None else masks[index],
                None if labels is None else int(labels[index]),
                name=f"sample_{index}",
                extra={"synthetic": True},
            ),
            samples.model.facts.classes,
            samples.model.facts.label_values,
        )
        for index, image in enumerate(samples.images)
    ]


def _calls(samples: "Samples") -> int | dict[str, float]:
    """Of an image: one number, or the least, the mean and the most where each took its own."""
    calls = samples.calls
    if samples.request.solver.num_calls is not None:
        return int(calls[0])
    return {"min": int(calls.min()), "mean": float(calls.mean()), "max": int(calls.max())}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
