"""CAMUS echocardiography: both public releases as one source.

The NIfTI release:          `database_nifti/patient0001/patient0001_2CH_ED[_gt].nii.gz` with
                            `database_split/subgroup_{training,validation,testing}.txt`.
The older release (.mhd):   `training/patient0001/patient0001_2CH_ED[_gt].mhd`, likewise `testing/`.

Half-sequence files are not read. Files hold arrays x first; here rows are depth (the probe at the
top) and columns left to right, and the affine's columns follow. Masks take their image's grid.

Source: Leclerc et al., IEEE TMI 38(9), 2019, doi 10.1109/TMI.2019.2900516.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Progress
from motfm_jax.data import geometry, nifti
from motfm_jax.data.examination import Report
from motfm_jax.data.orientation import Reading
from motfm_jax.data.source import NoSplit, Record
from motfm_jax.fields import check_choice

VIEWS = ("2CH", "4CH")
PHASES = ("ED", "ES")
MASK_LABELS = ("background", "cavity", "myocardium", "atrium")
CLASSES = {
    "view_phase": tuple(f"{view}_{phase}" for view in VIEWS for phase in PHASES),
    "view": VIEWS,
    "phase": PHASES,
}
SUFFIXES = (*nifti.NIFTI_SUFFIXES, ".mhd")
LISTS = {
    "train": "database_split/subgroup_training.txt",
    "valid": "database_split/subgroup_validation.txt",
    "test": "database_split/subgroup_testing.txt",
}
RULES = ("official", "paper")
VERSION = 2  # of the records; raise it when they change


class Camus:
    """The frames of one split, patients in order, four frames each: 2CH_ED, 2CH_ES, 4CH_ED, 4CH_ES.

    Args:
      root: the folder that holds `database_nifti` (or `training`).
      split: "train", "valid" or "test".
      size: (H, W) of the records.
      fit: "pad" keeps the aspect ratio in millimetres, "stretch" fills the size; see geometry.fit.
      split_rule: "official" or "paper"; see split_patients.
      split_seed: of the paper's random test patients.
      classes: "view_phase" (4 classes), "view" or "phase".
      reading: how files are placed in space.

    Records: image [H, W, 1] float32 in the file's range, mask [H, W] uint8; meta has name, patient,
    view, phase, spacing_mm (rows, columns), affine, and quality if the release states it.

    Raises:
      ValueError: what is missing or wrong; a file is opened when its record is read.
    """

    dims = (2,)
    needs_root = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        size: Sequence[int],
        fit: str = "pad",
        split_rule: str = "official",
        split_seed: int = 0,
        classes: str = "view_phase",
        reading: Reading = Reading(),  # noqa: B008
    ):
        if classes not in CLASSES:
            raise ValueError(f"CAMUS classes {classes!r}: use one of {', '.join(CLASSES)}")
        if len(size) != 2:
            raise ValueError(f"CAMUS size {tuple(size)}: the frames are 2-D, give (H, W)")
        self.root, self.reading = Path(root), reading
        self.settings = {
            "split": split,
            "grid": geometry.Grid(tuple(size), fit),
            "split_rule": split_rule,
            "split_seed": split_seed,
            "classes": classes,
            "reading": reading,
        }
        self.classes = CLASSES[classes]
        folders = patient_folders(self.root)
        self.frames: list[Frame] = []
        for patient in split_patients(self.root, folders, split, split_rule, split_seed):
            folder = folders.get(patient, self.root / "database_nifti" / patient)
            # A patient without frames fails when the first of them is read.
            first = folder / f"{folder.name}_2CH_ED{SUFFIXES[0]}"
            self.frames += list_frames(patient, folder) or [Frame(patient, "2CH", "ED", first)]
        has_masks = any(frame.mask_path.is_file() for frame in self.frames)
        self.mask_labels = MASK_LABELS if has_masks else ()

    @classmethod
    def from_config(cls, data: Any, split: str) -> "Camus":
        """A split from the fields of config.data."""
        rule, reading = (data.split, data.split_seed), Reading.from_config(data)
        source = cls(data.root, split, data.size, data.fit, *rule, data.classes, reading)
        source.settings["grid"] = geometry.Grid(data.size, data.fit, nan=data.intensity.nan)
        return source

    @staticmethod
    def check_config(data: Any) -> None:
        """Raises ValueError for a split rule or classes that CAMUS does not have."""
        check_choice("data.split", data.split, RULES)
        check_choice("data.classes", data.classes, CLASSES)

    @staticmethod
    def check(root: str | Path, progress: Progress | None = None, data: Any = None) -> Report:
        """Reads every frame; see `integrity.check_camus`."""
        from motfm_jax.data.integrity import check_camus

        return check_camus(root, progress, Reading.from_config(data), data)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Record:
        frame = self.frames[index]
        (image, affine, spacing), mask = read_frame(frame, bool(self.mask_labels), self.reading)
        try:
            resized = self.settings["grid"].place(image[..., None], mask, affine, spacing)
        except ValueError as error:
            raise ValueError(f"{frame.image_path}: {error}") from error
        return Record(
            resized.image,
            resized.mask,
            self.classes.index(self._class(frame)),
            patient=frame.patient,
            name=frame.name,
            spacing_mm=resized.spacing_mm,
            affine=resized.affine,
            filled=resized.filled,
            lost=resized.lost,
            extra=frame.facts(),
        )

    def _class(self, frame: "Frame") -> str:
        names = {"view": frame.view, "phase": frame.phase}
        return names.get(self.settings["classes"], f"{frame.view}_{frame.phase}")

    def where(self, index: int) -> str:
        """The file of a record, for messages."""
        return str(self.frames[index].image_path)

    def fingerprint(self) -> dict[str, Any]:
        return {"source": "camus", "version": VERSION, **self.settings}

    def source_files(self) -> list[Path]:
        """The files that the records depend on."""
        return [path for frame in self.frames for path in frame.files(bool(self.mask_labels))]


class Frame(NamedTuple):
    """One view at one phase of a patient, as files that have not been opened."""

    patient: str
    view: str
    phase: str
    image_path: Path

    @property
    def mask_path(self) -> Path:
        name = self.image_path.name
        suffix = next(end for end in SUFFIXES if name.endswith(end))
        return self.image_path.with_name(name.removesuffix(suffix) + "_gt" + suffix)

    @property
    def info_path(self) -> Path:
        return self.image_path.with_name(f"Info_{self.view}.cfg")

    @property
    def name(self) -> str:
        return f"{self.patient}_{self.view}_{self.phase}"

    def files(self, with_mask: bool) -> list[Path]:
        """Every file the record depends on; the mask even if it is missing."""
        paths = [self.image_path, self.mask_path] if with_mask else [self.image_path]
        voxels = [
            path.with_suffix(end)
            for path in paths
            if path.suffix == ".mhd"
            for end in (".raw", ".zraw")
        ]
        return paths + [path for path in (self.info_path, *voxels) if path.is_file()]

    def facts(self) -> dict[str, str]:
        """View, phase, and quality if the release states it."""
        quality = read_info(self.info_path).get("ImageQuality")
        facts = {"view": self.view, "phase": self.phase}
        return facts | ({"quality": quality} if quality else {})


def read_info(path: Path) -> dict[str, str]:
    """The `key: value` lines of an Info_*.cfg; empty if the release has none."""
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def read_frame(
    frame: Frame, with_mask: bool, reading: Reading
) -> tuple[nifti.Volume, np.ndarray | None]:
    """A frame's image [H, W] (rows are depth), and its mask [H, W] uint8 on the same grid.

    Raises:
      ValueError: a file that cannot be used; see `Reading`.
    """
    image, mask = reading.image(frame.image_path), None
    if image.array.ndim < 2 or any(extent != 1 for extent in image.array.shape[2:]):
        raise ValueError(
            f"{frame.image_path}: shape {image.array.shape}, one 2-D frame needed; is it a "
            "sequence? only the ED and ES frames are used"
        )
    if with_mask:
        values = reading.mask(frame.mask_path, image, frame.image_path)
        labels = nifti.to_labels(frame.mask_path, values, range(len(MASK_LABELS)))
        mask = labels.reshape(labels.shape[:2]).T.astype(np.uint8)
    rows = image.array.reshape(image.array.shape[:2]).T
    return nifti.Volume(rows, image.affine[:, [1, 0, 2, 3]], image.spacing_mm[1::-1]), mask


def patient_folders(root: Path) -> dict[str, Path]:
    """Patient name to folder, sorted. The older release counts its testing patients from 1 again:
    they are called testing_patient0001 and so on.

    Raises:
      ValueError: no such folder, neither layout in it, or no patients.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds CAMUS' database_nifti")
    layouts = {"database_nifti": "", "training": "", "testing": "testing_"}
    present = [name for name in layouts if (root / name).is_dir()]
    if not present:
        raise ValueError(
            f"{root}: neither database_nifti (NIfTI release) nor training (older .mhd release) in "
            "it; give the folder that holds one of them"
        )
    folders = {
        layouts[name] + path.name: path
        for name in present
        for path in sorted((root / name).glob("patient*"))
        if path.is_dir()
    }
    if not folders:
        raise ValueError(
            f"{root}: no patient folders in {' or '.join(present)}; copy the data again"
        )
    return folders


