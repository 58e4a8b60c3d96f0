"""Files made to harm: nothing in them runs or is written, and memory stays bounded."""

import ast
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin
from test_data import LABELS, SOLID, refused

from motfm_jax import settings
from motfm_jax.data.decathlon import Decathlon
from motfm_jax.data.geometry import Grid
from motfm_jax.io import npz as io_npz
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


def npz(path):
    with io_npz.open_npz(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


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
