import json

import nibabel
import numpy as np
import pytest

from motfm_jax import datasets, settings
from motfm_jax.commands import prepare
from motfm_jax.data.cache import entry_key, open_cached
from motfm_jax.data.decathlon import Decathlon
from motfm_jax.data.geometry import Grid

SHAPE = (8, 10, 6)
MODALITY = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
LABELS = {"0": "background", "1": "edema", "2": "core", "3": "enhancing"}


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def volume(number, channels):
    """Channel c of volume n is n * 10 + c inside a box and 0 outside."""
    image = np.zeros((*SHAPE, channels), np.int16)
    image[2:6, 3:9, 1:5] = number * 10 + np.arange(channels) + 1
    return image if channels > 1 else image[..., 0]


def mask():
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 3:9, 1:5], labels[4, 3:9, 1:5], labels[5, 3:9, 1:5] = 1, 2, 3
    return labels


def write_tree(root, num_train=10, num_test=2, modality=MODALITY):
    for number in range(num_train):
        save(root / f"imagesTr/V_{number:02d}.nii.gz", volume(number, len(modality)))
        save(root / f"labelsTr/V_{number:02d}.nii.gz", mask())
    for number in range(num_test):
        save(root / f"imagesTs/W_{number:02d}.nii.gz", volume(number, len(modality)))
    training = [
        {"image": f"./imagesTr/V_{n:02d}.nii.gz", "label": f"./labelsTr/V_{n:02d}.nii.gz"}
        for n in range(num_train)
    ]
    test = [f"./imagesTs/W_{n:02d}.nii.gz" for n in range(num_test)]
    description = {"modality": modality, "labels": LABELS, "training": training, "test": test}
    (root / "dataset.json").write_text(json.dumps(description))


def edit(root, **changes):
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name, index", [("T1w", 1), ("t1W", 1), ("T1GD", 2), ("flair", 0)])
def test_the_channel_is_found_by_its_whole_name_in_any_case(tree, name, index):
    source = Decathlon(tree, "train", Grid(SHAPE, "stretch"), name)
    number = int(source.entries[0].patient[-2:])
    assert source[0].image.max() == number * 10 + index + 1
    assert source[0].meta["channel"] == MODALITY[str(index)]


@pytest.mark.parametrize(
    "name, came", [("t1", "no channels are called 't1'"), ("", "no channel chosen")]
)
def test_a_channel_that_is_not_one_is_refused_with_the_list(tree, name, came):
    ways = r"config\.data\.channel, in motfm prepare --channel$"
    with pytest.raises(ValueError, match=f"{came}, it has FLAIR, T1w, t1gd, T2w; .*{ways}"):
        Decathlon(tree, "train", Grid(SHAPE), channel=name)


def test_a_single_channel_needs_no_name(tmp_path):
    write_tree(tmp_path, modality={"0": "MRI"})
    record = Decathlon(tmp_path, "train", Grid(SHAPE))[0]
    assert record.image.shape == (*SHAPE, 1) and record.label is None


def test_records_keep_the_files_axes_affine_and_labels(tree):
    source = Decathlon(tree, "train", Grid(SHAPE, "stretch"), "T1w")
    number = int(source.entries[0].patient[-2:])
    record = source[0]
    np.testing.assert_array_equal(record.image[..., 0], volume(number, 4)[..., 1])
    np.testing.assert_array_equal(record.mask, mask())
    assert record.mask.dtype == np.uint8
    assert record.meta["spacing_mm"] == [2, 2, 3]
    np.testing.assert_allclose(record.meta["affine"], np.diag([2, 2, 3, 1]))
    assert source.mask_labels == tuple(LABELS.values()) and source.classes == ()


def test_a_source_channel_comes_with_the_image_on_the_same_grid(tree):
    alone = Decathlon(tree, "train", Grid(SHAPE), "T1w")
    pair = Decathlon(tree, "train", Grid(SHAPE), "T1w", source_channel="flair")
    record = pair[0]
    np.testing.assert_array_equal(record.image, alone[0].image)
    assert alone[0].source is None
    flair = Decathlon(tree, "train", Grid(SHAPE), "FLAIR")[0].image
    np.testing.assert_array_equal(record.source, flair)
    assert (flair != record.image).any()
    assert "source_channel" not in alone.fingerprint()
    assert pair.fingerprint() != alone.fingerprint()
    with pytest.raises(ValueError, match=r"'T1', .*name one of them: config\.flow\.source_channel"):
        Decathlon(tree, "train", Grid(SHAPE), "T1w", source_channel="T1")


