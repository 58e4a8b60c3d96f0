import builtins

import nibabel
import numpy as np
import pytest

from motfm_jax.data.cache import entry_key, open_cached
from motfm_jax.data.camus import CLASSES, MASK_LABELS, Camus

SHAPE = (24, 16)  # x, y on disk
SPACING = (0.5, 0.25)


def save(path, array, spacing=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1, 1])), path)


def frame(seed):
    """An image that is dark where y is small, bright where it is large; and a mask."""
    rng = np.random.default_rng(seed)
    image = np.linspace(0, 200, SHAPE[1]) + rng.uniform(0, 9, SHAPE)
    mask = np.zeros(SHAPE, np.float32)
    mask[:6, :8], mask[6:12, :8], mask[12:18, 8:] = 1, 2, 3
    return image.astype(np.float32), mask


def write_tree(root, num_patients, testing=False):
    names = [f"patient{number:04d}" for number in range(1, num_patients + 1)]
    for seed, patient in enumerate(names):
        for view in ("2CH", "4CH"):
            for phase in ("ED", "ES"):
                image, mask = frame(seed)
                stem = root / "database_nifti" / patient / f"{patient}_{view}_{phase}"
                save(stem.with_name(stem.name + ".nii.gz"), image)
                save(stem.with_name(stem.name + "_gt.nii.gz"), mask)
            folder = root / "database_nifti" / patient
            save(folder / f"{patient}_{view}_half_sequence.nii.gz", np.zeros((*SHAPE, 9)), (1, 1))
            (folder / f"Info_{view}.cfg").write_text(f"ED: 1\nES: 9\nImageQuality: {view}-Good\n")
    lists = root / "database_split"
    lists.mkdir()
    ends = {"training": names[:-2], "validation": names[-2:-1]}
    for name, patients in (ends | ({"testing": names[-1:]} if testing else {})).items():
        (lists / f"subgroup_{name}.txt").write_text("\n".join(patients) + "\n")
    return names


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path, 4)
    return tmp_path


def image_path(root, patient="patient0001", name="2CH_ED"):
    return root / "database_nifti" / patient / f"{patient}_{name}.nii.gz"


def test_the_official_lists_split_and_half_sequences_are_not_read(tree):
    train, valid = Camus(tree, "train", (16, 24)), Camus(tree, "valid", (16, 24))
    assert (len(train), len(valid)) == (8, 4)
    names = [train[index].meta["name"] for index in range(4)]
    assert names == [f"patient0001_{name}" for name in CLASSES["view_phase"]]
    assert {valid[index].meta["patient"] for index in range(4)} == {"patient0003"}


def test_files_are_x_first_and_records_rows_first(tree):
    record = Camus(tree, "train", (16, 24), fit="stretch")[0]
    image, mask = frame(0)
    np.testing.assert_allclose(record.image[..., 0], image.T, rtol=1e-6)
    np.testing.assert_array_equal(record.mask, mask.T)
    assert record.image.dtype == np.float32 and record.mask.dtype == np.uint8
    assert record.meta["spacing_mm"] == [0.25, 0.5]  # rows are depth
    affine = np.array(record.meta["affine"])
    row, column = 3, 5
    np.testing.assert_allclose(affine @ [row, column, 0, 1], [column * 0.5, row * 0.25, 0, 1])
    assert record.meta["quality"] == "2CH-Good"


def test_a_mask_stored_mirrored_or_transposed_lies_on_its_image(tree):
    _, mask = frame(0)
    x, y = np.diag([*SPACING, 1, 1]).T[:2]
    mirrored = np.diag([-SPACING[0], SPACING[1], 1, 1])
    mirrored[0, 3] = SPACING[0] * (SHAPE[0] - 1)
    transposed = np.array([y, x, *np.eye(4)[2:]]).T
    for array, affine in ((mask[::-1], mirrored), (mask.T, transposed)):
        path = image_path(tree, name="2CH_ED_gt")
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        record = Camus(tree, "train", (16, 24), fit="stretch")[0]
        np.testing.assert_array_equal(record.mask, mask.T)


@pytest.mark.parametrize("fit, spacing", [("stretch", [0.5, 1.5]), ("pad", [1.5, 1.5])])
def test_spacing_after_resizing(tree, fit, spacing):
    """The frame is 16 x 0.25 = 4 mm deep and 24 x 0.5 = 12 mm wide."""
    record = Camus(tree, "train", (8, 8), fit=fit)[0]
    assert record.image.shape == (8, 8, 1) and record.mask.shape == (8, 8)
    assert record.meta["spacing_mm"] == spacing
    padded = (record.mask.any(axis=1)).sum()
    assert padded == (8 if fit == "stretch" else 2)  # of 2.67 pixels, 2 are centred inside


