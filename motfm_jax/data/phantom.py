"""Simulated data sets: sources of echo frames and brains, and their trees on disk.

The embedded default: nothing to download, every example a pure function of (seed, patient, view,
phase), masks and classes exact. The trees have the public layouts, so that the loaders of real
data are tested on files.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from motfm_jax.data import phantom_brain, phantom_echo
from motfm_jax.data.phantom_brain import age_class, render_brain
from motfm_jax.data.phantom_echo import PHASES, VIEWS, draw_heart, render_echo, sector_mm
from motfm_jax.data.source import Record, check_choice

VERSION = 2  # of what the phantoms look like; part of the fingerprint
SPLITS = ("train", "valid", "test")
CLASSES = {
    "view_phase": tuple(f"{view}_{phase}" for view in VIEWS for phase in PHASES),
    "view": VIEWS,
    "phase": PHASES,
}
CAMUS_DEPTH_MM = 120.0  # what `image_shape` spans in a written CAMUS tree


def split_patients(num_patients: int) -> dict[str, range]:
    """Patients 0 .. num_patients - 1 in train, valid and test: 70 / 15 / 15, at least one each."""
    if num_patients < 3:
        raise ValueError(
            f"num_patients={num_patients}: train, valid and test need a patient each; use 3 or more"
        )
    held_out = max(1, round(0.15 * num_patients))
    train = num_patients - 2 * held_out
    return {
        "train": range(train),
        "valid": range(train, train + held_out),
        "test": range(train + held_out, num_patients),
    }


class PhantomEcho:
    """Apical echo frames, four a patient: 2CH_ED, 2CH_ES, 4CH_ED, 4CH_ES.

    Images are [H, W, 1] uint8 and masks [H, W] uint8, rows in depth. The sector's bounding box is
    stretched to the size; the spacing says by how much.

    Args:
      split: train | valid | test; no patient is in two of them.
      size: (H, W).
      num_patients: over all splits.
      classes: view_phase (4) | view (2) | phase (2).
      seed: of patients and noise.
    """

    dims = (2,)
    needs_root = False
    mask_labels = phantom_echo.LABELS

    def __init__(
        self,
        split: str,
        size: Sequence[int],
        num_patients: int,
        classes: str = "view_phase",
        seed: int = 0,
    ):
        if classes not in CLASSES:
            raise ValueError(f"classes={classes!r}: use one of {', '.join(CLASSES)}")
        self.size = _size(size, 2)
        self.split, self.num_patients, self.seed = split, num_patients, seed
        self.patients = _patients(split, num_patients)
        self.class_by = classes
        self.classes = CLASSES[classes]

    @classmethod
    def from_config(cls, data: Any, split: str) -> "PhantomEcho":
        """A split from the fields of config.data."""
        return cls(split, data.size, data.phantom_patients, data.classes, data.split_seed)

    @staticmethod
    def check_config(data: Any) -> None:
        """Raises ValueError for classes that the phantom does not have."""
        check_choice("classes", data.classes, CLASSES)

    def __len__(self) -> int:
        return 4 * len(self.patients)

    def __getitem__(self, index: int) -> Record:
        patient = self.patients[_row(index, len(self)) // 4]
        view, phase = VIEWS[index // 2 % 2], PHASES[index % 2]
        image, mask, spacing = render_echo(self.seed, patient, view, phase, self.size)
        label = {"view_phase": index % 4, "view": index // 2 % 2, "phase": index % 2}[self.class_by]
        name = _patient_name(patient)
        return Record(
            image[..., None],
            mask,
            label,
            patient=name,
            name=f"{name}_{view}_{phase}",
            spacing_mm=spacing,
        )

    def fingerprint(self) -> dict[str, Any]:
        return {**_fingerprint(self), "classes": self.class_by}


class PhantomBrain:
    """T1-weighted brains, one a patient, brain extracted: outside is exactly 0.

    Images are [*S, 1] uint8 and masks [*S] uint8; axes run to the right, to the front and up.
    Every other patient is old: larger ventricles, wider sulci, thinner cortex.

    Args:
      split: train | valid | test; no patient is in two of them.
      size: voxels along each axis of the same box of 156 x 192 x 156 mm.
      num_patients: over all splits.
      seed: of patients and noise.
    """

    dims = (3,)
    needs_root = False
    classes = phantom_brain.CLASSES
    mask_labels = phantom_brain.LABELS

    def __init__(self, split: str, size: Sequence[int], num_patients: int, seed: int = 0):
        self.size = _size(size, 3)
        self.split, self.num_patients, self.seed = split, num_patients, seed
        self.patients = _patients(split, num_patients)

    @classmethod
    def from_config(cls, data: Any, split: str) -> "PhantomBrain":
        """A split from the fields of config.data."""
        return cls(split, data.size, data.phantom_patients, data.split_seed)

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, index: int) -> Record:
        patient = self.patients[_row(index, len(self))]
        image, mask, affine = render_brain(self.seed, patient, self.size)
        name = f"PHANTOM_{patient + 1:03d}"
        return Record(
            image,
            mask,
            age_class(self.seed, patient),
            patient=name,
            name=name,
            spacing_mm=np.diag(affine)[:3],
            affine=affine,
        )

    def fingerprint(self) -> dict[str, Any]:
        return _fingerprint(self)


def _fingerprint(source: PhantomEcho | PhantomBrain) -> dict[str, Any]:
    return {
        "source": type(source).__name__,
        "version": VERSION,
        "split": source.split,
        "size": list(source.size),
        "num_patients": source.num_patients,
        "seed": source.seed,
    }


def _patients(split: str, num_patients: int) -> range:
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: a phantom has {', '.join(SPLITS)}")
    return split_patients(num_patients)[split]


def _size(size: Sequence[int], dimensions: int) -> tuple[int, ...]:
    size = tuple(int(n) for n in size)
    if len(size) != dimensions or min(size) < 1:
        raise ValueError(f"size={size}: give {dimensions} positive whole numbers")
    return size


def _row(index: int, length: int) -> int:
    if not 0 <= index < length:  # sequences end by IndexError
        raise IndexError(f"example {index} of {length}")
    return index


def _patient_name(patient: int) -> str:
    return f"patient{patient + 1:04d}"


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
    folder, image_shape = Path(folder), _size(image_shape, 2)
    patients = split_patients(num_patients)
    lists = folder / "database_split"
    lists.mkdir(parents=True, exist_ok=True)
    for split, listed in zip(SPLITS, ("training", "validation", "testing"), strict=True):
        names = "".join(f"{_patient_name(patient)}\n" for patient in patients[split])
        (lists / f"subgroup_{listed}.txt").write_text(names)
    for patient in range(num_patients):
        _write_camus_patient(folder / "database_nifti", patient, seed, image_shape)
    return folder


def _write_camus_patient(root: Path, patient: int, seed: int, image_shape: tuple[int, int]) -> None:
    name = _patient_name(patient)
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
      modalities: names of the channels, out of phantom_brain.CONTRASTS.

    Returns:
      `folder`, the root the loader takes.
    """
    unknown = [name for name in modalities if name not in phantom_brain.CONTRASTS]
    if unknown or not modalities:
        known = ", ".join(phantom_brain.CONTRASTS)
        raise ValueError(f"modalities={tuple(modalities)}: give one or more of {known}")
    folder, size = Path(folder), _size(size, 3)
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
        "labels": {str(value): name for value, name in enumerate(phantom_brain.LABELS)},
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
