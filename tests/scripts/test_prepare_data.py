"""scripts/prepare_data.py as a user runs it."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motfm_jax.commands import prepare

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture(scope="module")
def main():
    return lambda *arguments: prepare.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def camus(main, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "camus"
    assert main("phantom", "--layout=camus", f"--out={folder}", "--patients=3") == 0
    return folder


@pytest.fixture(scope="module")
def decathlon(main, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "brains"
    assert main("phantom", "--layout=decathlon", f"--out={folder}", "--patients=4") == 0
    return folder


def test_check_passes_on_good_data_and_prints_a_table(main, camus, decathlon, capsys):
    assert main("check", "--layout=camus", f"--root={camus}") == 0
    assert main("check", "--layout=decathlon", f"--root={decathlon}") == 0
    printed = capsys.readouterr().out
    assert printed.count("errors: 0") == 2
    assert "2CH_ED" in printed and "unlabelled" in printed


def test_check_exits_with_0_on_warnings_and_2_on_errors(main, camus, tmp_path, capsys):
    folder = tmp_path / "copy"
    (folder / "database_nifti").mkdir(parents=True)
    for patient in (camus / "database_nifti").iterdir():
        (folder / "database_nifti" / patient.name).symlink_to(patient)
    assert main("check", "--layout=camus", f"--root={folder}") == 0
    assert "warnings: 3" in capsys.readouterr().out  # no lists
    lists = folder / "database_split"
    lists.mkdir()
    for name in ("training", "validation"):
        (lists / f"subgroup_{name}.txt").write_text("patient0001\n")
    assert main("check", "--layout=camus", f"--root={folder}") == 2
    assert "patient0001 is in two splits" in capsys.readouterr().out


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path):
    """The script in a process."""
    result = subprocess.run(
        [sys.executable, SCRIPT, "check", "--layout=camus", "--root=absent"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: absent: no such folder")


def test_convert_writes_the_originals_pickle_and_check_reads_it(main, camus, tmp_path, capsys):
    out = tmp_path / "echo.pkl"
    arguments = ("convert", "--layout=camus", f"--root={camus}", "--size", 16, 24, f"--out={out}")
    assert main(*arguments) == 0
    splits = pickle.loads(out.read_bytes())
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "valid": 4, "test": 4}
    first = splits["train"][0]
    assert first["image"].shape == first["mask"].shape == (1, 16, 24)
    assert [row["class"] for row in splits["train"]] == ["2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES"]
    assert first["metadata"]["patient"] == "patient0001"
    assert main("check", "--layout=pickle", f"--root={out}") == 0
    with pytest.raises(ValueError, match="exists already"):
        main(*arguments)
    capsys.readouterr()


def test_check_finds_what_is_wrong_in_a_pickle(main, tmp_path, capsys):
    def entry(patient, mask_shape=(1, 8, 8)):
        image = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
        meta = {"patient": patient}
        return {"image": image, "mask": np.ones(mask_shape, int), "class": 1, "metadata": meta}

    bad = entry("c")
    bad["image"][0, 2, 3] = np.nan
    splits = {"train": [entry("a"), entry("b", (1, 8, 7)), bad], "valid": [entry("a")], "test": []}
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(splits))
    assert main("check", "--layout=pickle", f"--root={path}") == 2
    printed = capsys.readouterr().out
    for message in (
        "a is in two splits, train and valid",
        "train[1]: mask (8, 7) and image (8, 8)",
        "train[2]: 1 of 64 values are NaN",
        "errors: 3",
        "the test split is empty",
        "voxel for voxel: train[0] (train), valid[0] (valid)",
    ):
        assert message in printed


def test_a_missing_test_split_stays_empty_and_says_so(main, decathlon, tmp_path, caplog):
    out = tmp_path / "brains.pkl"
    size = ("--size", 8, 8, 8)
    assert main("convert", "--layout=decathlon", f"--root={decathlon}", *size, f"--out={out}") == 0
    assert "test stays empty" in caplog.text
    splits = pickle.loads(out.read_bytes())
    assert splits["test"] == [] and splits["train"][0]["image"].shape == (1, 8, 8, 8)


@pytest.mark.parametrize("layout, size", [("camus", (32, 32)), ("decathlon", (16, 16, 16))])
def test_preview_is_a_picture_with_coloured_masks(main, layout, size, request, tmp_path):
    root, out = request.getfixturevalue(layout), tmp_path / "new" / "preview.png"
    assert (
        main(
            "preview",
            f"--layout={layout}",
            f"--root={root}",
            "--size",
            *size,
            "--num=2",
            f"--out={out}",
        )
        == 0
    )
    pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
    coloured = np.ptp(pixels, axis=-1) > 30
    assert 0.01 < coloured.mean() < 0.5
    assert not coloured[: pixels.shape[0] // 4].any()  # the images above their masks are grey


def test_phantom_refuses_a_folder_with_something_in_it(main, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        main("phantom", "--layout=camus", f"--out={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("layout", ["camus", "decathlon"])
@pytest.mark.parametrize(
    "wrong, message",
    [("--seed=-1", "^--seed=-1: a whole number from 0 needed$"), ("--patients=2", "3 or more")],
)
def test_phantom_writes_nothing_for_wrong_settings(main, layout, wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main("phantom", f"--layout={layout}", f"--out={tmp_path / 'new'}", wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("made", [True, False])
def test_an_interrupted_phantom_can_be_written_again(main, made, tmp_path, monkeypatch):

    def interrupt(folder, *_):
        (folder / "half.txt").touch()
        assert out.exists() == made and not (out / "half.txt").exists()
        raise KeyboardInterrupt

    def write(folder, *_):
        (folder / "whole.txt").touch()

    out = tmp_path / "new"
    if made:
        out.mkdir()
    monkeypatch.setitem(prepare.TREES, "camus", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main("phantom", "--layout=camus", f"--out={out}")
    assert list(tmp_path.iterdir()) == ([out] if made else [])
    monkeypatch.setitem(prepare.TREES, "camus", write)
    assert main("phantom", "--layout=camus", f"--out={out}") == 0
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [Path("new/whole.txt")]


def test_phantom_does_not_replace_the_folder_one_is_in(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the folder you are in"):
        main("phantom", "--layout=camus", "--out=.")


def test_nan_is_filled_and_counted(tmp_path, capsys):
    for index in range(6):
        image = np.full((8, 8), index, np.float32)
        image[0, 0] = np.nan if index == 2 else 9
        np.save(tmp_path / f"{index}.npy", image)
    check = ["check", "--layout=folder", f"--root={tmp_path}"]
    assert prepare.main(check) == 2
    assert "2: 1 of 64 values are NaN" in capsys.readouterr().out
    assert prepare.main([*check, "--nan=0"]) == 0
    text = capsys.readouterr().out
    assert "2: 1 values are NaN" in text and "--config.data.intensity.nan=0" in text
