"""Sets of images in batches: what is read, in which order, and that nothing else is held."""

import tracemalloc

import numpy as np
import pytest

from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation import sets
from motfm_jax.evaluation.sets import in_memory, in_units, stored
from motfm_jax.io.hashes import hash_arrays, hash_batches

IMAGES = np.random.default_rng(0).uniform(size=(13, 6, 5, 1)).astype(np.float32)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("rows", [1, 6, 20])
def test_an_npz_is_read_in_order_whatever_the_batch(tmp_path, write, rows):
    """13 images: in batches of 6 the last has one."""
    masks = np.arange(13 * 30, dtype=np.uint8).reshape(13, 6, 5)
    write(tmp_path / "samples.npz", masks=masks, images=IMAGES)
    for name, array in (("images", IMAGES), ("masks", masks)):
        kept = stored(tmp_path / "samples.npz", name)
        assert kept.shape == array.shape and len(kept) == 13
        for _ in range(2):  # from the start each time
            batches = list(kept.batches(rows))
            assert {len(batch) for batch in batches[:-1]} <= {rows}
            np.testing.assert_array_equal(np.concatenate(batches), array)
            assert batches[0].dtype == array.dtype


def test_images_are_taken_by_their_number(tmp_path):
    np.savez(tmp_path / "samples.npz", images=IMAGES)
    rows = [12, 0, 7, 0]
    for kept in (stored(tmp_path / "samples.npz"), in_memory(IMAGES)):
        np.testing.assert_array_equal(kept.take(rows), IMAGES[rows])
        np.testing.assert_array_equal(kept.map(np.negative).take([3]), -IMAGES[[3]])


def test_real_images_are_scaled_one_by_one_and_the_scaling_is_undone():
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1)).astype(np.uint8)
    arrays = Arrays(images, None, None, [{"name": f"echo{index}"} for index in range(9)])
    intensity = Intensity.fit(images, "minmax", "dataset", (-1.0, 1.0), (0.5, 99.5))
    units = np.concatenate(list(in_units(arrays, intensity).batches(4)))
    np.testing.assert_allclose(units, images, atol=1e-4)
    two = in_units(arrays, intensity, rows=np.array([2, 8]))
    assert two.shape == (2, 4, 4, 1)
    np.testing.assert_array_equal(
        np.stack(list(two.each())), intensity.invert(intensity.apply(images[[2, 8]]))
    )


def test_batches_have_the_digest_of_the_whole():
    kept = in_memory(IMAGES)
    for rows in (1, 6, 20):
        assert hash_batches("real", kept.shape, kept.batches(rows)) == hash_arrays({"real": IMAGES})


def write_other(path, kind):
    if kind == "other array":
        np.savez(path, masks=IMAGES)
    elif kind == "objects":
        np.savez(path, images=np.array([[{}, 1]], object))
    elif kind == "columns":
        np.savez(path, images=np.asfortranarray(IMAGES))
    elif kind == "cut":
        np.savez(path, images=IMAGES)
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "changed":
        np.savez(path, images=IMAGES)
        whole = bytearray(path.read_bytes())
        whole[900] ^= 1
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("none", "No such file"),
        ("other array", "holds no images; sample again"),
        ("objects", "object .* numbers .* needed"),
        ("columns", "in Fortran order"),
        ("cut", "cannot be read"),
        ("changed", "Bad CRC-32"),
    ],
)
def test_a_file_without_readable_images_is_named(tmp_path, kind, message):
    write_other(tmp_path / "samples.npz", kind)
    with pytest.raises(ValueError, match=rf"samples\.npz: .*{message}"):
        list(stored(tmp_path / "samples.npz").batches(4))


def test_reading_holds_one_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "BATCH", 8)

    def peak(num):
        np.savez_compressed(tmp_path / f"{num}.npz", images=np.ones((num, 64, 64, 1), np.float32))
        tracemalloc.start()
        total = sum(batch.sum(dtype=float) for batch in stored(tmp_path / f"{num}.npz").batches())
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == num * 64 * 64
        return highest

    peak(16)
    assert peak(512) < 1.3 * peak(64)
