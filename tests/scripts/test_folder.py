"""A folder from `prepare check` to written images, as a user runs it."""

import csv
import re

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny import command

from motfm_jax.commands import prepare

RNG = np.random.default_rng(0)


def pictures(root):
    """20 pictures of two classes with masks {0, 255}, in folders."""
    for number in range(20):
        disc = np.hypot(*np.mgrid[-8:8, -10:10]) < 4 + number % 3
        path = root / ("ill" if number % 2 else "well") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.uint8(100 * disc + RNG.integers(0, 50, disc.shape))
        Image.fromarray(image).save(path)
        Image.fromarray(np.uint8(255 * disc)).save(path.with_stem(f"{number}_mask"))
    return root


def volumes(root, num=6):
    """Volumes with their patient in a table, their x axis to the left."""
    root.mkdir()
    rows = [["image", "patient"]]
    for number in range(num):
        image = RNG.normal(100, 5, (12, 10, 8)).astype(np.float32)
        image[:, :, :2] = 0
        affine = np.diag([-2.0, 2, 3, 1])
        nibabel.save(nibabel.Nifti1Image(image, affine), root / f"{number}.nii.gz")
        rows.append([f"{number}.nii.gz", f"p{number // 2}"])
    with open(root / "dataset.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(autouse=True)
def _memory_is_not_estimated(request, monkeypatch):
    """It traces a network for each size."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(prepare, "_memory", lambda config, report: 10**8)


def check(*arguments):
    return prepare.main(["check", "--layout=folder", *map(str, arguments)])


def test_check_says_what_it_finds_and_which_size_suits(tmp_path, capsys):
    root = pictures(tmp_path / "data")
    (root / "notes.txt").touch()
    assert check(f"--root={root}") == 0
    printed = capsys.readouterr().out
    for text in (
        "folders (images, masks, a folder a class)",
        "train  16        16      1                 16     8    8",
        "labels of the network  0 -> 0, 255 -> 1",
        "no patients are named: each image is its own",
        "80, 10 and 10% of the patients, drawn with seed 0",
        "1 files that are no images are left out, such as",
        "size: --config.data.size='(16,32)', the median",
        "'(16,32)': about 0.1 of ",
        f"--config=folder:cond=mask+class,size=small,dims=2 --config.data.root={root}",
    ):
        assert text in printed


def test_check_counts_slices_and_empty_ones(tmp_path, capsys):
    root = volumes(tmp_path / "data")
    assert check(f"--root={root}", "--slices=axial") == 0
    printed = capsys.readouterr().out
    assert "12 slices have less than 2% of foreground" in printed
    assert "--config.data.size='(16,16)' --config.data.slices=axial" in printed  # 10 x 12 pixels
    assert check(f"--root={root}", "--slices=axial", "--slice-foreground=0.1") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "3", "6", "2", "0", "36"] in rows
    assert check(f"--root={root}", "--slices=axial", "--slice-margin=4") == 2


def test_check_counts_labels_lost_by_resizing_and_names_unlearned_classes(tmp_path, capsys):
    root = tmp_path
    for number, split in enumerate(("train", "train", "val")):
        mask = np.zeros((64, 64), np.uint8)
        mask[20:40, 20:40], mask[6, 5] = 1, 2
        for folder, values in (("images", mask + 1), ("masks", mask)):
            path = root / split / folder / "ab"[number // 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values + np.uint8(0 if folder == "masks" else number)).save(path)
    assert check(f"--root={root}", "--size", 16, 16) == 0
    printed = capsys.readouterr().out
    assert "label 2 is lost in 3 of the 3 masks that have it, resized to 16 x 16" in printed
    assert "label 1" not in printed
    assert "class b: only in valid, so it is never learned" in printed


def test_mask_values_that_training_would_refuse_are_errors(tmp_path, capsys):
    for number, (split, value) in enumerate((("train", 1), ("train", 2), ("val", 3))):
        for folder in ("images", "masks"):
            path = tmp_path / split / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = np.full((16, 16), value, np.uint8)
            mask[0] = 0
            Image.fromarray(mask).save(path)
    assert check(f"--root={tmp_path}") == 2
    assert "mask values 3 of valid are not in train" in capsys.readouterr().out
    assert check(f"--root={tmp_path}", "--labels=none,a,b,c") == 0
    assert "2 b" in capsys.readouterr().out
    assert check(f"--root={tmp_path}", "--labels=none,a,b") == 2
    assert "label 3 found, only 0, 1, 2 declared" in capsys.readouterr().out


def test_images_of_different_channels_are_an_error(tmp_path, capsys):
    for number in range(4):
        shape = (8, 8, 3) if number == 3 else (8, 8)
        image = Image.fromarray(RNG.integers(0, 255, shape, dtype=np.uint8))
        image.save(tmp_path / f"{number}.png")
    assert check(f"--root={tmp_path}") == 2
    assert "3 of 1, such as 0; 1 of 3, such as 3; save all as one kind" in capsys.readouterr().out


SMALLEST = ("model.channels=(8,)", "model.attention=(True,)", "model.norm_groups=4")


def train(root, workdir, *fields, preset="cond=none,size=debug"):
    fields = ("data.size=(16,16)", *SMALLEST, "model.head_dim=8", "train.batch_size=2", *fields)
    values = [f"--config.{field}" for field in (f"data.root={root}", *fields)]
    common = [f"--workdir={workdir}", *values, "--config.train.save_every=1"]
    for steps in (1, 2):
        arguments = [f"--config=folder:{preset}", f"--config.train.steps={steps}", *common]
        command("train")([*arguments, "--resume"])


@pytest.mark.slow
def test_check_tells_the_memory_that_training_takes(tmp_path, capsys):
    assert check(f"--root={volumes(tmp_path / 'data')}") == 0
    printed = capsys.readouterr().out
    assert "--config.data.size='(16,16,8)' --config.data.spacing_mm='(2,2,3)'" in printed
    assert re.search(r"'\(16,16,8\)': about [\d.]+ of [\d.]+ GB", printed)


@pytest.mark.slow
def test_pictures_train_resume_and_sample(tmp_path):
    root = pictures(tmp_path / "data")
    train(root, tmp_path / "run", preset="cond=mask+class,size=debug")
    command("sample")([f"--run={tmp_path / 'run'}", "--num=2", f"--out={tmp_path / 'out'}"])
    with np.load(tmp_path / "out/samples.npz") as samples:
        assert samples["images"].shape == (2, 16, 16, 1)
        assert set(np.unique(samples["masks"])) == {0, 1}


@pytest.mark.nightly
@pytest.mark.slow
def test_slices_of_volumes_train_resume_and_sample(tmp_path):
    root = volumes(tmp_path / "data")
    fields = ("data.slices=coronal", "data.slice_foreground=0.1")
    train(root, tmp_path / "run", *fields)
    command("sample")([f"--run={tmp_path / 'run'}", "--num=2", f"--out={tmp_path / 'out'}"])
    with np.load(tmp_path / "out/samples.npz") as samples:
        assert samples["images"].shape == (2, 16, 16, 1)


def test_preview_and_convert(tmp_path):
    root = pictures(tmp_path / "data")
    out = tmp_path / "preview.png"
    arguments = ("--layout=folder", f"--root={root}", "--size", "16", "16")
    assert prepare.main(["preview", *arguments, f"--out={out}", "--num=2"]) == 0
    assert Image.open(out).size[0] > 32
    assert prepare.main(["convert", *arguments, f"--out={tmp_path / 'a.pkl'}"]) == 0
    root = volumes(tmp_path / "volumes")
    arguments = ("--layout=folder", f"--root={root}", "--size", "16", "16", "--slices=axial")
    assert prepare.main(["convert", *arguments, f"--out={tmp_path / 'b.pkl'}"]) == 0