@pytest.mark.parametrize(
    "classes, labels",
    [("view_phase", [0, 1, 2, 3]), ("view", [0, 0, 1, 1]), ("phase", [0, 1, 0, 1])],
)
def test_classes(tree, classes, labels):
    source = Camus(tree, "valid", (8, 8), classes=classes)
    assert [source[index].label for index in range(4)] == labels
    assert source.classes == CLASSES[classes] and source.mask_labels == MASK_LABELS


def test_the_test_list_is_used_where_the_release_has_it_and_refused_where_not(tmp_path):
    write_tree(tmp_path, 4, testing=True)
    assert Camus(tmp_path, "test", (8, 8))[0].meta["patient"] == "patient0004"
    (tmp_path / "database_split/subgroup_testing.txt").unlink()
    with pytest.raises(ValueError, match=r"subgroup_testing.txt: missing.*split=paper"):
        Camus(tmp_path, "test", (8, 8))


def patients(root, seed=0):
    splits = {}
    for split in ("train", "valid", "test"):
        source = Camus(root, split, (8, 8), split_rule="paper", split_seed=seed)
        splits[split] = sorted({frame.patient for frame in source.frames})
    return splits


def empty_patients(root, count):
    """Patients with one (empty) frame file each: listing needs no more."""
    for number in range(1, count + 1):
        path = image_path(root, f"patient{number:04d}")
        path.parent.mkdir(parents=True)
        path.touch()


def test_the_papers_split_has_50_random_patients_for_test_and_the_first_50_others(tmp_path):
    empty_patients(tmp_path, 450)
    splits = patients(tmp_path)
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [350, 50, 50]
    assert len(set().union(*map(set, splits.values()))) == 450
    others = sorted(set(splits["train"]) | set(splits["valid"]))
    assert splits["valid"] == others[:50]
    assert patients(tmp_path) == splits
    assert patients(tmp_path, seed=1)["test"] != splits["test"]
    expected = 450 / 51  # mean gap of 50 numbers drawn from 450: not a block
    gaps = np.diff([int(name[-4:]) for name in splits["test"]])
    assert gaps.max() > 2 * expected


def test_the_papers_split_leaves_the_official_test_patients_out(tmp_path):
    names = write_tree(tmp_path, 6, testing=True)
    assert all(names[-1] not in split for split in patients(tmp_path).values())


def write_old_release(root):
    simple_itk = pytest.importorskip("SimpleITK")
    for part, count in (("training", 3), ("testing", 1)):
        for number in range(1, count + 1):
            for name in CLASSES["view_phase"]:
                stem = root / part / f"patient{number:04d}" / f"patient{number:04d}_{name}"
                stem.parent.mkdir(parents=True, exist_ok=True)
                for end, array in zip(("", "_gt"), frame(number)):
                    image = simple_itk.GetImageFromArray(array.T[None])  # one slice, as released
                    image.SetSpacing((*SPACING, 1))
                    simple_itk.WriteImage(image, f"{stem}{end}.mhd")


def test_the_older_release_gives_the_same_records(tmp_path):
    write_old_release(tmp_path)
    train = Camus(tmp_path, "train", (16, 24), "stretch", split_rule="paper")
    assert len(train) == 4
    patient = train.frames[0].patient
    image, mask = frame(int(patient[-1]))
    np.testing.assert_allclose(train[0].image[..., 0], image.T, rtol=1e-6)
    np.testing.assert_array_equal(train[0].mask, mask.T)
    assert train[0].meta["spacing_mm"] == [0.25, 0.5]
    official = Camus(tmp_path, "test", (16, 24))
    assert {frame.patient for frame in official.frames} == {"testing_patient0001"}
    with pytest.raises(ValueError, match="no official train split"):
        Camus(tmp_path, "train", (16, 24))
    before = entry_key(train)
    raw = next((tmp_path / "training" / patient).glob("*2CH_ED.raw"))
    raw.write_bytes(raw.read_bytes()[1:])
    assert entry_key(train) != before


def test_without_simpleitk_the_older_release_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "training/patient0001/patient0001_2CH_ED.mhd"
    path.parent.mkdir(parents=True)
    path.write_text("NDims = 2")
    for number in (2, 3):
        other = tmp_path / f"training/patient000{number}/patient000{number}_2CH_ED.mhd"
        other.parent.mkdir()
        other.touch()
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "SimpleITK":
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'motfm_jax\[itk\]'"):
        Camus(tmp_path, "train", (8, 8), split_rule="paper")[0]


def truncate(root):
    path = image_path(root)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(root):
    image, _ = frame(0)
    image[3, 3] = np.nan
    save(image_path(root), image)


