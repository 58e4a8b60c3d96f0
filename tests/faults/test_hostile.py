"""Files made to harm: nothing in them runs or is written, and memory stays bounded."""

import ast
import gzip
import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from PIL import EpsImagePlugin
from test_data import AFFINE, LABELS, SOLID, decathlon, refused

from motfm_jax import settings
from motfm_jax.data import nifti
from motfm_jax.data.cache import open_cached
from motfm_jax.data.decathlon import Decathlon
from motfm_jax.data.geometry import Grid
from motfm_jax.io import npz as io_npz
from motfm_jax.io.checkpoints import Checkpoints, restore_weights
from motfm_jax.sampling import inputs

ROOT = Path(__file__).parents[2]
MIB = 2**20
MOST = 64 * MIB  # of memory for a refusal


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path):
    yield
    assert not (tmp_path / "ran").exists() and not (ROOT / "ran").exists()


@pytest.fixture
def bounded():
    """The test takes little memory."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST, f"{peak / MIB:.0f} MiB were taken"


def zeros(gibibytes):
    """Zeros, gzipped in members of 64 MiB."""
    packer, block = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(MIB)
    member = b"".join(packer.compress(block) for _ in range(64)) + packer.flush()
    return member * round(gibibytes * 16)


def nifti_start(shape=SOLID, **fields):
    """The gzipped bytes of a NIfTI before its voxels, with fields changed."""
    image = nibabel.Nifti1Image(np.zeros(shape, np.uint8), AFFINE)
    header = nibabel.Nifti1Header(image.to_bytes()[:348])
    for name, value in fields.items():
        header[name] = value
    return gzip.compress(header.binaryblock + bytes(4))


HUGE = [4, 2048, 2048, 1024, 2, 1, 1, 1]
BOMBS = {
    "more behind the voxels": (lambda: nifti_start() + zeros(4), "holds more than the"),
    "as many voxels": (lambda: nifti_start(dim=HUGE) + zeros(8), "at most 4294967296 are read"),
    "voxels that are not there": (lambda: nifti_start(dim=HUGE), "more than the file can hold"),
    "an endless extension": (lambda: nifti_start(vox_offset=2e9)[:-8] + zeros(4), "cannot be read"),
    "voxels far behind": (lambda: nifti_start(vox_offset=2e9) + zeros(4), "behind 2000000000"),
}


@pytest.mark.nightly
@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_gzip_bomb_is_not_unpacked(tmp_path, bomb):
    make, message = BOMBS[bomb]
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(make())
    assert path.stat().st_size < 10 * MIB
    refused(lambda: nifti.read(path), path, message)


def npz_bomb(path, mebibytes=256):
    """Zeros: a thousandth of their size."""
    shape = {"descr": "|u1", "fortran_order": False, "shape": (mebibytes * MIB,)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, shape)
        for _ in range(mebibytes):
            member.write(bytes(MIB))


def npz(path):
    with io_npz.open_npz(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.nightly
@pytest.mark.usefixtures("bounded")
def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    npz_bomb(path)
    assert path.stat().st_size < 2 * MIB
    monkeypatch.setattr(io_npz, "FREELY_INFLATED", MIB)
    refused(lambda: npz(path), path, "2684")


@pytest.mark.usefixtures("bounded")
def test_an_array_in_an_archive_that_claims_too_much_takes_no_memory(tmp_path):
    path = tmp_path / "claim.npz"
    for count in (2**33, 2**60):
        with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f8", "fortran_order": False, "shape": (count,)}
            )
        refused(lambda: npz(path), path, "claims")


def test_a_pickle_in_an_archive_is_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([Hostile(str(tmp_path / "ran"))], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        npz(tmp_path / "a.npz")


class Hostile:
    """Pickled, it writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + chunk(b"IEND", b"")


def packed_zeros():
    return zlib.compress(bytes(128 * MIB), 1)


PICTURES = {
    "huge": lambda: png(60_000, 60_000),
    "text": lambda: png(4, 4, chunk(b"zTXt", b"a\0\0" + packed_zeros())),
}


@pytest.mark.nightly
@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_bomb_is_not_unpacked(tmp_path, kind):
    path = tmp_path / "bomb.png"
    path.write_bytes(PICTURES[kind]())
    tracemalloc.reset_peak()  # of packing it
    refused(lambda: inputs.read_masks([path], LABELS, (4, 4)), path, "cannot be read")


def test_a_picture_in_postscript_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it ran"))
    path = tmp_path / "mask.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    refused(lambda: inputs.read_masks([path], LABELS, (8, 8)), path, "cannot be read")


@pytest.mark.parametrize(
    "path",
    ["../outside.nii.gz", "/etc/passwd", "imagesTr/../../x.nii.gz", "a\0.nii.gz", {"a": 1}, None],
)
def test_entries_are_files_below_the_folder(tmp_path, path):
    decathlon(tmp_path)
    (tmp_path.parent / "outside.nii.gz").touch()
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["training"][0]["image"] = path
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises((ValueError, OSError)) as error:
        open_cached(Decathlon(tmp_path, "train", Grid(SOLID)), tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "\ufeff[]"])
def test_a_description_that_is_no_json_is_one_line(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    refused(lambda: Decathlon(tmp_path, "train", Grid(SOLID)), tmp_path / "dataset.json")


CODE = "__import__('os').system('touch ran')"


@pytest.mark.parametrize(
    "edit",
    [
        f"--config.data.size={CODE}",
        f"--config.train.lr={CODE}",
        f"--config.{CODE}=1",
        f"--config.data[{CODE}]=1",
        "--config.data.__class__=1",
        "--config.data.size=9**9**9",
        f"--config.cond={CODE}",
    ],
)
def test_text_for_a_config_field_is_never_run(parse, edit):
    with pytest.raises(ValueError) as error:
        parse("--config=configs/phantom.py:size=debug", edit)
    assert "\n" not in str(error.value)


def test_text_behind_a_config_file_is_never_run(parse):
    refused(lambda: parse(f"--config=configs/phantom.py:cond={CODE}"))


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"size": CODE}},
        {"cond": {"a": CODE}},
        {"__class__": 1},
    ],
)
def test_a_saved_config_is_values_of_known_fields(values):
    refused(lambda: settings.from_json(values))


@pytest.mark.usefixtures("bounded")
def test_a_checkpoint_that_would_grow_without_end_is_not_read(tmp_path, monkeypatch):
    class State(NamedTuple):
        params: dict

    checkpoints = Checkpoints(tmp_path / "checkpoints", {}, {})
    checkpoints.save(1, State({"a": np.zeros(20 * MIB, np.uint8)}))
    checkpoints.close()
    assert restore_weights(tmp_path).params["a"].shape == (20 * MIB,)
    monkeypatch.setattr(io_npz, "FREELY_INFLATED", MIB)
    refused(lambda: restore_weights(tmp_path), "checkpoints/1: ", "would become 20971520")


def test_the_package_unpacks_no_archives_and_runs_no_text():
    """Nothing imports tarfile or marshal, or calls eval, exec or an extractor."""
    for path in [*(ROOT / "motfm_jax").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name")]
            assert "tarfile" not in names and "marshal" not in names, path
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert called not in ("extract", "extractall", "unpack_archive"), path
                assert not (isinstance(node.func, ast.Name) and called in ("eval", "exec")), path
                assert not any(
                    word.arg == "allow_pickle" and getattr(word.value, "value", True)
                    for word in node.keywords
                ), path
