"""Real data in other people's layouts: check, train two steps, resume, sample, compare in space.

The files are written into a temporary folder; nothing of them stays.
"""

import csv
import json

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny import command

import motfm_jax as motfm
from motfm_jax import datasets, settings
from motfm_jax.commands import prepare
from motfm_jax.data import nifti

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

NUM = 8  # patients of each


def read(path):
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def write(path, array, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def camus_as_png(data, root):
    """Frames and masks as PNG in class folders, in a split of folders: [H, W] by name."""
    frames = {}
    patients = sorted((data / "camus/database_nifti").iterdir())[:NUM]
    for number, patient in enumerate(patients):
        split = "val" if number < 2 else "train"
        for view in ("2CH", "4CH"):
            name = f"{patient.name}_{view}_ED"
            for end, folder in (("", "images"), ("_gt", "masks")):
                array, _ = read(patient / f"{name}{end}.nii.gz")
                path = root / split / folder / view / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.uint8(array.squeeze().T)).save(path)
                if not end:
                    frames[name] = np.uint8(array.squeeze().T), None
    return frames


def volumes(data, name):
    """(case, volume [I, J, K, C], mask, affine) of a Decathlon folder."""
    for path in sorted((data / name / "imagesTr").glob("[!.]*.nii.gz"))[:NUM]:
        array, affine = read(path)
        mask, _ = read(data / name / "labelsTr" / path.name)
        yield path.name.removesuffix(".nii.gz"), array, mask, affine


def ixi_as_nnunet(data, root):
    known = {}
    for name, array, mask, affine in volumes(data, "ixi_t1_decathlon"):
        write(root / f"imagesTr/{name}_0000.nii.gz", array, affine)
        # Stored mirrored, as some tools do, with an affine that says so.
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = len(mask) - 1
        write(root / f"labelsTr/{name}.nii.gz", mask[::-1], affine @ flip)
        known[name] = array, affine
    labels = {"background": 0, "csf": 1, "grey": 2, "white": 3, "other": 4}
    description = {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(description))
    return known


