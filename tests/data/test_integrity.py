import json
import shutil

import nibabel
import numpy as np
import pytest

from motfm_jax.data import integrity, phantom
from motfm_jax.data.orientation import Reading


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return phantom.write_camus_tree(tmp_path_factory.mktemp("camus"), 4, image_shape=(24, 20))


@pytest.fixture
def tree(made, tmp_path):
    """A copy of the phantom CAMUS tree that a test may spoil."""
    shutil.copytree(made, tmp_path / "camus")
    return tmp_path / "camus"


def frame_path(root, patient=1, name="2CH_ED"):
    return root / f"database_nifti/patient{patient:04d}/patient{patient:04d}_{name}.nii.gz"


def save_like(path, change):
    image = nibabel.load(path)
    array = change(np.asanyarray(image.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)


def test_a_good_tree_is_counted_and_has_no_errors(tree):
    report = integrity.check_camus(tree)
    assert report.errors == [] and report.warnings == []
    heading, *rows = report.counts
    table = {row[0]: dict(zip(heading, row)) for row in rows}
    assert [table[name]["patients"] for name in ("train", "valid", "test", "all")] == list("2114")
    assert table["train"] == {
        "split": "train",
        "patients": "2",
        "images": "8",
        "images a patient": "4",
        "masks": "8",
        "2CH_ED": "2",
        "2CH_ES": "2",
        "4CH_ED": "2",
        "4CH_ES": "2",
    }
    assert {"shape", "spacing_mm", "intensity", "labels"} <= set(report.facts)
    assert all(f" {name} " in report.facts["labels"] for name in ("cavity", "atrium"))


def truncate(root):
    path = frame_path(root)
    path.write_bytes(path.read_bytes()[:200])


def set_nan(array):
    array[0, 0] = np.nan
    return array


def second_list(root):
    with open(root / "database_split/subgroup_validation.txt", "a") as file:
        file.write("\npatient0001\n")


def absent_patient(root):
    with open(root / "database_split/subgroup_validation.txt", "a") as file:
        file.write("\npatient0077\n")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (truncate, "patient0001_2CH_ED.nii.gz: cannot be read"),
        (lambda root: save_like(frame_path(root), set_nan), "1 of 456 values are NaN"),
        (lambda root: save_like(frame_path(root, 2, "4CH_ES_gt"), lambda a: a[1:]), "differ in"),
        (lambda root: save_like(frame_path(root, 2, "4CH_ES_gt"), lambda a: a + 3), "label 4"),
        (lambda root: frame_path(root, 1, "2CH_ES_gt").unlink(), "1 of 8 images have no mask"),
        (second_list, "patient0001 is in two splits, train and valid"),
        (absent_patient, "patient0077 has no folder"),
    ],
)
def test_each_fault_is_one_error_and_the_rest_is_still_counted(tree, spoil, message):
    spoil(tree)
    report = integrity.check_camus(tree)
    assert len(report.errors) == 1 and message in report.errors[0], report.errors
    assert "\n" not in report.errors[0]
    assert report.counts[-1][2] == "16"


def twin(root):
    for name in ("2CH_ED", "2CH_ED_gt"):
        frame_path(root, 2, name).write_bytes(frame_path(root, 1, name).read_bytes())


def lost_spacing(root):
    for path in root.glob("database_nifti/*/*.nii.gz"):
        array = np.asanyarray(nibabel.load(path).dataobj)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def three_frames(root):
    for path in (frame_path(root), frame_path(root, name="2CH_ED_gt")):
        path.unlink()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (twin, "voxel for voxel: patient0001_2CH_ED (train), patient0002_2CH_ED (train)"),
        (lost_spacing, "spacing was lost"),
        (three_frames, "3 of the 4 frames"),
        (lambda root: save_like(frame_path(root), lambda a: a * 0 + 7), "constant (7)"),
        (lambda root: save_like(frame_path(root, 1, "2CH_ED_gt"), np.zeros_like), "mask is empty"),
        (lambda root: (root / "database_split/subgroup_testing.txt").unlink(), "no official test"),
    ],
)
def test_what_a_person_should_know_is_a_warning_and_no_error(tree, spoil, message):
    spoil(tree)
    report = integrity.check_camus(tree)
    assert report.errors == []
    assert len(report.warnings) == 1 and message in report.warnings[0], report.warnings