def test_pad_makes_spacing_equal_and_crop_moves_the_affine(tree):
    whole = Decathlon(tree, "train", Grid((8, 8, 8)), channel="T1w")[0]
    assert whole.meta["spacing_mm"] == [2.5] * 3  # 10 voxels of 2 mm into 8
    cropped = Decathlon(tree, "train", Grid((4, 6, 4), "stretch", crop_foreground=True), "T1w")[0]
    assert cropped.image.min() > 0
    np.testing.assert_allclose(np.array(cropped.meta["affine"])[:3, 3], [4, 6, 3])


def test_target_spacing_cuts_or_pads_and_does_not_fit(tree):
    record = Decathlon(tree, "train", Grid((8, 4, 8), spacing_mm=(2, 2, 3)), "T1w")[0]
    assert record.meta["spacing_mm"] == [2, 2, 3]
    np.testing.assert_array_equal(record.mask[:, :, 1:7], mask()[:, 3:7])
    assert not record.mask[:, :, [0, 7]].any()


def test_voxels_of_500_microns_are_half_a_millimetre(tmp_path):
    write_tree(tmp_path, 2, modality={"0": "T1w"})
    for path in tmp_path.glob("*Tr/*"):
        stored = np.asanyarray(nibabel.load(path).dataobj)
        image = nibabel.Nifti1Image(stored, np.diag([500.0, 500, 500, 1]))
        image.header.set_xyzt_units("micron")
        nibabel.save(image, path)
    record = Decathlon(tmp_path, "train", Grid(SHAPE, spacing_mm=(0.5, 0.5, 0.5)))[0]
    np.testing.assert_array_equal(record.mask, mask())
    np.testing.assert_array_equal(record.image > 0, mask()[..., None] > 0)


def test_labels_are_remapped_and_merged_names_joined(tree):
    source = Decathlon(tree, "train", Grid(SHAPE, "stretch"), "T1w", label_map=((2, 1), (3, 2)))
    assert source.mask_labels == ("background", "edema+core", "enhancing")
    np.testing.assert_array_equal(source[0].mask, np.array([0, 1, 1, 2])[mask()])


def test_labels_with_gaps_are_declared_by_name_and_value(tree):
    edit(tree, labels={"0": "background", "1": "edema", "2": "core", "300": "far"})
    source = Decathlon(tree, "train", Grid(SHAPE, "stretch"), "T1w", label_map=((2, 1), (3, 300)))
    assert source.mask_labels == ("background", "edema+core", "far")
    assert source.label_values == (0, 1, 300)
    np.testing.assert_array_equal(source[0].mask, np.array([0, 1, 1, 300])[mask()])


def test_an_undeclared_label_can_be_remapped(tree):
    """BraTS holds 4 where dataset.json may name 0 to 3."""
    path = mask_of(Decathlon(tree, "train", Grid(SHAPE), "T1w").entries[0].image_path)
    save(path, np.where(mask() == 3, 4, mask()).astype(np.uint8))
    with pytest.raises(ValueError, match="label 4 found, only 0, 1, 2, 3 declared"):
        Decathlon(tree, "train", Grid(SHAPE, "stretch"), "T1w")[0]
    source = Decathlon(tree, "train", Grid(SHAPE, "stretch"), "T1w", label_map=((4, 3),))
    assert source.mask_labels == tuple(LABELS.values())
    np.testing.assert_array_equal(source[0].mask, mask())


@pytest.mark.parametrize("channel", ["T2w, FLAIR", ("T2w", "flair")])
def test_several_channels_become_the_channels_of_the_image(tree, channel):
    source = Decathlon(tree, "train", Grid(SHAPE, "stretch"), channel)
    number = int(source.entries[0].patient[-2:])
    np.testing.assert_array_equal(source[0].image, volume(number, 4)[..., [3, 0]])
    assert source.channel_names == ("T2w", "FLAIR") and source[0].meta["channel"] == "T2w, FLAIR"
    assert source.fingerprint() != Decathlon(tree, "train", Grid(SHAPE), "T2w").fingerprint()