def list_frames(patient: str, folder: Path) -> list[Frame]:
    """The ED and ES frames of both views that exist, readable or not."""
    frames = []
    for view in VIEWS:
        for phase in PHASES:
            stem = folder / f"{folder.name}_{view}_{phase}"
            paths = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
            # A link to nowhere is refused when it is read.
            path = next((path for path in paths if os.path.lexists(path)), None)
            if path:
                frames.append(Frame(patient, view, phase, path))
    return frames


def read_list(root: Path, split: str) -> list[str] | None:
    """The patients of an official list, or None if the release has no such list.

    Raises:
      ValueError: the list is not text.
    """
    path = root / LISTS[split]
    try:
        return path.read_text("utf-8-sig").split() if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8 ({error}); copy it again") from error


def split_patients(
    root: Path, folders: dict[str, Path], split: str, rule: str, seed: int
) -> list[str]:
    """The patients of one split, in order.

    "official": the release's lists; for the older release's test patients, the folder `testing`.
    "paper": of the patients outside the official test set, a ninth drawn with the seed for test; of
    the others in order the first ninth for validation, the rest for training: 50, 50 and 350 of 450
    (Yazdani et al. 2025).

    Raises:
      NoSplit: the release has no list of this split.
      ValueError: an unknown rule or split, an empty list, a patient in two lists, or too few
        patients.
    """
    if split not in LISTS:
        raise ValueError(f"CAMUS split {split!r}: use train, valid or test")
    if rule == "official":
        return _official_patients(root, folders, split)
    if rule == "paper":
        return _paper_patients(root, folders, split, seed)
    raise ValueError(f"CAMUS split rule {rule!r}: use official or paper")


