"""Which file of a folder is what: a small made-up tree of each layout."""

import json
from collections import Counter

import pytest

from motfm_jax.data.layouts import UNLABELLED
from motfm_jax.data.listing import class_names, draw, read


def tree(root, *paths):
    """Empty files: a listing opens none of them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def listed(root, seed=0):
    """(image, masks, class, split) of each case, paths within the root."""
    return [
        (
            str(case.images[0].relative_to(root)),
            [str(mask.relative_to(root)) for mask in case.masks],
            case.group,
            case.split,
        )
        for case in read(root, seed).cases
    ]


SETS = ("train", "val", "test")
TREES = {
    "images and masks": (
        ["images/a.png", "images/b.png", "masks/a.png", "masks/b.tif"],
        ("images/a.png", ["masks/a.png"], ""),
    ),
    "masks with a suffix": (
        ["images/a.jpg", "images/b.jpg", "masks/a_mask.png", "masks/b_segmentation.png"],
        ("images/a.jpg", ["masks/a_mask.png"], ""),
    ),
    "masks beside their images": (
        ["a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b_gt.nii"],
        ("a.nii.gz", ["a_seg.nii.gz"], ""),
    ),
    "BUSI: classes, several masks": (
        [
            "benign/b (1).png",
            "benign/b (1)_mask.png",
            "benign/b (1)_mask_1.png",
            "normal/n (1).png",
        ],
        ("benign/b (1).png", ["benign/b (1)_mask.png", "benign/b (1)_mask_1.png"], "benign"),
    ),
    "classes in images, masks without": (
        ["images/ill/a.png", "images/well/b.png", "masks/a.png", "masks/b.png"],
        ("images/ill/a.png", ["masks/a.png"], "ill"),
    ),
    "one name in two classes": (
        ["ill/images/1.png", "ill/masks/1.png", "well/images/1.png", "well/masks/1.png"],
        ("ill/images/1.png", ["ill/masks/1.png"], "ill"),
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_folders_without_splits(name, tmp_path):
    paths, expected = TREES[name]
    cases = listed(tree(tmp_path, *paths, "README.txt", ".hidden.png"))
    assert cases[0][:3] == expected
    assert sorted(case[3] for case in cases) == ["train", "valid"]
    assert any("README.txt" in note for note in read(tmp_path, 0).notes)


@pytest.mark.parametrize(
    "pattern",
    [
        "{split}/{group}/{name}.png",
        "{group}/{split}/{name}.png",
        "images/{split}/{group}/{name}.png",
    ],
)
def test_splits_and_classes_in_any_order(pattern, tmp_path):
    splits = {"train": "train", "Val": "valid", "testing": "test"}
    for split in splits:
        for group in ("2nd", "10th"):
            tree(tmp_path, pattern.format(split=split, group=group, name=f"{split}{group}"))
    listing = read(tmp_path, 0)
    assert class_names(listing) == ("2nd", "10th")
    found = {(case.images[0].stem, case.group): case.split for case in listing.cases}
    assert found == {(s + g, g): splits[s] for s in splits for g in ("2nd", "10th")}


def test_validation_comes_out_of_training_where_there_is_none(tmp_path):
    tree(tmp_path, *(f"train/{n}.png" for n in range(20)), "test/x.png")
    listing = read(tmp_path, 0)
    assert Counter(case.split for case in listing.cases) == {"train": 18, "valid": 2, "test": 1}
    assert any("a tenth of the training patients" in note for note in listing.notes)


def test_folders_of_one_image_each_are_patients(tmp_path):
    listing = read(tree(tmp_path, *(f"p{n}/t1.nii.gz" for n in range(3))), 0)
    assert [(case.name, case.patient) for case in listing.cases] == [
        (f"p{n}_t1", f"p{n}") for n in range(3)
    ]
    assert class_names(listing) == () and "a folder a patient" in listing.layout


PATIENTS = {
    "CAMUS": [f"patient000{n}/patient000{n}_{view}.nii.gz" for n in (1, 2) for view in "ab"],
    "IXI in splits": [f"{split}/IXI00{n}/{c}.png" for n, split in enumerate(SETS) for c in "ab"],
    "declared": [f"patients/{name}/{scan}.png" for name in ("x", "y") for scan in "ab"],
}


@pytest.mark.parametrize("name", PATIENTS)
def test_folders_numbered_alike_are_patients(name, tmp_path):
    listing = read(tree(tmp_path, *PATIENTS[name]), 0)
    assert class_names(listing) == () and "a folder a patient" in listing.layout
    homes = {(case.patient, case.split) for case in listing.cases}
    assert len(homes) == len({patient for patient, _ in homes}) == len(listing.cases) / 2


def test_folders_may_say_that_they_are_classes_and_patients(tmp_path):
    paths = [f"classes/{g}/patients/{p}{g}/{n}.png" for g in "12" for p in "xyz" for n in "ab"]
    cases = read(tree(tmp_path, *paths), 0).cases
    assert {(case.group, case.patient) for case in cases} == {
        (g, p + g) for g in "12" for p in "xyz"
    }


@pytest.mark.parametrize("images", ["imgs", "imagesTr", "Image"])
@pytest.mark.parametrize("masks", ["labels", "labelsTr", "GT", "groundTruth", "Annotations"])
def test_folders_of_masks_have_many_names(images, masks, tmp_path):
    tree(tmp_path, *(f"{folder}/{name}.png" for folder in (images, masks) for name in "ab"))
    assert [len(case.masks) for case in read(tmp_path, 0).cases] == [1, 1]


REFUSED = {
    "numbered folders": (
        ["grade1/a.png", "grade2/b.png", "grade2/c.png"],
        "2 folders such as grade1 and grade2, classes or patients",
    ),
    "many folders": (
        [f"{chr(97 + n)}/{k}{n}.png" for n in range(21) for k in "ab"],
        "21 folders such as a and u, classes or patients",
    ),
    "two folders of the same names": (
        [f"{folder}/{name}.png" for folder in ("photos", "outlines") for name in "ab"],
        "the folders outlines and photos hold images of the same names; .* call it masks",
    ),
    "two images of one name": (["a.png", "a.jpg"], r"a\.jpg and \S+a\.png: two images of one name"),
    "a mask without an image": (
        ["images/a.png", "images/b.png", "masks/c.png"],
        r"c\.png: a mask that fits no image",
    ),
    "a mask by its name": (["a.png", "c_mask.png"], r"c_mask\.png: a mask by its name, without"),
    "a mask of two images": (
        ["x/a.png", "y/a.png", "masks/a.png"],
        r"masks/a\.png: a mask that fits 2 images",
    ),
    "two levels of folders": (
        ["x/p1/a.png", "x/p2/b.png"],
        "in the folders x and p1, of which one",
    ),
    "two splits": (["train/val/a.png", "b.png"], "in the folders train and valid, of which one"),
    "no split": (["train/a.png", "b.png"], r"b\.png: no split, 1 other"),
    "no class": (["x/a.png", "x/b.png", "c.png"], r"c\.png: no class, 2 other"),
    "nothing": (["notes.txt"], "no images in it"),
    "one patient": (["a.png"], "1 patient to train on, 2 or more needed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_by_name(name, tmp_path):
    paths, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read(tree(tmp_path, *paths), 0)


def table(root, text, name="dataset.csv"):
    (root / name).write_text(text)
    return root


def test_a_table_names_everything(tmp_path):
    text = (
        "image,mask,class,patient,split,source,remark\n"
        "a.png,m/a.png,ill,p1,train,low/a.png,x\n"
        "b.png,m/b.png,well,p1,Train,low/b.png,\n"
        "c.png;d.png,m/c.png,ill,p2,validation,low/c.png,\n"
    )
    listing = read(table(tmp_path, text), 0)
    first, _, last = listing.cases
    assert (first.name, first.group, first.patient, first.split) == ("a", "ill", "p1", "train")
    assert first.files == (tmp_path / "a.png", tmp_path / "m/a.png", tmp_path / "low/a.png")
    assert last.images == (tmp_path / "c.png", tmp_path / "d.png") and last.split == "valid"
    assert listing.notes == ("columns that mean nothing here: remark",)


def test_columns_of_a_table_can_be_channels(tmp_path):
    text = "image_10\timage_2\nb/t2.nii.gz\tb/t1.nii.gz\nc/t2.nii.gz\tc/t1.nii.gz\n"
    listing = read(table(tmp_path, text, "dataset.tsv"), 0)
    assert listing.channels == ("image_2", "image_10")
    assert listing.cases[0].images == (tmp_path / "b/t1.nii.gz", tmp_path / "b/t2.nii.gz")
    assert [case.name for case in listing.cases] == ["b_t1", "c_t1"]  # by their folders


def test_a_table_as_spreadsheets_write_it(tmp_path):
    text = '\ufeffImage; Mask ;PATIENT\n"a.png;b.png";m.png;p\nc.png;n.png;q\n'
    first, _ = read(table(tmp_path, text), 0).cases
    assert first.images == (tmp_path / "a.png", tmp_path / "b.png")
    assert first.masks == (tmp_path / "m.png",) and first.patient == "p"


TABLES = {
    "no image": ("mask\na.png\n", "columns mask; needed: image, or image_1"),
    "tabs": ("image\tmask\na.png\tb.png\n", "columns image\tmask; .* separated by commas"),
    "a label": (
        "Image,Label\na.png,ill\n",
        "a column label; call it class if it names one, or mask",
    ),
    "an empty cell": ("image,mask\n,b.png\n", "line 2: a file in each of image needed"),
    "cells too many": ("image\na.png,b.png\n", "line 2 has other cells than the header"),
    "another split": ("image,split\na.png,all\n", "line 2: split 'all'; use train, valid or test"),
    "folder against split": (
        "image,split\ntrain/a.png,test\n",
        r"line 2: \S+a\.png is of test and of train by its folders and its split",
    ),
    "a patient twice": (
        "image,patient,split\na.png,p,train\nb.png,p,test\nc.png,q,valid\n",
        "patient p is in test and train",
    ),
    "an image twice": ("image\na.png\na.png\n", r"a\.png: listed 2 times"),
    "half of the sources": (
        "image,source,split\na.png,x.png,train\nb.png,,train\n",
        r"b\.png: no source, 1 other images have one",
    ),
    "half of the classes": (
        "image,class,split\na.png,x,train\nb.png,,train\n",
        r"b\.png: no class",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_contradicts_itself_is_refused(name, tmp_path):
    text, message = TABLES[name]
    with pytest.raises(ValueError, match=message):
        read(table(tmp_path, text), 0)


def nnunet(root, channels=2, **changes):
    paths = [f"imagesTr/c{n}_{c:04d}.nii.gz" for n in range(3) for c in range(channels)]
    paths += [f"labelsTr/c{n}.nii.gz" for n in range(3)]
    tree(root, *paths, *(f"imagesTs/t1_{c:04d}.nii.gz" for c in range(channels)))
    description = {
        "channel_names": {str(c): f"mod{c}" for c in range(channels)},
        "labels": {"background": 0, "tumour": 2, "oedema": "1"},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description | changes))
    return root


def test_nnunet_folders_as_they_are(tmp_path):
    listing = read(nnunet(tmp_path), 0)
    assert listing.layout == "nnU-Net v2" and listing.channels == ("mod0", "mod1")
    assert listing.labels == {0: "background", 2: "tumour", 1: "oedema"}
    assert Counter(case.split for case in listing.cases) == {"train": 2, "valid": 1, UNLABELLED: 1}
    case = listing.cases[0]
    assert [path.name for path in case.images] == ["c0_0000.nii.gz", "c0_0001.nii.gz"]
    assert case.masks == (tmp_path / "labelsTr/c0.nii.gz",) and case.patient == "c0"


def test_an_incomplete_nnunet_folder_is_refused(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "imagesTr/c1_0001.nii.gz").rename(tmp_path / "imagesTr/c9_0001.nii.gz")
    nnunet(tmp_path, channel_names={"0": "a", "1": "b", "2": "c"})
    with pytest.raises(ValueError, match=r"c0_0000\.nii\.gz: 2 files of this case, 3 channels"):
        read(tmp_path, 0)
    (tmp_path / "dataset.json").write_text('{"modality": {}, "training": []}')
    with pytest.raises(ValueError, match=r"KeyError.*Decathlon folder is data.source=decathlon"):
        read(tmp_path, 0)


def test_regions_of_nnunet_have_no_values(tmp_path):
    listing = read(nnunet(tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2}), 0)
    assert listing.labels == {} and any("regions" in note for note in listing.notes)


def test_drawn_splits_are_80_10_10_in_each_class_and_keep_patients_together():
    strata = {f"p{n}": ("rare",) if n % 4 == 0 else ("common",) for n in range(80)}
    drawn = draw(strata, {"test": 0.1, "valid": 0.1}, seed=3)
    counts = Counter((strata[name], split) for name, split in drawn.items())
    assert counts[("rare",), "train"] == 16 and counts[("common",), "train"] == 48
    assert counts[("rare",), "test"] == counts[("rare",), "valid"] == 2
    assert draw(strata, {"test": 0.1, "valid": 0.1}, seed=3) == drawn
    assert draw(strata, {"test": 0.1, "valid": 0.1}, seed=4) != drawn


def test_the_only_patient_of_a_class_is_trained_on():
    strata = {f"p{n}": (n,) if n < 3 else ("common",) for n in range(20)}
    drawn = draw(strata, {"test": 0.1, "valid": 0.1}, seed=0)
    assert {drawn[f"p{n}"] for n in range(3)} == {"train"}


def test_images_of_one_patient_are_drawn_together(tmp_path):
    rows = [f"{n}.png,p{n % 10}" for n in range(40)]
    listing = read(table(tmp_path, "\n".join(["image,patient", *rows])), 5)
    homes = {(case.patient, case.split) for case in listing.cases}
    assert len(homes) == 10
    assert Counter(split for _, split in homes) == {"train": 8, "valid": 1, "test": 1}