def test_identical_values_are_found_whatever_the_files_bytes(tree):
    """The same frame saved with another header."""
    for name in ("2CH_ED", "2CH_ED_gt"):
        array = np.asanyarray(nibabel.load(frame_path(tree, 1, name)).dataobj)
        image = nibabel.Nifti1Image(array, np.diag([0.1, 0.2, 1, 1]))
        nibabel.save(image, frame_path(tree, 3, name))
    assert "voxel for voxel" in " ".join(integrity.check_camus(tree).warnings)


def test_long_lists_are_shortened_when_printed(tree):
    for path in tree.glob("database_nifti/*/*_gt.nii.gz"):
        save_like(path, lambda array: array + 9)
    report = integrity.check_camus(tree)
    report.errors *= 2
    assert str(report).endswith("and 12 more") and "errors: 32" in str(report)


def mirror(path):
    """The file stored with x from right to left, and an affine that says so."""
    image = nibabel.load(path)
    array, affine = np.asanyarray(image.dataobj), image.affine.copy()
    affine[:, 3] += affine[:, 0] * (len(array) - 1)
    affine[:, 0] *= -1
    nibabel.save(nibabel.Nifti1Image(array[::-1], affine), path)


def test_masks_stored_mirrored_are_no_fault_and_moved_ones_are(tree):
    before = integrity.check_camus(tree)
    mirror(frame_path(tree, 1, "2CH_ED_gt"))
    report = integrity.check_camus(tree)
    assert report.errors == [] and report.facts["labels"] == before.facts["labels"]
    path = frame_path(tree, 1, "2CH_ED_gt")
    image = nibabel.load(path)
    moved = image.affine.copy()
    moved[1, 3] += 5
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), moved), path)
    assert "2CH_ED_gt.nii.gz: its affine differs" in integrity.check_camus(tree).errors[0]
    assert integrity.check_camus(tree, reading=Reading(resample_masks=True)).errors == []


def edit(root, change):
    path = root / "dataset.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


@pytest.fixture
def volumes(tmp_path):
    names = ("FLAIR", "T1w")
    return phantom.write_decathlon_tree(tmp_path / "brain", 8, size=(8, 8, 8), modalities=names)


def test_a_decathlon_folder_is_counted_by_the_loaders_split(volumes):
    report = integrity.check_decathlon(volumes)
    assert report.errors == [] and report.warnings == []
    assert {row[0]: row[1] for row in report.counts[1:]} == {
        "train": "5",
        "valid": "1",
        "test": "1",
        "unlabelled": "1",
        "all": "8",
    }
    assert report.facts["shape"] == "8 x 8 x 8"
    assert {"intensity FLAIR", "intensity T1w"} <= set(report.facts)


def test_decathlon_faults_are_found(volumes):
    first = json.loads((volumes / "dataset.json").read_text())["training"][0]
    label = volumes / first["label"]
    image = nibabel.load(label)
    moved = image.affine.copy()
    moved[0, 3] += 1
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), moved), label)
    (volumes / "imagesTr/extra.nii.gz").touch()

    def both(description):
        description["test"].append(description["training"][1]["image"])
        description["test"].append("../secret.nii.gz")
        description["test"].append("imagesTs/absent.nii.gz")

    edit(volumes, both)
    report = integrity.check_decathlon(volumes)
    for message in ("affine differs", "in two splits, training and test", "secret", "absent"):
        assert sum(message in error for error in report.errors) == 1, (message, report.errors)
    assert len(report.errors) == 4
    assert any("1 files that dataset.json does not list" in line for line in report.warnings)
    assert any("voxel for voxel" in line for line in report.warnings)  # the image listed twice


def test_a_decathlon_that_cannot_train_is_told(volumes):
    edit(volumes, lambda description: description["training"].clear())
    report = integrity.check_decathlon(volumes)
    assert sum("lists nothing under training" in error for error in report.errors) == 1
    edit(volumes, lambda description: description["labels"].update({str(10**14): "x"}))
    with pytest.raises(ValueError, match=r"'labels' .* correct it"):
        integrity.check_decathlon(volumes)


@pytest.mark.parametrize("check", [integrity.check_camus, integrity.check_decathlon])
def test_no_data_set_at_all_is_refused(check, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        check(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"database_nifti|dataset\.json"):
        check(tmp_path)


@pytest.mark.slow
def test_real_camus(motfm_data):
    report = integrity.check_camus(motfm_data / "camus")
    assert report.errors == []
    assert len(report.warnings) == 3
    twins = "patient0033_4CH_ED (train), patient0068_4CH_ED (train)"
    assert any(twins in warning for warning in report.warnings)
    assert report.counts[-1][1:5] == ["450", "1800", "4", "1800"]