def _official_patients(root: Path, folders: dict[str, Path], split: str) -> list[str]:
    path, listed = root / LISTS[split], read_list(root, split)
    if listed is None and split == "test":
        listed = [name for name in folders if name.startswith("testing_")] or None
    if listed is None:
        raise NoSplit(
            f"{path}: missing, so there is no official {split} split; add the release's list, or "
            "set config.data.split=paper"
        )
    if not listed:
        raise ValueError(f"{path}: is empty; write the names of patient folders into it")
    for other in LISTS:
        shared = set(listed) & set(read_list(root, other) or ()) if other != split else ()
        if shared:
            raise ValueError(
                f"{path}: {min(shared)} is also in {LISTS[other]}, a patient belongs to one split; "
                "correct the lists"
            )
    return sorted(set(listed))


def _paper_patients(root: Path, folders: dict[str, Path], split: str, seed: int) -> list[str]:
    held_out = set(read_list(root, "test") or ())
    pool = [name for name in folders if name not in held_out and not name.startswith("testing_")]
    if len(pool) < 3:
        raise ValueError(f"{root}: {len(pool)} patients, at least 3 needed for three splits")
    ninth = max(1, round(len(pool) / 9))
    drawn = set(np.random.default_rng(seed).permutation(len(pool))[:ninth].tolist())
    test = [name for index, name in enumerate(pool) if index in drawn]
    rest = [name for index, name in enumerate(pool) if index not in drawn]
    return {"train": rest[ninth:], "valid": rest[:ninth], "test": test}[split]
