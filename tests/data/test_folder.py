"""A folder as a source: images, masks and channels on one grid, slices, and the cache's key."""

import json
import threading

import nibabel
import numpy as np
import pytest
from PIL import Image

from motfm_jax import datasets, settings
from motfm_jax.data import folder as folders
from motfm_jax.data.cache import entry_key
from motfm_jax.data.cases import Choices
from motfm_jax.data.folder import Folder
from motfm_jax.data.geometry import Grid
from motfm_jax.data.slices import Cut
from motfm_jax.data.source import Fitted, NoSplit

RNG = np.random.default_rng(0)
LAS = np.array([[-2.0, 0, 0, 6], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
SHAPE = (4, 5, 6)
GRID = Grid(SHAPE, "stretch")


def png(path, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(0, 256, (8, 10), dtype=np.uint8) if values is None else values
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return np.asarray(values)


def nifti(path, values, affine=LAS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def nnunet(root, num=4):
    """Channel c of case n is n + c plus the voxel's index; a mask of the left half."""
    i, j, k = np.indices(SHAPE).astype(np.float32)
    for n in range(num):
        for c in range(2):
            nifti(root / f"imagesTr/p{n}_{c:04d}.nii.gz", 100 * i + 10 * j + k + n + c / 2)
        nifti(root / f"labelsTr/p{n}.nii.gz", (4 * (i > 1)).astype(np.uint8))
    description = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "left": 4},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def test_pictures_with_masks_and_classes(tmp_path):
    for split in ("train", "val"):
        for group in ("ill", "well"):
            image = png(tmp_path / split / "images" / group / f"{split}{group}.png")
            png(tmp_path / split / "masks" / group / f"{split}{group}.png", 255 * (image > 99))
    source = Folder(tmp_path, "valid", Grid((8, 10)))
    assert source.classes == ("ill", "well") and source.mask_labels is None
    record = source[1]
    assert (record.name, record.patient, record.label) == ("valwell", "valwell", 1)
    np.testing.assert_array_equal(record.image[..., 0], image)
    np.testing.assert_array_equal(record.mask, 255 * (image > 99))
    assert record.spacing_mm is None and record.source is None
    with pytest.raises(NoSplit, match="no image in the test split"):
        Folder(tmp_path, "test", Grid((8, 10)))


def test_masks_of_one_image_are_merged(tmp_path):
    for name in "ab":
        png(tmp_path / f"{name}.png")
        for number, label in enumerate((1, 2)):
            values = np.zeros((8, 10))
            values[number : number + 2] = label
            png(tmp_path / f"{name}_mask_{number}.png", values)
    mask = Folder(tmp_path, "train", Grid((8, 10)))[0].mask
    np.testing.assert_array_equal(mask[:4, 0], [1, 2, 2, 0])


def test_nnunet_channels_labels_and_orientation(tmp_path):
    source = Folder(nnunet(tmp_path), "train", GRID)
    assert source.channel_names == ("T1", "FLAIR")
    assert source.mask_labels == ("background", "left") and source.label_values == (0, 4)
    record = source[0]
    number = int(record.name[1])
    i, j, k = np.indices(SHAPE)
    expected = 100 * i[::-1] + 10 * j + k + number  # x runs to the right
    np.testing.assert_array_equal(record.image, np.stack([expected, expected + 0.5], -1))
    np.testing.assert_array_equal(record.mask, 4 * (i < 2))
    np.testing.assert_allclose(record.affine @ [3, 0, 0, 1], [6, 0, 0, 1])


def test_chosen_channels_and_the_one_to_start_from(tmp_path):
    root = nnunet(tmp_path)
    source = Folder(root, "train", GRID, Choices(channels=("flair",), source=("T1",)))
    record = source[0]
    np.testing.assert_allclose(record.image - record.source, 0.5)
    with pytest.raises(ValueError, match="no channels are called 'T2', it has T1, FLAIR"):
        Folder(root, "train", GRID, Choices(channels=("T2",)))


def test_a_mask_stored_mirrored_lies_on_its_image_and_another_grid_is_refused(tmp_path):
    root = nnunet(tmp_path)
    expected = Folder(root, "train", GRID)[0].mask
    for path in (root / "labelsTr").iterdir():
        mask = nibabel.load(path)
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = SHAPE[0] - 1
        nifti(path, np.asarray(mask.dataobj)[::-1], LAS @ flip)
    np.testing.assert_array_equal(Folder(root, "train", GRID)[0].mask, expected)
    for path in (root / "labelsTr").iterdir():
        moved = LAS.copy()
        moved[2, 3] += 6
        nifti(path, np.asarray(nibabel.load(path).dataobj), moved)
    with pytest.raises(ValueError, match=r"labelsTr/p\d\.nii\.gz: .* by 6 mm; .*resample_masks"):
        Folder(root, "train", GRID)[0]
    Folder(root, "train", GRID, Choices(resample_masks=True))[0]


def test_a_file_of_colours_is_no_single_channel(tmp_path):
    rows = ["image_1,image_2"]
    for name in "ab":
        png(tmp_path / f"{name}1.png", RNG.integers(0, 256, (8, 10, 3)))
        png(tmp_path / f"{name}2.png")
        rows.append(f"{name}1.png,{name}2.png")
    (tmp_path / "dataset.csv").write_text("\n".join(rows))
    errors = Folder.check(tmp_path).errors
    assert len(errors) == 2 and "a1.png: 4 channels in 2 files that are one channel" in errors[0]


def test_channels_on_different_grids_are_refused(tmp_path):
    root = nnunet(tmp_path)
    for path in (root / "imagesTr").glob("*_0001.nii.gz"):
        nifti(path, np.zeros(SHAPE, np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    with pytest.raises(ValueError, match=r"_0001\.nii\.gz: .*channels of one image need one grid"):
        Folder(root, "train", GRID)[0]


def test_slices_are_named_and_lie_in_their_volume(tmp_path, monkeypatch):
    root, reads = nnunet(tmp_path), []
    source = Folder(root, "train", Grid((5, 4), "stretch"), cut=Cut("axial", step=2, margin=1))
    assert len(source) == 2 * len(source.cases)
    read_case = folders.read_case
    monkeypatch.setattr(folders, "read_case", lambda *a: reads.append(a[0].name) or read_case(*a))
    names = [source[index].name for index in range(len(source))]
    assert names[:2] == [f"{source.cases[0].name}_0001", f"{source.cases[0].name}_0003"]
    assert reads == [case.name for case in source.cases]  # once a volume
    record = source[1]
    number = int(record.name[1])
    # Row 1, column 2 of slice 3: from the right (x is stored to the left) and from the front.
    assert record.image[1, 2, 0] == 100 * 2 + 10 * 3 + 3 + number
    np.testing.assert_allclose(record.affine @ [1, 2, 0, 1], LAS @ [2, 3, 3, 1])
    assert record.patient == record.name[:2]


def test_volumes_without_a_slice_left_are_refused(tmp_path):
    source = Folder(nnunet(tmp_path), "train", Grid((5, 4)), cut=Cut("axial", margin=3))
    with pytest.raises(ValueError, match=r"p\d_0000\.nii\.gz: no slices left: .*slice_margin=3 at"):
        source[0]
    source = Folder(tmp_path, "train", Grid((5, 4)), cut=Cut("axial", share=1.0))
    with pytest.raises(ValueError, match=r"no slices left .*slice_foreground=1"):
        len(source)


def test_check_finds_what_training_would_refuse(tmp_path):
    nnunet(tmp_path / "labels")
    mask = tmp_path / "labels/labelsTr/p1.nii.gz"
    nifti(mask, np.full(SHAPE, 3, np.uint8))
    errors = Folder.check(tmp_path / "labels").errors
    assert len(errors) == 1 and "label 3 found, only 0, 4 declared" in errors[0]
    rows = ["image,source,class"]
    for number in range(3):
        png(tmp_path / f"table/{number}.png")
        rows.append(f"{number}.png,low/{number}.png,{'iI'[number % 2]}ll")
    (tmp_path / "table/dataset.csv").write_text("\n".join(rows))
    report = Folder.check(tmp_path / "table")
    assert len(report.errors) == 3 and "no such file" in report.errors[0]
    assert any("classes Ill and ill differ in case or spaces" in line for line in report.warnings)


def test_threads_that_want_one_volume_read_it_once(tmp_path, monkeypatch):
    source = Folder(nnunet(tmp_path), "train", Grid((5, 4)), cut=Cut("axial"))
    len(source)
    reads, read_case = [], folders.read_case
    monkeypatch.setattr(folders, "read_case", lambda *a: reads.append(a[0].name) or read_case(*a))
    threads = [threading.Thread(target=source.__getitem__, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_a_volume_for_pictures_is_refused_with_the_way_out(tmp_path):
    source = Folder(nnunet(tmp_path), "train", Grid((5, 4)))
    with pytest.raises(ValueError, match=r"3 axes .*set config.data.slices, or give"):
        source[0]


def test_a_column_of_sources_is_paired(tmp_path):
    rows = ["image,source,split"]
    for n, split in enumerate(("train", "valid")):
        image = png(tmp_path / f"{n}.png")
        png(tmp_path / "low" / f"{n}.png", image // 2)
        rows.append(f"{n}.png,low/{n}.png,{split}")
    (tmp_path / "dataset.csv").write_text("\n".join(rows))
    config = settings.default()
    values = {"data.source": "folder", "data.root": str(tmp_path), "data.size": (8, 10)}
    settings.assign(config, values | {"flow.source": "channel", "data.on_fault": "stop"})
    config.model.channels, config.model.attention = (32,), (True,)
    settings.check(config)
    record = datasets.source(config, "train")[0]
    np.testing.assert_array_equal(record.source, record.image // 2)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"data.slices": "axial", "data.size": (16, 16, 16)}, "slices are 2-D"),
        ({"data.slices": "oblique"}, "use one of"),
        ({"data.label_map": ((4, 1),)}, "config.data.labels="),
    ],
)
def test_fields_that_contradict_are_refused(values, message):
    config = settings.default()
    settings.assign(config, {"data.source": "folder", "data.root": "x", **values})
    with pytest.raises(ValueError, match=message):
        settings.check(config)


def test_the_cache_follows_files_slices_and_classes(tmp_path):
    def key(root, **options):
        return entry_key(Fitted(Folder(root, "train", Grid((8, 8)), **options), (8, 8), "pad"))

    for name in ("x/a", "x/b", "y/c"):
        png(tmp_path / "one" / f"{name}.png")
    first = key(tmp_path / "one")
    assert key(tmp_path / "one") == first
    assert key(tmp_path / "one", cut=Cut("axial")) != first
    (tmp_path / "one/y").rename(tmp_path / "one/z")
    renamed = key(tmp_path / "one")
    assert renamed != first
    png(tmp_path / "one/x/a.png", np.zeros((9, 9)))
    assert key(tmp_path / "one") != renamed


def test_the_voxels_beside_a_header_are_files_of_its_record(tmp_path):
    for name in ("a.mhd", "a.raw", "b.mhd", "b.zraw"):
        (tmp_path / name).touch()
    files = Folder(tmp_path, "train", GRID).source_files()
    assert len(files) == 2 and files[0].stem == files[1].stem
