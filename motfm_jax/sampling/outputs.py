"""The folder of generated images: taking it, writing it, and its sidecar.

out/{samples.npz, samples.json (the sidecar), grid.png, [trajectory.npz, trajectory.png],
     [sample_0000.nii.gz, ...], [samples.pkl]}      and out/.partial/, out/lock while sampling
"""

import contextlib
import datetime
import functools
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax.data import pickles
from motfm_jax.data.records import Facts, Record
from motfm_jax.io import images as pictures
from motfm_jax.io.environment import environment
from motfm_jax.io.files import check_archive, write_npz
from motfm_jax.io.folders import claimed, read_json, write_json
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.generate import Generated

FORMAT = "motfm_jax samples 1"
SIDECAR, PARTIAL, SETTINGS = "samples.json", ".partial", "settings.json"
# Everything that is written here. The sidecar shows whose folder this is, so it is deleted last.
OWN = (
    r"grid\.png|trajectory\.(npz|png)|samples\.(npz|pkl)|sample_\d+\.nii\.gz",
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
    """Whether everything that these settings ask for is there, with readable images."""
    if read_sidecar(out).get("settings") != settings:
        return False
    names = ["grid.png"]
    names += ["trajectory.npz", "trajectory.png"] if settings.get("trajectory") else []
    names += ["samples.pkl"] if settings.get("pickle") else []
    volumes = sum(1 for path in out.iterdir() if re.fullmatch(r"sample_\d+\.nii\.gz", path.name))
    if settings.get("nifti") and volumes != settings.get("num"):
        return False
    try:
        check_archive(out / "samples.npz")
    except ValueError:
        return False
    return all((out / name).is_file() for name in names)


def write(
    out: Path,
    generated: Generated,
    conditions: Conditions,
    sidecar: Mapping[str, Any],
    facts: Facts,
    trajectory: np.ndarray | None = None,
) -> None:
    """Writes the outputs that the sidecar's settings name; the sidecar last.

    Args:
      out: the folder, claimed.
      generated: N images.
      conditions: what they were conditioned on.
      sidecar: what `describe` returns.
      facts: of the training data. Its affine is for images whose condition has none.
      trajectory: [T, K, *S, C], the states of the first K images, or None.
    """
    images, masks, labels = generated.images, conditions.masks, conditions.labels
    names = [] if labels is None else [facts.classes[label] for label in labels]
    note = f"synthetic; {sidecar['solver']['name']}, network calls: {_short(sidecar['calls'])}"
    window, drawn = pictures.shared_window(images), _to_draw(masks)
    write_npz(out / "samples.npz", images=images, masks=masks, classes=labels)
    shown = min(len(images), MAX_GRID[images.ndim - 2])
    pictures.write_samples(
        out / "grid.png",
        images[:shown],
        masks=None if drawn is None else drawn[:shown],
        titles=names[:shown],
        window=window,
        caption=f"{note}; images 0 to {shown - 1} of {len(images)}",
    )
    if trajectory is not None:
        times = np.linspace(0, 1, len(trajectory), dtype=np.float32)
        write_npz(out / "trajectory.npz", states=trajectory, times=times)
        rows = [f"{index} {name}" for index, name in enumerate(names[: trajectory.shape[1]])]
        pictures.write_trajectory(
            out / "trajectory.png", trajectory, row_titles=rows, window=window, caption=note
        )
    if sidecar["settings"]["nifti"]:
        digits = max(4, len(str(len(images) - 1)))
        affines = conditions.affines or [None] * len(images)
        for index, (image, affine) in enumerate(zip(images, affines)):
            pictures.write_nifti(
                out / f"sample_{index:0{digits}}.nii.gz",
                image,
                facts.affine if affine is None else affine,
                f"synthetic; {FORMAT}",
            )
    if sidecar["settings"]["pickle"]:
        entries = _entries(generated, conditions, facts.classes)
        # Under both names, as the original writes generated images for its own loader.
        pickles.write_pickle(out / "samples.pkl", {"train": entries, "valid": entries})
    write_json(out / SIDECAR, sidecar)


def describe(
    run: str,
    kind: str,
    settings: Mapping[str, Any],
    generated: Generated,
    conditions: Conditions,
    facts: Facts,
) -> dict[str, Any]:
    """The sidecar: where the images come from and how they were sampled.

    Args:
      run: the run's folder.
      kind: "none", "class", "mask" or "mask+class".
      settings: as claimed: checkpoint, training_step, seed, noise, raw, num, solver, ... .
      generated, conditions: N images and what they were conditioned on.
      facts: of the training data.
    """
    masks, labels, steps = conditions.masks, conditions.labels, generated.steps
    units = "as the network takes them" if conditions.raw_masks else "label numbers"
    return {
        "format": FORMAT,
        "synthetic": True,
        "statement": "Every image here was generated by a model; none shows a patient.",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run": run,
        "checkpoint": settings["checkpoint"],
        "training_step": settings["training_step"],
        **{name: settings[name] for name in ("num", "seed", "solver")},
        "start_noise": _start(settings["noise"]),
        "steps": int(steps[0]) if (steps == steps[0]).all() else [int(count) for count in steps],
        "calls": _calls(generated.calls, settings["solver"]["name"]),
        "seconds_per_image": generated.seconds_per_image,
        "batch": settings["batch"],
        "condition": {
            "kind": kind,
            "classes": None if labels is None else [facts.classes[label] for label in labels],
            "mask_labels": None
            if masks is None or conditions.raw_masks
            else list(facts.mask_labels),
            "masks": None if masks is None else units,
            "from": list(conditions.origins),
        },
        "images": {
            "shape": list(generated.images.shape),
            "units": _units(facts.intensity, settings["raw"]),
            "intensity": facts.intensity,
            "min": float(generated.images.min()),
            "max": float(generated.images.max()),
        },
        "environment": environment(),
        "settings": dict(settings),
    }


def _start(noise: str | None) -> str:
    if noise is None:
        return "image i: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i))"
    return f"image i: row i of the arrays given with --noise, whose BLAKE2b is {noise}"


def _to_draw(masks: np.ndarray | None) -> np.ndarray | None:
    """Labels [N, *S] to draw. Of masks as the network takes them: the strongest of several
    channels, or the rank of an only channel's values."""
    if masks is None or masks.dtype.kind != "f":
        return masks
    if masks.shape[-1] > 1:
        return masks.argmax(axis=-1)
    return np.unique(masks, return_inverse=True)[1].reshape(masks.shape[:-1])


def _units(intensity: Mapping[str, Any] | None, raw: bool) -> str:
    if intensity is None:
        return "as the network gives them: the intensity scaling of the training data is not known"
    if intensity["mode"] == "none":
        return "as the network gives them: it was trained on unscaled intensities"
    typical = {
        "dataset": "",
        "sample": "; each training image had its own scaling, these have the median one",
    }[intensity["scope"]]
    clipped = "; training images were clipped there" * (intensity["mode"] == "percentile")
    undone = (
        "as the network gives them: the {} scaling is not undone, in which"
        if raw
        else "those of the training data: the {} scaling is undone, so that"
    )
    return (
        f"{undone.format(intensity['mode'])} "
        f"{intensity['range'][0]:g} and {intensity['range'][1]:g} of the network stand for "
        f"{intensity['low']:g} and {intensity['high']:g}{typical}{clipped}"
    )


def _entries(
    generated: Generated, conditions: Conditions, classes: Sequence[str]
) -> list[dict[str, Any]]:
    masks, labels = conditions.masks, conditions.labels
    return [
        pickles.to_entry(
            Record(
                image,
                None if masks is None else masks[index],
                None if labels is None else int(labels[index]),
                {"name": f"sample_{index}", "synthetic": True},
            ),
            classes,
        )
        for index, image in enumerate(generated.images)
    ]


def _calls(calls: np.ndarray, solver: str) -> int | dict[str, float]:
    """Of an image: one number, or the least, the mean and the most where "adaptive" chose."""
    if solver != "adaptive":
        return int(calls[0])
    return {"min": int(calls.min()), "mean": float(calls.mean()), "max": int(calls.max())}


def _short(calls: int | Mapping[str, float]) -> str:
    if isinstance(calls, Mapping):
        return f"{calls['min']} to {calls['max']}, mean {calls['mean']:.1f}"
    return str(calls)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
