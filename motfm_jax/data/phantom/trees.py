"""Simulated data in public layouts, as files that the loaders of real data read."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from motfm_jax.data.phantom import brain
from motfm_jax.data.phantom.brain import render_brain
from motfm_jax.data.phantom.echo import PHASES, VIEWS, draw_heart, render_echo, sector_mm
from motfm_jax.data.phantom.sources import SPLITS, VERSION, check_size, patient_name, split_patients

CAMUS_DEPTH_MM = 120.0  # what `image_shape` spans in a written CAMUS tree


def write_camus_tree(
    folder: Path | str,
    num_patients: int,
    seed: int = 0,
    image_shape: tuple[int, int] = (389, 549),
) -> Path:
    """Echo phantoms in the layout of the CAMUS NIfTI release.

    database_nifti/patientNNNN/ holds float32 arrays of whole numbers, x first, and Info_2CH.cfg,
    Info_4CH.cfg; database_split/ the three lists of patients. Half sequences are not written.

    Args:
      folder: created where missing; files of the same name are replaced.
      num_patients: over all three lists (70 / 15 / 15).
      seed: of patients and noise.
      image_shape: (rows, columns) of 120 x 169 mm; 0.308 mm a pixel by default. A patient's
        sector is deeper or shallower than that, so that sizes differ as they do in the release.

    Returns:
      `folder`, the root the loader takes.
    """
    folder, image_shape = Path(folder), check_size(image_shape, 2)
    patients = split_patients(num_patients)
    lists = folder / "database_split"
    lists.mkdir(parents=True, exist_ok=True)
    for split, listed in zip(SPLITS, ("training", "validation", "testing"), strict=True):
        names = "".join(f"{patient_name(patient)}\n" for patient in patients[split])
        (lists / f"subgroup_{listed}.txt").write_text(names)
    for patient in range(num_patients):
        _write_camus_patient(folder / "database_nifti", patient, seed, image_shape)
    return folder


def _write_camus_patient(root: Path, patient: int, seed: int, image_shape: tuple[int, int]) -> None:
    name = patient_name(patient)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, patient, 3))  # 1 and 2 are the views'
    sex, age = rng.choice(["F", "M"]), int(rng.integers(30, 90))
    for view in VIEWS:
        cavity = {}
        for phase in PHASES:
            height, width = sector_mm(draw_heart(seed, patient, view, phase))
            rows = round(image_shape[0] * height / CAMUS_DEPTH_MM)
            columns = round(image_shape[1] * width / (np.sqrt(2) * CAMUS_DEPTH_MM))
            image, mask, spacing = render_echo(seed, patient, view, phase, (rows, columns))
            for suffix, array in (("", image), ("_gt", mask)):
                path = folder / f"{name}_{view}_{phase}{suffix}.nii.gz"
                _write_nifti(path, array.T.astype(np.float32), np.diag([*spacing[::-1], 1.0, 1.0]))
            cavity[phase] = int(np.sum(mask == 1))
        frames = int(rng.integers(14, 24))
        first, last = rng.permutation([1, frames // 2])  # either phase may come first
        facts = {
            "ED": first,
            "ES": last,
            "NbFrame": frames,
            "Sex": sex,
            "Age": age,
            "ImageQuality": rng.choice(["Good", "Medium", "Poor"]),
            # Volume by area^1.5: length and width shrink together.
            "EF": round(100 * (1 - (cavity["ES"] / max(cavity["ED"], 1)) ** 1.5)),
            "FrameRate": round(float(rng.uniform(40, 70)), 1),
        }
        lines = "".join(f"{key}: {value}\n" for key, value in facts.items())
        (folder / f"Info_{view}.cfg").write_text(lines)


def write_decathlon_tree(
    folder: Path | str,
    num_patients: int,
    seed: int = 0,
    size: tuple[int, int, int] = (78, 96, 78),
    modalities: Sequence[str] = ("T1w",),
) -> Path:
    """Brain phantoms in the layout of the Medical Segmentation Decathlon.

    dataset.json lists train and valid patients under "training", the test patients under "test"
    as bare paths without labels. Arrays are int16 with the affine of `render_brain`; one modality
    gives 3-D images, several 4-D ones with channels last, as in Task01_BrainTumour.

    Args:
      folder: created where missing; files of the same name are replaced.
      num_patients: labelled and unlabelled together.
      seed: of patients and noise.
      size: voxels along x, y and z; 2 mm by default.
      modalities: names of the channels, out of brain.CONTRASTS.

    Returns:
      `folder`, the root the loader takes.
    """
    unknown = [name for name in modalities if name not in brain.CONTRASTS]
    if unknown or not modalities:
        known = ", ".join(brain.CONTRASTS)
        raise ValueError(f"modalities={tuple(modalities)}: give one or more of {known}")
    folder, size = Path(folder), check_size(size, 3)
    unlabelled = split_patients(num_patients)["test"]
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    training, test = [], []
    for patient in range(num_patients):
        image, mask, affine = render_brain(seed, patient, size, tuple(modalities))
        image = image[..., 0] if len(modalities) == 1 else image
        file = f"PHANTOM_{patient + 1:03d}.nii.gz"
        images = "imagesTs" if patient in unlabelled else "imagesTr"
        _write_nifti(folder / images / file, image.astype(np.int16), affine)
        if patient in unlabelled:
            test.append(f"./imagesTs/{file}")
            continue
        _write_nifti(folder / "labelsTr" / file, mask.astype(np.int16), affine)
        training.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    description = {
        "name": "Phantom",
        "description": "Simulated brain MRI",
        "reference": "motfm_jax",
        "licence": "CC0",
        "release": f"{VERSION}",
        "tensorImageSize": "3D" if len(modalities) == 1 else "4D",
        "modality": {str(index): name for index, name in enumerate(modalities)},
        "labels": {str(value): name for value, name in enumerate(brain.LABELS)},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))
    return folder


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