def other_shape(root):
    save(image_path(root, name="2CH_ED_gt"), np.zeros((24, 15), np.float32))


def unknown_label(root):
    save(image_path(root, name="2CH_ED_gt"), np.full(SHAPE, 4, np.float32))


def fractional_label(root):
    save(image_path(root, name="2CH_ED_gt"), np.full(SHAPE, 0.5, np.float32))


def a_sequence(root):
    save(image_path(root), np.zeros((*SHAPE, 5), np.float32))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (truncate, "2CH_ED.nii.gz: cannot be read"),
        (with_nan, "2CH_ED.nii.gz: 1 of [0-9]+ values are NaN"),
        (other_shape, r"2CH_ED_gt.nii.gz: mask \(24, 15\) and image \(24, 16\)"),
        (unknown_label, "2CH_ED_gt.nii.gz: label 4 found, only 0, 1, 2, 3"),
        (fractional_label, "2CH_ED_gt.nii.gz: mask values such as 0.5"),
        (a_sequence, "one 2-D frame needed"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_when_it_is_read(tree, spoil, message):
    spoil(tree)
    source = Camus(tree, "train", (8, 8))  # constructing opens no file
    with pytest.raises(ValueError, match=message) as error:
        source[0]
    assert "\n" not in str(error.value)
    assert source[1].label == 1


def no_masks_of_some(root):
    image_path(root, name="2CH_ED_gt").unlink()


def empty_patient(root):
    for path in (root / "database_nifti/patient0001").iterdir():
        path.unlink()


def listed_but_absent(root):
    with open(root / "database_split/subgroup_training.txt", "a") as file:
        file.write("patient0099\n")


def in_two_lists(root):
    (root / "database_split/subgroup_validation.txt").write_text("patient0001\n")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (in_two_lists, r"patient0001 is also in database_split/subgroup_validation.txt"),
        (no_masks_of_some, "2CH_ED_gt.nii.gz: no such file"),
        (empty_patient, "patient0001_2CH_ED.nii.gz: no such file"),
        (listed_but_absent, "patient0099_2CH_ED.nii.gz: no such file"),
    ],
)
def test_an_incomplete_tree_is_refused_before_anything_is_read(tree, tmp_path, spoil, message):
    spoil(tree)
    with pytest.raises(ValueError, match=message):
        open_cached(Camus(tree, "train", (8, 8)), tmp_path / "cache")


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="absent: no such folder"):
        Camus(tmp_path / "absent", "train", (8, 8))
    with pytest.raises(ValueError, match="neither database_nifti"):
        Camus(tmp_path, "train", (8, 8))
    (tmp_path / "database_nifti").mkdir()
    with pytest.raises(ValueError, match="no patient folders"):
        Camus(tmp_path, "train", (8, 8))


@pytest.mark.parametrize(
    "wrong", [{"split": "dev"}, {"classes": "quality"}, {"split_rule": "mine"}, {"size": (8, 8, 8)}]
)
def test_wrong_settings_are_refused(tree, wrong):
    with pytest.raises(ValueError, match=r"dev|quality|mine|\(8, 8, 8\)"):
        Camus(**({"root": tree, "split": "train", "size": (8, 8)} | wrong))


def test_the_cache_entry_follows_files_and_settings(tree):
    def key(**settings):
        return entry_key(Camus(**({"root": tree, "split": "train", "size": (8, 8)} | settings)))

    before = key()
    assert before == key()
    for change in ({"size": (8, 16)}, {"fit": "stretch"}, {"classes": "view"}, {"split": "valid"}):
        assert key(**change) != before
    (tree / "database_nifti/patient0001/Info_2CH.cfg").write_text("ImageQuality: Poor\n")
    after = key()
    save(image_path(tree), frame(9)[0])
    assert len({before, after, key()}) == 3


def test_real_camus(motfm_data):
    root = motfm_data / "camus"
    train, valid = Camus(root, "train", (64, 64)), Camus(root, "valid", (64, 64))
    assert (len(train), len(valid)) == (1600, 200)
    record = train[0]
    depth = record.image[..., 0].mean(axis=1)  # the sector: narrow at the top
    assert depth[:5].mean() < depth[20:40].mean()
    rows = [np.nonzero(record.mask == label)[0].mean() for label in (1, 3)]
    assert rows[0] < rows[1]  # apical views: the atrium lies deeper than the cavity
    assert set(np.unique(record.mask)) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="subgroup_testing"):
        Camus(root, "test", (64, 64))
    splits = ("train", "valid", "test")
    sizes = [len(Camus(root, split, (64, 64), split_rule="paper")) for split in splits]
    assert sizes == [1400, 200, 200]
