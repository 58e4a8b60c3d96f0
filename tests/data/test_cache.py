import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motfm_jax.data.cache import entry_key, open_cached
from motfm_jax.data.decode import Decoding
from motfm_jax.data.source import Record
from motfm_jax.io import folders


@dataclasses.dataclass
class Listed:
    """A source of given records that counts its reads."""

    records: list
    version: int = 0
    classes: tuple = ("a", "b")
    mask_labels: tuple = ("background", "cavity")
    reads: int = 0
    before_read: Callable[[int], None] | None = None

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.reads += 1
        if self.before_read:
            self.before_read(index)
        return self.records[index]

    def fingerprint(self):
        return {"version": self.version, "count": len(self.records)}


def record(index, dtype=np.uint8, shape=(4, 6), **changes):
    rng = np.random.default_rng(index)
    fields = dict(
        image=rng.integers(0, 100, (*shape, 1)).astype(dtype),
        mask=rng.integers(0, 2, shape).astype(np.uint8),
        label=index % 2,
        name=f"record{index}",
        patient=f"p{index}",
    )
    return Record(**{**fields, **changes})


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize(
    "dtype, stored",
    [
        (np.uint8, np.uint8),
        (np.int16, np.int16),
        (np.float32, np.float32),
        (np.float64, np.float32),
        (bool, np.uint8),
    ],
)
def test_what_is_read_is_what_the_source_gave(tmp_path, dtype, stored):
    source = Listed([record(index, dtype) for index in range(3)])
    arrays = open_cached(source, tmp_path)
    assert len(arrays) == 3 and arrays.images.dtype == stored
    assert isinstance(arrays.images, np.memmap) and isinstance(arrays.masks, np.memmap)
    for index, expected in enumerate(source.records):
        np.testing.assert_array_equal(arrays.images[index], expected.image)
        np.testing.assert_array_equal(arrays.masks[index], expected.mask)
    assert arrays.labels.tolist() == [0, 1, 0] and arrays.labels.dtype == np.int32
    assert arrays.meta == [expected.meta for expected in source.records]
    assert arrays.classes == ("a", "b") and arrays.mask_labels == ("background", "cavity")


def test_a_second_opening_reads_no_record(tmp_path):
    open_cached(Listed([record(0)]), tmp_path)
    again = Listed([record(0)])
    open_cached(again, tmp_path)
    assert again.reads == 0


def test_masks_and_labels_may_be_missing(tmp_path):
    arrays = open_cached(Listed([record(0, mask=None, label=None)]), tmp_path)
    assert arrays.masks is None and arrays.labels is None


def test_types_that_differ_are_widened_without_loss(tmp_path):
    big = record(1, np.int16)
    big.image[0, 0, 0] = -300
    real = record(2, np.float32)
    real.image[0, 0, 0] = 0.25
    records = [record(0), big, real, record(3)]
    integers = open_cached(Listed(records[:2]), tmp_path)
    assert integers.images.dtype == np.int16
    mixed = open_cached(Listed(records), tmp_path)
    assert mixed.images.dtype == np.float32
    for arrays in (integers, mixed):
        for image, expected in zip(arrays.images, records):
            np.testing.assert_array_equal(image, expected.image)


def test_another_fingerprint_or_code_version_makes_another_entry(tmp_path, monkeypatch):
    open_cached(Listed([record(0)]), tmp_path)
    changed = Listed([record(5)], version=1)
    arrays = open_cached(changed, tmp_path)
    np.testing.assert_array_equal(arrays.images[0], record(5).image)
    assert len(entries(tmp_path)) == 2
    monkeypatch.setattr("motfm_jax.data.cache.VERSION", -1)
    open_cached(changed, tmp_path)
    assert len(entries(tmp_path)) == 3


def test_progress_counts_up(tmp_path):
    calls = []
    open_cached(Listed([record(0), record(1)]), tmp_path, lambda *call: calls.append(call))
    assert calls == [("decoding", 1, 2), ("decoding", 2, 2)]


