"""Simulated data sets: sources of echo frames and brains. Every example is a pure function of
(seed, patient, view, phase)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from motfm_jax.data.phantom import brain, echo
from motfm_jax.data.phantom.brain import age_class, render_brain
from motfm_jax.data.phantom.echo import PHASES, VIEWS, render_echo
from motfm_jax.data.source import Record
from motfm_jax.fields import check_choice

VERSION = 2  # of what the phantoms look like; part of the fingerprint
SPLITS = ("train", "valid", "test")
CLASSES = {
    "view_phase": tuple(f"{view}_{phase}" for view in VIEWS for phase in PHASES),
    "view": VIEWS,
    "phase": PHASES,
}


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
    mask_labels = echo.LABELS

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
        self.size = check_size(size, 2)
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
        check_choice("data.classes", data.classes, CLASSES)

    def __len__(self) -> int:
        return 4 * len(self.patients)

    def __getitem__(self, index: int) -> Record:
        patient = self.patients[_row(index, len(self)) // 4]
        view, phase = VIEWS[index // 2 % 2], PHASES[index % 2]
        image, mask, spacing = render_echo(self.seed, patient, view, phase, self.size)
        label = {"view_phase": index % 4, "view": index // 2 % 2, "phase": index % 2}[self.class_by]
        name = patient_name(patient)
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
    classes = brain.CLASSES
    mask_labels = brain.LABELS

    def __init__(self, split: str, size: Sequence[int], num_patients: int, seed: int = 0):
        self.size = check_size(size, 3)
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


def check_size(size: Sequence[int], dimensions: int) -> tuple[int, ...]:
    size = tuple(int(n) for n in size)
    if len(size) != dimensions or min(size) < 1:
        raise ValueError(f"size={size}: give {dimensions} positive whole numbers")
    return size


def _row(index: int, length: int) -> int:
    if not 0 <= index < length:  # sequences end by IndexError
        raise IndexError(f"example {index} of {length}")
    return index


def patient_name(patient: int) -> str:
    return f"patient{patient + 1:04d}"