@pytest.mark.parametrize("channel", ["T1w,t1W", ("T1w", 2), ","])
def test_channels_that_are_no_different_names_are_refused(tree, channel):
    with pytest.raises(ValueError, match=r"several different ones, such as \"T1w,FLAIR\""):
        Decathlon(tree, "train", Grid(SHAPE), channel)


def test_labels_with_gaps_and_several_channels_reach_the_network(tree, tmp_path):
    edit(tree, labels={"0": "background", "1": "edema", "2": "core", "255": "far"})
    config = settings.default()
    fields = {"source": "decathlon", "root": str(tree), "size": SHAPE, "channel": ("T1w", "FLAIR")}
    fields |= {"label_map": ((3, 255),), "fit": "stretch", "cache": str(tmp_path / "cache")}
    config.data.update(fields)
    data = datasets.data(config)
    assert data.facts.mask_labels == ("background", "edema", "core", "far")
    assert data.facts.label_values == (0, 1, 2, 255)
    assert data.facts.channel_names == ("T1w", "FLAIR") and data.facts.channels == 2
    assert np.unique(data.train.masks).tolist() == [0, 1, 2, 3]


def test_channels_are_made_from_as_many(tree):
    pair = Decathlon(tree, "train", Grid(SHAPE), "T1w,FLAIR", source_channel="T2w,t1gd")
    assert pair[0].source.shape == pair[0].image.shape == (*SHAPE, 2)
    with pytest.raises(ValueError, match="1 channels to make 2 from"):
        Decathlon(tree, "train", Grid(SHAPE), "T1w,FLAIR", source_channel="T2w")


# of files whose axes lead to the right (R) or left (L), front (A), top (S)
AFFINES = {
    "RAS": [[2, 0, 0, -7], [0, 2, 0, 5], [0, 0, 3, 1], [0, 0, 0, 1]],
    "LAS": [[-2, 0, 0, 7], [0, 2, 0, 5], [0, 0, 3, 1], [0, 0, 0, 1]],
    "SAR": [[0, 0, 2, -7], [0, 2, 0, 5], [3, 0, 0, 1], [0, 0, 0, 1]],
}


def stored(array, axes):
    """A volume with axes to the right, front and top as a file with other axes holds it."""
    if axes == "LAS":
        return array[::-1]
    return array.transpose(2, 1, 0) if axes == "SAR" else array


@pytest.mark.parametrize("of_mask", AFFINES)
@pytest.mark.parametrize("of_image", AFFINES)
def test_volumes_of_any_orientation_are_ras_and_masks_follow_them(tmp_path, of_image, of_mask):
    """The lesion is at the right, and its mask marks it, however either file is stored."""
    write_tree(tmp_path, 2, modality={"0": "T1w"})
    image, labels = np.zeros((8, 8, 6), np.int16), np.zeros((8, 8, 6), np.uint8)
    image[5:7, 2:5, 1:3], labels[5:7, 2:5, 1:3] = 100, 1
    for folder, array, axes in (("imagesTr", image, of_image), ("labelsTr", labels, of_mask)):
        for number in range(2):
            path = tmp_path / folder / f"V_{number:02d}.nii.gz"
            save(path, stored(array, axes), np.array(AFFINES[axes], float))
    record = Decathlon(tmp_path, "train", Grid((8, 8, 6), "stretch"))[0]
    np.testing.assert_array_equal(record.image[..., 0], image)
    np.testing.assert_array_equal(record.mask, labels)
    np.testing.assert_allclose(record.affine, AFFINES["RAS"])
    assert record.spacing_mm == (2, 2, 3)


def split(root, seed=0):
    splits = {}
    for name in ("train", "valid", "test"):
        source = Decathlon(root, name, Grid(SHAPE), "T1w", split_seed=seed)
        splits[name] = {entry.patient for entry in source.entries}
    return splits


def test_the_seeded_split_is_80_10_10_and_disjoint(tmp_path):
    write_tree(tmp_path, num_train=20)
    splits = split(tmp_path)
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [16, 2, 2]
    assert len(set().union(*splits.values())) == 20
    assert split(tmp_path) == splits != split(tmp_path, seed=1)


