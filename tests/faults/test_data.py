"""Faulty data: one line that names the file, or the right values."""

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest

from motfm_jax.data import nifti
from motfm_jax.data.cache import open_cached
from motfm_jax.data.camus import CLASSES, Camus
from motfm_jax.data.decathlon import Decathlon
from motfm_jax.data.geometry import Grid
from motfm_jax.data.pickles import PickleSet

FLAT, SOLID = (12, 8), (8, 6, 4)  # x first, as on disk
LABELS = ("background", "cavity", "myocardium", "atrium")
AFFINE = np.array([[0.5, 0, 0, 7], [0, 0.25, 0, -3], [0, 0, 2, 5], [0, 0, 0, 1.0]])


class Seen(NamedTuple):
    """What a loader made of a file: values [*S] in the file's axes, and the affine of those."""

    values: np.ndarray
    affine: np.ndarray


class Victim(NamedTuple):
    """A file of a data set that is whole but for it.

    Attributes:
      path: of the file.
      shape: what it holds.
      is_mask: whether its values are labels.
      read: opens the data set, and gives what this file became.
    """

    path: Path
    shape: tuple[int, ...]
    is_mask: bool
    read: Callable[[], Seen]


def content(shape, seed=0):
    """Labels, which are intensities too."""
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.int16)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def decoded(source, cache, is_mask):
    arrays = open_cached(source, cache)
    values = arrays.masks[0] if is_mask else arrays.images[0][..., 0]
    return np.asarray(values), np.array(arrays.meta[0]["affine"])


def camus(root, part=""):
    """The first frame of a CAMUS folder, or its mask ("_gt")."""
    folder = root / "database_nifti"
    for number in range(1, 4):
        for seed, name in enumerate(CLASSES["view_phase"]):
            for end in ("", "_gt"):
                path = folder / f"patient000{number}/patient000{number}_{name}{end}.nii.gz"
                save(path, content(FLAT, seed + 4 * number))
    (root / "database_split").mkdir()
    for name, patients in (("training", "1 3"), ("validation", "2")):
        listed = " ".join(f"patient000{number}" for number in patients.split())
        (root / f"database_split/subgroup_{name}.txt").write_text(listed)

    def read():
        source = Camus(root, "train", FLAT[::-1], "stretch")
        values, affine = decoded(source, root / "cache", bool(part))
        return Seen(values.T, affine[:, [1, 0, 2, 3]])

    return Victim(folder / f"patient0001/patient0001_2CH_ED{part}.nii.gz", FLAT, bool(part), read)


def decathlon(root, part="imagesTr"):
    """The first training volume of a Decathlon folder, or its mask ("labelsTr")."""
    for number in range(5):
        for name in ("imagesTr", "labelsTr"):
            save(root / name / f"V{number}.nii.gz", content(SOLID, number))
    training = [
        {"image": f"imagesTr/V{number}.nii.gz", "label": f"labelsTr/V{number}.nii.gz"}
        for number in range(5)
    ]
    description = {
        "modality": {"0": "T1w"},
        "training": training,
        "labels": {str(value): name for value, name in enumerate(LABELS)},
    }
    (root / "dataset.json").write_text(json.dumps(description))
    first = Decathlon(root, "train", Grid(SOLID)).entries[0].image_path.name

    def read():
        source = Decathlon(root, "train", Grid(SOLID, "stretch"))
        return Seen(*decoded(source, root / "cache", part == "labelsTr"))

    return Victim(root / part / first, SOLID, part == "labelsTr", read)


NIFTI = {
    "camus image": camus,
    "camus mask": lambda root: camus(root, "_gt"),
    "decathlon image": decathlon,
    "decathlon mask": lambda root: decathlon(root, "labelsTr"),
}


def refused(read, *said):
    """Raises one line that says all of this."""
    with pytest.raises(ValueError) as error:
        read()
    line = str(error.value)
    assert "\n" not in line and len(line) < 500, line
    for text in said:
        assert str(text) in line, (text, line)