def ixi_as_table(data, root):
    known = {}
    rows = [["image", "mask", "class", "patient", "split"]]
    for number, (name, array, mask, affine) in enumerate(volumes(data, "ixi_t1_decathlon")):
        write(root / f"scans/{name}.nii.gz", array, affine)
        write(root / f"labels/{name}.nii.gz", mask, affine)
        split = "val" if number < 2 else "train"
        group = "odd" if number % 2 else "even"
        paths = [f"scans/{name}.nii.gz", f"labels/{name}.nii.gz"]
        rows.append([*paths, group, f"p{number}", split])
        known[name] = array, affine
    with open(root / "dataset.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return known


def ixi_as_dicom(data, root):
    files = pytest.importorskip("dicom_files")
    known = {}
    for name, array, _, affine in volumes(data, "ixi_t1_decathlon"):
        files.write_series(root / name, array.astype(np.uint16), affine)
        known[name] = array, affine
    return known


def ms_with_four_channels(data, root):
    """Three subjects as nnU-Net; each twice, for two splits."""
    known = {}
    for name, array, mask, affine in volumes(data, "ms_4ch_decathlon"):
        for channel in range(4):
            write(root / f"imagesTr/{name}_{channel:04d}.nii.gz", array[..., channel], affine)
        write(root / f"labelsTr/{name}.nii.gz", mask, affine)
        known[name] = array, affine
    names = {str(n): name for n, name in enumerate(("FLAIR", "T1w", "t1gd", "T2w"))}
    labels = {"background": 0, "lesion": 1}
    description = {"channel_names": names, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(description))
    return known


# How it is arranged; condition; size of the files' voxels, size to train at; further fields.
CASES = {
    "camus png": (camus_as_png, "mask+class", (224, 224), (32, 32), {}),
    "ixi nnunet": (ixi_as_nnunet, "mask", (96, 120, 120), (16, 16, 16), {}),
    "ixi table, axial": (
        ixi_as_table,
        "mask+class",
        (120, 96),
        (32, 32),
        {"slices": "axial", "slice_step": 8, "slice_foreground": 0.1},
    ),
    "ixi dicom": (ixi_as_dicom, "none", (96, 120, 120), (16, 16, 16), {}),
    "ms channels": (ms_with_four_channels, "mask", (91, 109, 91), (16, 16, 16), {}),
}


def in_space(array, affine, points):
    """Values of the nearest voxels at points [N, 3] mm; NaN outside."""
    index = np.rint((points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    inside = ((index >= 0) & (index < array.shape[:3])).all(axis=1)
    values = np.full((len(points), *array.shape[3:]), np.nan)
    values[inside] = array[tuple(index[inside].T)]
    return values


@pytest.mark.parametrize("case", CASES)
def test_real_data_in_another_layout(case, motfm_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "_memory", lambda config, report: 0)  # takes a while
    arrange, cond, full, size, fields = CASES[case]
    root = tmp_path / "data"
    root.mkdir()
    known = arrange(motfm_data, root)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    assert prepare.main(["check", "--layout=folder", f"--root={root}", *flags]) == 0
    assert "errors: 0" in capsys.readouterr().out
    values = {"source": "folder", "root": str(root), **fields}
    compare(values | {"size": full}, known, tmp_path / "written.nii.gz")
    values = {f"--config.data.{name}": value for name, value in (values | {"size": size}).items()}
    for steps in (1, 2):
        command("train")(
            [
                f"--config=folder:cond={cond},size=debug,dims={len(size)}",
                *(f"{name}={value}" for name, value in values.items()),
                f"--config.train.steps={steps}",
                "--config.train.batch_size=1",
                f"--workdir={tmp_path / 'run'}",
                "--resume",
            ]
        )
    out = tmp_path / "out"
    flags = ("--num=1", "--nifti", "--steps=1")
    command("sample")([f"--run={tmp_path / 'run'}", f"--out={out}", *flags])
    run = motfm.load(tmp_path / "run")
    assert run.step == 2
    written = nibabel.load(next(out.glob("*.nii*")))
    assert written.shape[: len(size)] == (size if len(size) == 3 else size[::-1])
    # The field of view has the centre of an example's file.
    if len(size) == 3:
        centres = [centre(array.shape, affine) for array, affine in known.values()]
        apart = np.linalg.norm(np.array(centres) - centre(written.shape, written.affine), axis=1)
        assert apart.min() < 0.01
    names = [path for path in tmp_path.rglob("*") if path.is_file() and holds_a_name(path)]
    assert not [path for path in names if root not in path.parents]


def holds_a_name(path):
    return b"Doe^Jane" in path.read_bytes()


def centre(shape, affine):
    return affine[:3, :3] @ ((np.array(shape[:3]) - 1) / 2) + affine[:3, 3]


def compare(values, known, path):
    """Decoded examples, and one of them written, against their files at the same places."""
    config = settings.default()
    settings.assign(config, {"data": values})
    arrays = datasets.arrays(config, "train")
    for row, meta in enumerate(arrays.meta):
        image = np.asarray(arrays.images[row], float)
        name = meta["name"] if meta["name"] in known else meta["name"].rpartition("_")[0]
        expected, affine = known[name]
        if affine is None:
            np.testing.assert_array_equal(image[..., 0], expected)
            continue
        if row == 0:  # as NIfTI has it, x first
            nifti.write_nifti(path, image, meta["affine"])
            written, place = read(path)
            check_in_space(written, place, expected, affine)
        if image.ndim == 3:
            image = image[:, :, None]
        check_in_space(image, np.array(meta["affine"]), expected, affine)


def check_in_space(image, place, expected, affine):
    index = np.stack(np.meshgrid(*map(np.arange, image.shape[:3]), indexing="ij"), -1)
    points = index.reshape(-1, 3) @ place[:3, :3].T + place[:3, 3]
    found = in_space(expected.reshape(*expected.shape[:3], -1), affine, points)
    inside = ~np.isnan(found[:, 0])
    assert inside.mean() > 0.5
    np.testing.assert_allclose(image.reshape(len(points), -1)[inside], found[inside], atol=1e-3)