def test_two_volumes_leave_one_for_validation_and_none_for_test(tmp_path):
    write_tree(tmp_path, num_train=2)
    assert len(Decathlon(tmp_path, "train", Grid(SHAPE), "T1w")) == 1
    assert len(Decathlon(tmp_path, "valid", Grid(SHAPE), "T1w")) == 1
    with pytest.raises(ValueError, match="none for the test split"):
        Decathlon(tmp_path, "test", Grid(SHAPE), "T1w")


def test_test_entries_are_bare_paths_without_masks(tree):
    source = Decathlon(tree, "unlabelled", Grid(SHAPE), "T1w")
    assert [entry.patient for entry in source.entries] == ["W_00", "W_01"]
    assert source[0].mask is None and source.mask_labels == ()


@pytest.mark.parametrize("path", ["", 3, None, {"a": 1}])
def test_an_entry_without_a_path_is_refused(tree, path):
    edit(tree, training=[{"image": path}])
    with pytest.raises(ValueError, match=r"dataset.json: entry .*, paths of an image and its"):
        Decathlon(tree, "train", Grid(SHAPE), "T1w")


def test_a_linked_image_folder_is_allowed(tree):
    (tree / "imagesTr").rename(tree.parent / f"{tree.name}_elsewhere")
    (tree / "imagesTr").symlink_to(tree.parent / f"{tree.name}_elsewhere")
    assert len(Decathlon(tree, "train", Grid(SHAPE), "T1w")) == 8