@pytest.mark.parametrize(
    "bad, message",
    [
        (record(1, image=np.full((4, 6, 1), np.nan, np.float32)), "24 of 24 values are NaN"),
        (record(1, image=np.full((4, 6, 1), 1e300)), "record1: values beyond the range of float32"),
        (record(1, mask=np.zeros((6, 4), np.uint8)), r"mask \(6, 4\) and image \(4, 6\)"),
        (record(1, mask=np.full((4, 6), 2, np.uint8)), r"mask values \[2\].*background, cavity"),
        (record(1, shape=(4, 8)), r"record1: image \(4, 8, 1\), but record0"),
        (record(1, mask=None), "all examples of a split need masks"),
        (record(1, label=2), "record1: class 2"),
    ],
)
def test_a_bad_record_is_named_and_leaves_nothing_behind(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_cached(Listed([record(0, bad.image.dtype), bad]), tmp_path)
    assert "record1" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_record_is_told_with_its_file_where_the_source_knows_it(tmp_path):
    class Filed(Listed):
        def where(self, index):
            return f"scans.pkl: train[{index}]"

    bad = record(1, image=np.full((4, 6, 1), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"^scans\.pkl: train\[1\] \(record1\): 24 of 24"):
        open_cached(Filed([record(0), bad]), tmp_path)
    with pytest.raises(ValueError, match=r"^scans\.pkl: train\[1\] \(record1\): class 2"):
        open_cached(Filed([record(0), record(1, label=2)]), tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no examples in this split"):
        open_cached(Listed([]), tmp_path)


def start(function, *arguments):
    """Run a function of this file in a process of its own."""
    call = "import runpy, sys; runpy.run_path(sys.argv[1])[sys.argv[2]](*sys.argv[3:])"
    command = [sys.executable, "-c", call, __file__, function.__name__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def build_until_killed(folder):
    def die(index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    open_cached(Listed([record(0), record(1)], before_read=die), Path(folder))


def build_slowly(folder, locks):
    """One of four: waits for the others, prints how many records were read, and if rightly."""
    (Path(folder).parent / f"ready{os.getpid()}").touch()
    while len(list(Path(folder).parent.glob("ready*"))) < 4:
        time.sleep(0.01)
    if locks == "False":

        def unsupported(*_):
            raise OSError("no locks on this file system")

        folders.fcntl.flock = unsupported
    records = [record(index) for index in range(20)]
    source = Listed(records, before_read=lambda _: time.sleep(0.05))
    arrays = open_cached(source, Path(folder))
    right = all((image == given.image).all() for image, given in zip(arrays.images, records))
    print(source.reads, right)


def test_a_killed_builder_leaves_a_draft_that_is_not_read_and_deleted_a_day_later(tmp_path):
    assert start(build_until_killed, tmp_path).wait() == -signal.SIGKILL
    (draft,) = entries(tmp_path)
    assert draft.startswith(".")
    again = Listed([record(0), record(1)])
    arrays = open_cached(again, tmp_path)
    assert again.reads == 2
    np.testing.assert_array_equal(arrays.images[1], record(1).image)
    assert entries(tmp_path) == [draft, arrays.folder.name]
    os.utime(tmp_path / draft, (0, 0))
    open_cached(Listed([record(0)], version=1), tmp_path)
    assert draft not in entries(tmp_path)


@pytest.mark.parametrize(
    "file, damage, verify",
    [
        ("images.npy", "truncate", False),
        ("masks.npy", "remove", False),
        ("entry.json", "truncate", False),
        ("entry.json", "remove", False),
        ("images.npy", "flip", True),
    ],
)
def test_a_damaged_entry_is_built_again(tmp_path, file, damage, verify):
    how = Decoding(verify=verify)
    path = open_cached(Listed([record(0)]), tmp_path, how=how).folder / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-5] if damage == "truncate" else content[:-1] + b"x")
    arrays = open_cached(Listed([record(0)]), tmp_path, how=how)
    np.testing.assert_array_equal(arrays.images[0], record(0).image)
    assert entries(tmp_path) == [arrays.folder.name]


@pytest.mark.parametrize("verify", [False, True])
def test_the_entry_follows_size_and_time_of_files_or_their_contents(tmp_path, verify):
    class Filed(Listed):
        def source_files(self):
            return [path]

    path = tmp_path / "file"
    path.write_text("a")
    key = entry_key(Filed([]), Decoding(verify=verify))
    os.utime(path, (0, 0))
    assert (entry_key(Filed([]), Decoding(verify=verify)) == key) == verify
    path.write_text("b")
    os.utime(path, (0, 0))
    assert entry_key(Filed([]), Decoding(verify=verify)) != key


def test_a_full_disk_is_said_and_the_entry_made_once_there_is_room(small_disk):
    source = Listed([record(0, shape=(1000, 500)), record(1, shape=(1000, 500))])
    filler = small_disk / "filler"
    filler.write_bytes(bytes(12_000_000))
    with pytest.raises(OSError, match="No space left"):
        open_cached(source, small_disk / "cache")
    assert not entries(small_disk / "cache")
    filler.unlink()
    arrays = open_cached(source, small_disk / "cache")
    np.testing.assert_array_equal(arrays.images[1], source.records[1].image)


@pytest.mark.nightly
@pytest.mark.parametrize("locks", [True, False])
def test_concurrent_builders_agree(tmp_path, locks):
    """With locks the second waits for the first; without, both build and the first rename wins."""
    folder = tmp_path / "cache"
    builders = [start(build_slowly, folder, locks) for _ in range(4)]
    results = [builder.communicate(timeout=60)[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0] * 4
    assert [right for _, right in results] == ["True"] * 4
    if locks:
        assert sorted(int(reads) for reads, _ in results) == [0, 0, 0, 20]
    else:
        assert sum(int(reads) for reads, _ in results) > 20
    assert len(list(folder.iterdir())) == 1  # no lock files either


@pytest.mark.parametrize(
    "indices, mapped",
    [
        ([0, 1, 2], True),
        ([2, 3], True),
        (slice(1, 3), True),
        ([3, 0], False),
        ([], False),
    ],
)
def test_take_and_what_a_worker_process_receives(tmp_path, indices, mapped):
    whole = open_cached(Listed([record(index, shape=(32, 32)) for index in range(5)]), tmp_path)
    part = whole.take(indices)
    data = pickle.dumps(part)
    assert (len(data) < 1000) == (mapped or not indices)  # a path, not the arrays
    for arrays in (part, pickle.loads(data)):
        rows = np.arange(5)[indices if isinstance(indices, slice) else np.array(indices, int)]
        np.testing.assert_array_equal(arrays.images, whole.images[rows])
        np.testing.assert_array_equal(arrays.masks, whole.masks[rows])
        np.testing.assert_array_equal(arrays.labels, whole.labels[rows])
        assert arrays.meta == [whole.meta[row] for row in rows]
    again = part.take(slice(1, None))  # of a part
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).images, part.images[1:])


def test_the_entry_is_plain_files(tmp_path):
    folder = open_cached(Listed([record(0)]), tmp_path).folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "entry.json",
        "images.npy",
        "labels.npy",
        "masks.npy",
    ]
    assert json.loads((folder / "entry.json").read_text())["meta"][0]["name"] == "record0"
