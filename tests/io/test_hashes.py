"""Digests of arrays."""

import threading

import numpy as np

from motfm_jax.io.hashes import hash_arrays, hash_each


def test_arrays_of_a_file_are_read_by_one_thread_and_hashed_each(tmp_path, monkeypatch):
    """A zip file that two threads read gives wrong bytes."""
    arrays = {name: np.full(1000, number) for number, name in enumerate("abcdefgh")}
    np.savez(tmp_path / "a.npz", **arrays)
    readers, read = set(), np.lib.npyio.NpzFile.__getitem__

    def note(self, name):
        readers.add(threading.current_thread())
        return read(self, name)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", note)
    with np.load(tmp_path / "a.npz") as lazy:
        assert hash_each(lazy) == {name: hash_arrays({name: arrays[name]}) for name in arrays}
    assert readers == {threading.current_thread()}