def entry_without_label(root):
    training = json.loads((root / "dataset.json").read_text())["training"]
    for item in training[::2]:
        del item["label"]
    edit(root, training=training)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "dataset.json").unlink(), "dataset.json: missing"),
        (lambda root: (root / "dataset.json").write_text("{"), "not valid JSON"),
        (lambda root: (root / "dataset.json").write_text("[]"), "no modality and no training"),
        (lambda root: edit(root, training=None), "no training"),
        (lambda root: edit(root, training=[]), "0 entries leave none"),
        (lambda root: edit(root, modality={"1": "T1w"}), "keys"),
        (lambda root: edit(root, labels={"background": 0}), "'labels'"),
        (lambda root: edit(root, labels={"0": "background", "70000": "far"}), "from 0 to 65535"),
        (lambda root: (root / "imagesTr/V_00.nii.gz").unlink(), "V_00.nii.gz: no such file"),
        (entry_without_label, "has no label"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(tree, tmp_path, spoil, message):
    spoil(tree)
    with pytest.raises(ValueError, match=message) as error:
        open_cached(Decathlon(tree, "train", Grid(SHAPE), "T1w"), tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_geometry_and_resampling_of_masks_reach_every_entry(tmp_path, capsys):
    """Headers with an sform of 1 mm and a pixdim of 2 x 2 x 3; masks of twice the voxel size."""
    root = tmp_path / "brains"
    write_tree(root, 3, modality={"0": "T1w"})
    for path in root.glob("images*/*"):
        image = nibabel.Nifti1Image(volume(1, 1), np.eye(4))
        image.header.set_zooms((2, 2, 3))
        nibabel.save(image, path)
    for path in root.glob("labelsTr/*"):
        image = nibabel.Nifti1Image(mask()[::2, ::2, ::2], None)
        image.header.set_zooms((4, 4, 6))
        nibabel.save(image, path)
    common = ["--layout=decathlon", f"--root={root}"]
    size = ["--size", "4", "5", "3"]
    assert prepare.main(["check", *common]) == 2
    assert "errors: 5" in capsys.readouterr().out
    with pytest.raises(ValueError, match="disagrees with itself"):
        prepare.main(["preview", *common, *size])
    with pytest.raises(ValueError, match="differ in space"):
        prepare.main(["preview", *common, *size, "--geometry=pixdim"])
    common += ["--geometry=pixdim", "--resample-masks"]
    assert prepare.main(["check", *common]) == 0
    assert prepare.main(["preview", *common, *size, f"--out={tmp_path / 'a.png'}"]) == 0
    assert prepare.main(["convert", *common, *size, f"--out={tmp_path / 'a.pkl'}"]) == 0
    config = settings.default()
    config.data.update(root=str(root), size=SHAPE, fit="stretch")
    config.data.update(geometry="pixdim", resample_masks=True)
    record = Decathlon.from_config(config.data, "train")[0]
    expected = np.kron(mask()[::2, ::2, ::2], np.ones((2, 2, 2), np.uint8))
    np.testing.assert_array_equal(record.mask, expected[::-1])  # pixdim alone leads to the left
    assert record.spacing_mm == (2, 2, 3)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_infinity(path):
    image = volume(1, 4).astype(np.float32)
    image[1, 1, 1, 1] = np.inf
    save(path, image)


def mask_of(path):
    return path.parent.parent / "labelsTr" / path.name


@pytest.mark.parametrize(
    "spoil, message",
    [
        (truncate, "imagesTr.*cannot be read"),
        (with_infinity, "1 of [0-9]+ values are NaN or infinite"),
        (lambda path: save(path, volume(1, 1)), "4 channels needed"),
        (lambda path: save(path, volume(1, 3)), "4 channels needed"),
        (
            lambda path: save(mask_of(path), mask()[:-1]),
            r"labelsTr.*mask \(7, 10, 6\) and image \(8, 10, 6\)",
        ),
        (lambda path: save(mask_of(path), mask() + 2), "label 4, 5 found, only 0, 1, 2, 3"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_when_it_is_read(tree, spoil, message):
    source = Decathlon(tree, "train", Grid((8, 8, 8)), "T1w")
    spoil(source.entries[0].image_path)
    source = Decathlon(tree, "train", Grid((8, 8, 8)), "T1w")  # constructing opens no image
    with pytest.raises(ValueError, match=message) as error:
        source[0]
    assert "\n" not in str(error.value)


def test_an_empty_volume_cannot_be_cropped_and_a_2d_size_not_filled(tree):
    source = Decathlon(tree, "train", Grid((8, 8, 8), crop_foreground=True), "T1w")
    save(source.entries[0].image_path, np.zeros((*SHAPE, 4), np.int16))
    with pytest.raises(ValueError, match=r"V_\d\d.nii.gz: no voxel is above the background"):
        source[0]
    with pytest.raises(ValueError, match=r"V_\d\d.nii.gz: size \(8, 8\)|size \[8, 8\]"):
        Decathlon(tree, "train", Grid((8, 8)), "T1w")[0]


def test_the_cache_entry_follows_files_and_settings(tree):
    def key(label_map=(), **grid):
        return entry_key(Decathlon(tree, "train", Grid(SHAPE, **grid), "T1w", label_map=label_map))

    before = key()
    assert before == key()
    for change in ({"fit": "stretch"}, {"crop_foreground": True}, {"label_map": ((1, 2),)}):
        assert key(**change) != before
    first = Decathlon(tree, "train", Grid(SHAPE), "T1w").entries[0]
    save(first.image_path, volume(99, 4))
    assert key() != before


def test_real_ixi(motfm_data):
    root = motfm_data / "ixi_t1_decathlon"
    sources = [Decathlon(root, name, Grid((32, 32, 32))) for name in ("train", "valid", "test")]
    assert [len(source) for source in sources] == [133, 16, 16]
    record = sources[0][0]
    assert record.image.shape == (32, 32, 32, 1) and set(np.unique(record.mask)) == {0, 1, 2, 3, 4}
    assert record.meta["spacing_mm"] == [7.5] * 3  # 120 voxels of 2 mm into 32


def test_real_ms_by_channel_name(motfm_data):
    root = motfm_data / "ms_4ch_decathlon"
    size = (16, 16, 16)
    t1, t1gd = (
        Decathlon(root, "unlabelled", Grid(size, "stretch"), name) for name in ("t1W", "T1gd")
    )
    array = np.asanyarray(nibabel.load(root / "imagesTs/MS_26.nii.gz").dataobj)
    for source, index in ((t1, 1), (t1gd, 2)):
        np.testing.assert_allclose(source[0].image.mean(), array[..., index].mean(), rtol=0.01)
    assert Decathlon(root, "train", Grid(size), "T1w").mask_labels == (
        "background",
        "lesion",
    )
