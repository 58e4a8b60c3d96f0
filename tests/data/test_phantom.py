import json

import nibabel
import numpy as np
import pytest

from motfm_jax.data.phantom.brain import age_class, draw_brain, render_brain
from motfm_jax.data.phantom.echo import PHASES, VIEWS, draw_heart, regions, render_echo
from motfm_jax.data.phantom.sources import (
    CLASSES,
    SPLITS,
    PhantomBrain,
    PhantomEcho,
    split_patients,
)
from motfm_jax.data.phantom.trees import write_camus_tree, write_decathlon_tree

ECHO = {"size": (32, 32), "num_patients": 7}


@pytest.mark.parametrize("num_patients", [3, 7, 20, 101])
def test_splits_hold_every_patient_once(num_patients):
    splits = split_patients(num_patients)
    held = [patient for split in SPLITS for patient in splits[split]]
    assert sorted(held) == list(range(num_patients))
    assert min(len(splits[split]) for split in SPLITS) >= 1
    assert len(splits["train"]) / num_patients == pytest.approx(0.7, abs=1.2 / num_patients)


def test_echo_splits_share_no_patient_and_hold_four_frames_of_each():
    names = {split: [] for split in SPLITS}
    for split in SPLITS:
        source = PhantomEcho(split, (16, 16), 7)
        records = [source[index] for index in range(len(source))]
        names[split] = [record.meta["patient"] for record in records]
        order = [record.meta["name"].split("_", 1)[1] for record in records]
        assert order == list(CLASSES["view_phase"]) * (len(source) // 4)
    assert not set(names["train"]) & set(names["valid"])
    assert not set(names["train"]) & set(names["test"])
    assert not set(names["valid"]) & set(names["test"])


def test_echo_record_has_the_promised_arrays_and_facts():
    source = PhantomEcho("train", (32, 24), 7)
    record = source[1]
    assert record.image.shape == (32, 24, 1) and record.image.dtype == np.uint8
    assert record.mask.shape == (32, 24) and record.mask.dtype == np.uint8
    assert set(np.unique(record.mask)) == {0, 1, 2, 3}
    assert source.mask_labels == ("background", "cavity", "myocardium", "atrium")
    assert record.meta["name"] == "patient0001_2CH_ES"
    assert all(1 < spacing < 10 for spacing in record.meta["spacing_mm"])
    json.dumps([record.meta, source.fingerprint()])
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize(
    ("classes", "labels"),
    [("view_phase", [0, 1, 2, 3]), ("view", [0, 0, 1, 1]), ("phase", [0, 1, 0, 1])],
)
def test_echo_classes(classes, labels):
    source = PhantomEcho("valid", (16, 16), 3, classes=classes)
    assert [source[index].label for index in range(4)] == labels
    for index in range(4):
        name = source[index].meta["name"]
        assert all(part in name.split("_") for part in source.classes[labels[index]].split("_"))


def test_echo_depends_on_its_seed_and_on_nothing_else():
    first, again = PhantomEcho("train", **ECHO), PhantomEcho("train", **ECHO)
    last = first[7]
    np.testing.assert_array_equal(last.image, again[7].image)  # read in another order
    np.testing.assert_array_equal(last.mask, again[7].mask)
    grown = PhantomEcho("train", (32, 32), 20)
    np.testing.assert_array_equal(last.image, grown[7].image)
    other = PhantomEcho("train", **ECHO, seed=1)
    assert np.any(other[7].mask != last.mask)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_patients_views_and_phases_all_differ():
    source = PhantomEcho("train", **ECHO)
    images = {source[index].image.tobytes() for index in range(len(source))}
    masks = {source[index].mask.tobytes() for index in range(len(source))}
    assert len(images) == len(masks) == len(source)


def test_cavity_is_darker_than_myocardium():
    source = PhantomEcho("train", (48, 48), 36)
    margins = []
    for index in range(len(source)):
        image, mask, *_ = source[index]
        margins.append(image[mask == 2].mean() - image[mask == 1].mean())
    assert np.mean(np.array(margins) > 0) >= 0.99
    assert 35 < np.mean(margins) < 80  # of 255; real scans: about 40


def test_the_heart_contracts_from_diastole_to_systole():
    for patient in range(12):
        for view in VIEWS:
            areas = {}
            for phase in PHASES:
                _, mask, spacing = render_echo(0, patient, view, phase, (64, 64))
                areas[phase] = np.bincount(mask.ravel(), minlength=4) * np.prod(spacing)
            diastole, systole = (draw_heart(0, patient, view, phase) for phase in PHASES)
            assert areas["ES"][1] < 0.9 * areas["ED"][1]
            assert min(np.array(systole.wall) / diastole.wall) > 1.2
            assert systole.atrium > diastole.atrium


def test_the_four_chamber_view_shows_blood_beside_the_septum():
    brightness = {view: [] for view in VIEWS}
    for patient in range(12):
        for view in VIEWS:
            image, mask, _ = render_echo(0, patient, view, "ED", (64, 64))
            rows, columns = np.nonzero(mask == 2)
            beside = [image[row, columns[rows == row].min() - 4] for row in range(28, 38)]
            brightness[view].append(np.mean(beside) - image[mask == 2].mean())
    assert np.mean(brightness["4CH"]) < np.mean(brightness["2CH"]) - 20


def test_echo_is_one_scene_at_any_size():
    small_image, small, spacing = render_echo(0, 1, "4CH", "ED", (48, 40))
    large_image, large, fine = render_echo(0, 1, "4CH", "ED", (144, 120))
    np.testing.assert_allclose(np.multiply(spacing, (48, 40)), np.multiply(fine, (144, 120)))
    np.testing.assert_array_equal(large[1::3, 1::3], small)  # the same pixel centres
    pooled = large_image.reshape(48, 3, 40, 3).mean((1, 3))
    assert np.corrcoef(pooled.ravel(), small_image.ravel())[0, 1] > 0.97


def test_the_sector_is_black_outside_and_holds_the_heart():
    image, mask, spacing = render_echo(0, 0, "2CH", "ED", (96, 96))
    heart = draw_heart(0, 0, "2CH", "ED")
    y, x = (np.indices((96, 96)) + 0.5) * np.reshape(spacing, (2, 1, 1))
    x = x - 48 * spacing[1]
    outside = (np.hypot(x, y) > heart.depth + 3) | (np.abs(x) > np.tan(heart.half_angle) * y + 4)
    assert 0.3 < outside.mean() < 0.5
    assert not image[outside].any() and not mask[outside].any()
    np.testing.assert_array_equal(
        mask[~outside & (mask > 0)], regions(heart, x, y).labels[mask > 0]
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_brain_depends_on_its_seed_and_on_nothing_else(seed):
    first, again = (PhantomBrain("valid", (16, 16, 16), 7, seed) for _ in range(2))
    np.testing.assert_array_equal(first[0].image, again[0].image)
    np.testing.assert_array_equal(first[0].mask, again[0].mask)
    other = PhantomBrain("valid", (16, 16, 16), 7, seed + 10)
    assert np.any(other[0].mask != first[0].mask)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_brain_record_has_the_promised_arrays_and_facts():
    source = PhantomBrain("train", (20, 24, 18), 7)
    image, mask, label, meta = *source[0][:3], source[0].meta
    assert image.shape == (20, 24, 18, 1) and image.dtype == np.uint8
    assert mask.shape == (20, 24, 18) and mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert label in (0, 1) and source.classes == ("young", "old")
    np.testing.assert_allclose(np.diag(meta["affine"])[:3], meta["spacing_mm"])
    np.testing.assert_allclose(np.multiply(meta["spacing_mm"], mask.shape), (156, 192, 156))
    middle = np.array(meta["affine"]) @ [9.5, 11.5, 8.5, 1]
    np.testing.assert_allclose(middle[:3], 0, atol=1e-9)
    json.dumps([meta, source.fingerprint()])


def test_brain_tissues_are_ordered_and_the_outside_is_black():
    for patient in range(3):
        image, mask, _ = render_brain(0, patient, (40, 48, 40))
        csf, grey, white = (image[mask == value].mean() for value in (1, 2, 3))
        assert csf + 20 < grey and grey + 30 < white
        assert not image[mask == 0].any()
        assert 0.15 < np.mean(mask > 0) < 0.4
        share = np.bincount(mask.ravel(), minlength=4)[1:] / np.sum(mask > 0)
        assert share[0] > 0.05 and share[1] > 0.3 and share[2] > 0.2


@pytest.mark.parametrize("seed", [0, 1])
def test_brain_classes_are_in_range_and_old_brains_hold_more_fluid(seed):
    source = PhantomBrain("train", (20, 24, 20), 10, seed)
    csf = {0: [], 1: []}
    for index in range(len(source)):
        record = source[index]
        csf[record.label].append(np.sum(record.mask == 1) / np.sum(record.mask > 0))
    assert len(csf[0]) == len(csf[1]) == len(source) / 2
    assert np.mean(csf[1]) > 1.5 * np.mean(csf[0])
    grown = PhantomBrain("train", (20, 24, 20), 30, seed)
    assert grown[3].label == source[3].label  # the patient's own, whatever the splits


def test_age_changes_ventricles_sulci_and_cortex_and_nothing_else():
    for seed in range(8):
        young, old = (draw_brain(np.random.default_rng(seed), age) for age in (0, 1))
        assert old.ventricles > 1.15 * young.ventricles
        assert old.fluid > 1.15 * young.fluid
        assert old.cortex < young.cortex
        aged = {"cortex": young.cortex, "fluid": young.fluid, "ventricles": young.ventricles}
        assert old._replace(**aged) == young
    assert {age_class(0, patient) for patient in range(9)} == {0, 1}


def test_camus_tree_has_the_public_layout(tmp_path):
    root = write_camus_tree(tmp_path / "camus", 4, seed=2, image_shape=(48, 68))
    listed = {
        name: (root / "database_split" / f"subgroup_{name}.txt").read_text().split()
        for name in ("training", "validation", "testing")
    }
    patients = sorted(path.name for path in (root / "database_nifti").iterdir())
    everyone = sorted(name for names in listed.values() for name in names)
    assert everyone == patients == [f"patient{n:04d}" for n in range(1, 5)]
    assert [len(names) for names in listed.values()] == [2, 1, 1]

    stem = root / "database_nifti" / "patient0003" / "patient0003_4CH_ES"
    image, mask = (nibabel.load(f"{stem}{suffix}.nii.gz") for suffix in ("", "_gt"))
    assert image.get_data_dtype() == mask.get_data_dtype() == np.float32
    assert image.shape == mask.shape and image.shape[0] > image.shape[1]
    columns, rows = image.shape
    expected, labels, spacing = render_echo(2, 2, "4CH", "ES", (rows, columns))
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, expected)
    np.testing.assert_array_equal(np.asarray(mask.dataobj).T, labels)
    np.testing.assert_allclose(image.header.get_zooms(), spacing[::-1], rtol=1e-5)
    np.testing.assert_allclose(np.mean(spacing), 120 / 48, rtol=0.02)
    shapes = {nibabel.load(path).shape for path in root.glob("database_nifti/*/*_2CH_ED.nii.gz")}
    assert len(shapes) > 1


def test_camus_info_files_hold_the_release_s_facts(tmp_path):
    root = write_camus_tree(tmp_path, 3, image_shape=(40, 56))
    for path in root.glob("database_nifti/*/Info_?CH.cfg"):
        facts = dict(line.split(": ") for line in path.read_text().splitlines())
        assert set(facts) == {
            "ED",
            "ES",
            "NbFrame",
            "Sex",
            "Age",
            "ImageQuality",
            "EF",
            "FrameRate",
        }
        assert facts["ImageQuality"] in ("Good", "Medium", "Poor") and facts["Sex"] in "FM"
        assert 20 < int(facts["EF"]) < 90
        assert min(int(facts["ED"]), int(facts["ES"])) == 1
        assert max(int(facts["ED"]), int(facts["ES"])) <= int(facts["NbFrame"])
    assert len(list(root.glob("database_nifti/*/Info_?CH.cfg"))) == 6


@pytest.mark.parametrize("modalities", [("T1w",), ("FLAIR", "T1w")])
def test_decathlon_tree_has_the_public_layout(tmp_path, modalities):
    root = write_decathlon_tree(tmp_path / "Task", 4, 1, (12, 14, 12), modalities)
    description = json.loads((root / "dataset.json").read_text())
    assert list(description["modality"].values()) == list(modalities)
    assert description["numTraining"] == len(description["training"]) == 3
    assert description["numTest"] == len(description["test"]) == 1
    assert all(isinstance(entry, str) for entry in description["test"])
    assert len(list((root / "labelsTr").iterdir())) == 3

    entry = description["training"][1]
    image, mask = nibabel.load(root / entry["image"]), nibabel.load(root / entry["label"])
    expected, labels, affine = render_brain(1, 1, (12, 14, 12), modalities)
    expected = expected[..., 0] if len(modalities) == 1 else expected
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), labels)
    np.testing.assert_allclose(image.affine, affine, rtol=1e-5)
    assert nibabel.load(root / description["test"][0]).shape == image.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: PhantomEcho("val", (16, 16), 7), "split='val'"),
        (lambda path: PhantomEcho("train", (16, 16, 16), 7), "2 positive"),
        (lambda path: PhantomEcho("train", (16, 16), 7, classes="sex"), "view_phase"),
        (lambda path: PhantomBrain("train", (16, 0, 16), 7), "3 positive"),
        (lambda path: PhantomBrain("train", (16, 16, 16), 2), "num_patients=2"),
        (lambda path: write_camus_tree(path / "new", 2), "num_patients=2"),
        (lambda path: write_decathlon_tree(path / "new", 2), "num_patients=2"),
        (lambda path: write_decathlon_tree(path / "new", 4, modalities=("CT",)), "T1w"),
    ],
)
def test_mistakes_say_what_was_needed_and_leave_nothing(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)
    assert not list(tmp_path.iterdir())