def packed(change):
    """A fault of the bytes of the file as it lies on disk."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


def unpacked(change):
    """A fault of the NIfTI inside the gzip."""
    return packed(lambda data: gzip.compress(change(gzip.decompress(data))))


def header(**fields):
    """A header that says something else; a field "dim_1" is dim[1]."""

    def change(data):
        edited = nibabel.Nifti1Header(data[:348], check=False)
        for name, value in fields.items():
            name, _, index = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
            if index:
                edited[name][int(index)] = value
            else:
                edited[name] = value
        return edited.binaryblock + data[348:]

    return unpacked(change)


def again(**settings):
    """The file anew: other values, another affine."""

    def change(path):
        shape = FLAT if "patient" in path.name else SOLID
        make = settings.get("make", lambda values: values)
        save(path, make(content(shape, 5)), settings.get("affine", AFFINE))

    return change


def flip_bit(data):
    """In the checksum, which alone tells that the voxels before it are whole."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


def to_folder(path):
    path.unlink()
    path.mkdir()


def to_link(target):
    def change(path):
        path.unlink()
        path.symlink_to(path if target == "itself" else target)

    return change


REFUSED = {
    "gzip cut in the middle": (packed(lambda data: data[: len(data) // 2]), "cannot be read"),
    "gzip whose checksum differs": (packed(flip_bit), "cannot be read"),
    "gzip with garbage behind": (packed(lambda data: data + b"garbage"), "cannot be read"),
    "no gzip": (packed(gzip.decompress), "cannot be read"),
    "text": (packed(lambda data: b"not found\n" * 99), "cannot be read"),
    "no byte": (packed(lambda data: b""), "cannot be read"),
    "a folder": (to_folder, ""),
    "a link to nowhere": (to_link("nowhere"), ""),
    "a row more declared": (header(dim_1=13), "cannot be read"),
    "a row less declared": (header(dim_1=5), "cannot be read"),
    "a negative shape": (header(dim_1=-8), "cannot be read"),
    "no axis": (header(dim_0=0), ""),
    "an axis of nothing": (header(dim_1=0), ""),
    "voxels behind the end": (header(vox_offset=1e6), "cannot be read"),
    "an unknown type": (header(datatype=77), "cannot be read"),
    "complex voxels": (again(make=lambda values: values.astype(np.complex64)), "real numbers"),
    "NaN spacing": (header(pixdim_2=np.nan), "its header disagrees with itself"),
    "another spacing than the affine": (header(pixdim_1=3), "its header disagrees with itself"),
    "NaN affine": (header(srow_x_0=np.nan), "positive numbers needed"),
    "affine in one plane": (again(affine=AFFINE[:, [0, 0, 2, 3]]), "point to different directions"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_nifti_is_one_line_that_names_it(tmp_path, fault):
    path, (spoil, message) = tmp_path / "V.nii.gz", REFUSED[fault]
    save(path, content(SOLID))
    spoil(path)
    refused(lambda: nifti.read(path), path, message)


@pytest.mark.parametrize("loader", NIFTI)
def test_every_loader_names_its_faulty_file_and_leaves_no_entry(tmp_path, loader):
    victim = NIFTI[loader](tmp_path)
    packed(lambda data: data[:-5])(victim.path)
    refused(victim.read, victim.path, "cannot be read")
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())


def rotated(degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


SHEARED = np.array([[0.5, 0.05, 0, 7], [0, 0.25, 0.3, -3], [0, 0, 2, 5], [0, 0, 0, 1.0]])
PERMUTED = AFFINE[:, [2, 0, 1, 3]]
AFFINES = {
    "straight": AFFINE,
    "rotated": rotated(30),
    "upside down": rotated(180),
    "sheared": SHEARED,
    "permuted": PERMUTED,
    "mirrored": AFFINE @ np.diag([-1.0, 1, 1, 1]),
}


@pytest.mark.parametrize(
    "loader, affine",
    [
        *(("camus image", affine) for affine in AFFINES),
        *(("decathlon mask", affine) for affine in AFFINES if affine != "permuted"),  # another size
    ],
)
def test_any_affine_belongs_to_the_same_voxels(tmp_path, loader, affine):
    victim = NIFTI[loader](tmp_path)
    for path in (
        victim.path,
        victim.path.with_name(victim.path.name.replace("_ED.", "_ED_gt.")),
        Path(str(victim.path).replace("labelsTr", "imagesTr")),
    ):
        save(path, content(victim.shape, 5), AFFINES[affine])
    seen = victim.read()
    values, placed = content(victim.shape, 5), AFFINES[affine]
    if victim.is_mask:  # a volume, which is read in RAS axes
        ras = nibabel.as_closest_canonical(nibabel.Nifti1Image(values, placed))
        values, placed = ras.get_fdata(), ras.affine
    np.testing.assert_array_equal(seen.values, values)
    np.testing.assert_allclose(seen.affine, placed, rtol=1e-6, atol=1e-6)


def big_endian(path, values):
    image = nibabel.Nifti1Image(values, AFFINE)
    turned = nibabel.Nifti1Image(
        values.astype(values.dtype.newbyteorder(">")), AFFINE, image.header.as_byteswapped(">")
    )
    nibabel.save(turned, path)


def as_nifti2(path, values):
    nibabel.save(nibabel.Nifti2Image(values, AFFINE), path)


def scaled(path, values):
    save(path, values * 2 + 200)
    header(scl_slope=0.5, scl_inter=-100)(path)


def typed(dtype):
    return lambda path, values: nibabel.save(
        nibabel.Nifti1Image(values.astype(dtype), AFFINE, dtype=dtype), path
    )


FORMS = {
    **{
        np.dtype(dtype).name: typed(dtype)
        for dtype in ("u1", "i1", "u2", "i2", "i4", "u4", "i8", "f4", "f8")
    },
    "big-endian": big_endian,
    "NIfTI-2": as_nifti2,
    "scaled": scaled,
}


@pytest.mark.parametrize("form", FORMS)
def test_any_type_of_voxel_has_the_same_values(tmp_path, form):
    path = tmp_path / "V.nii.gz"
    FORMS[form](path, content(SOLID, 5))
    np.testing.assert_array_equal(nifti.read(path).array, content(SOLID, 5))


INTENSITIES = {
    "16 bits": np.array([0, 65535, 40000, 1], np.uint16),
    "negative": np.array([-1024, -1, 3071, -32768], np.int16),
    "32 bits": np.array([-(2**31), 2**31 - 128, 0, 1 << 20], np.int32),
    "tiny and huge": np.array([-1e-30, 3e38, 1e-30, -3e38], np.float64),
    "constant": np.array([7, 7, 7, 7], np.uint8),
}


@pytest.mark.parametrize("kind", INTENSITIES)
@pytest.mark.parametrize("loader", ["camus image", "decathlon image"])
def test_any_intensity_is_read_as_it_is(tmp_path, loader, kind):
    victim = NIFTI[loader](tmp_path)
    values = INTENSITIES[kind][content(victim.shape, 5)]
    typed(values.dtype)(victim.path, values)
    np.testing.assert_array_equal(victim.read().values, values.astype(np.float32))


@pytest.mark.parametrize("name", [" both ends ", "Грудь 心臓 🫀", "e\u0301", "ß;$(x)'\""])
@pytest.mark.parametrize("loader", ["camus mask", "decathlon mask"])
def test_folders_of_any_name(tmp_path, loader, name):
    folder = tmp_path / name
    folder.mkdir()
    victim = NIFTI[loader](folder)
    save(victim.path, content(victim.shape, 5))
    np.testing.assert_array_equal(victim.read().values, content(victim.shape, 5))


def write_metaimage(path):
    simple_itk = pytest.importorskip("SimpleITK")
    image = simple_itk.GetImageFromArray(content(FLAT).T[None])
    image.SetSpacing((0.5, 0.25, 1))
    simple_itk.WriteImage(image, str(path))


def fields(**changes):
    """The header with other fields."""

    def change(path):
        lines = dict(line.split(" = ") for line in path.read_text().splitlines())
        path.write_text("".join(f"{key} = {value}\n" for key, value in (lines | changes).items()))

    return change


def of_voxels(change):
    return lambda path: change(path.with_suffix(".raw"))


METAIMAGE = {
    "voxels cut": (of_voxels(packed(lambda data: data[:-1])), "cannot be read"),
    "voxels missing": (of_voxels(Path.unlink), "cannot be read"),
    "a row more declared": (fields(DimSize="12 9 1"), "cannot be read"),
    "an unknown type": (fields(ElementType="MET_LOVE"), "cannot be read"),
    "NaN spacing": (fields(ElementSpacing="nan 0.25 1"), ""),
    "text": (lambda path: path.write_text("not found"), "cannot be read"),
}


@pytest.mark.parametrize("fault", METAIMAGE)
def test_a_faulty_metaimage_is_one_line_that_names_it(tmp_path, fault):
    path, (spoil, message) = tmp_path / "frame.mhd", METAIMAGE[fault]
    write_metaimage(path)
    np.testing.assert_array_equal(nifti.read(path).array[..., 0], content(FLAT))
    spoil(path)
    refused(lambda: nifti.read(path), path, message)


def write_entries(path, entries):
    with open(path, "wb") as file:
        pickle.dump({"train": entries, "valid": entries[-1:]}, file)


@pytest.mark.parametrize("fault", ["cut", "no byte", "text", "packed", "a folder"])
def test_what_is_no_pickle_is_one_line_that_names_it(tmp_path, fault):
    path = tmp_path / "data.pkl"
    write_entries(path, [{"image": content(FLAT)}])
    spoils = {
        "cut": packed(lambda data: data[:-9]),
        "no byte": packed(lambda data: b""),
        "text": packed(lambda data: b"not found"),
        "packed": packed(gzip.compress),
        "a folder": to_folder,
    }
    spoils[fault](path)
    refused(lambda: PickleSet(path, "train", FLAT), path)


NUM_FILES = 10_000


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(target, path)


def many_camus(root):
    save(root / "one.nii.gz", content((4, 4)), AFFINE)
    names = [f"patient{number:05d}" for number in range(NUM_FILES // 4)]
    for name in names:
        for frame in CLASSES["view_phase"]:
            for end in ("", "_gt"):
                link(
                    root / f"database_nifti/{name}/{name}_{frame}{end}.nii.gz", root / "one.nii.gz"
                )
    (root / "database_split").mkdir()
    (root / "database_split/subgroup_training.txt").write_text(" ".join(names))
    return Camus(root, "train", (4, 4))


def many_decathlon(root):
    save(root / "one.nii.gz", content((4, 4, 4)))
    names = [f"images/{number:05d}.nii.gz" for number in range(NUM_FILES)]
    for name in names:
        link(root / name, root / "one.nii.gz")
    (root / "dataset.json").write_text(
        json.dumps({"modality": {"0": "T1w"}, "training": [names[0]], "test": names})
    )
    return Decathlon(root, "unlabelled", Grid((4, 4, 4)))


def many_entries(root):
    write_entries(
        root / "data.pkl", [{"image": content((4, 4), seed) + 0.5} for seed in range(NUM_FILES)]
    )
    return PickleSet(root / "data.pkl", "train", (4, 4))


@pytest.mark.nightly
@pytest.mark.parametrize("make", [many_camus, many_decathlon, many_entries])
def test_ten_thousand_examples(tmp_path, make):
    arrays = open_cached(make(tmp_path), tmp_path / "cache")
    assert len(arrays) == NUM_FILES == len({meta["name"] for meta in arrays.meta})
    shutil.rmtree(tmp_path)
