import os
import pickle

import numpy as np
import pytest

from motfm_jax.data.camus import Camus
from motfm_jax.data.convert import to_pickle, write_pickle
from motfm_jax.data.phantom import write_camus_tree
from motfm_jax.data.pickles import PickleSet, read_pickle


def convert(root, out):
    return to_pickle(lambda split: Camus(root, split, (8, 8)), out)


@pytest.fixture
def tree(tmp_path):
    return write_camus_tree(tmp_path / "camus", 3, image_shape=(16, 24))


def test_a_release_without_a_test_list_gives_an_empty_test_split(tree, tmp_path, caplog):
    (tree / "database_split/subgroup_testing.txt").unlink()
    assert convert(tree, tmp_path / "out.pkl") == {"train": 4, "valid": 4, "test": 0}
    (message,) = caplog.messages
    assert message.startswith("test stays empty: ") and "\n" not in message
    assert read_pickle(tmp_path / "out.pkl")["test"] == []


def test_a_pickle_without_test_entries_gives_an_empty_test_split(tmp_path, caplog):
    entry = {"image": [[[1.0]]]}
    write_pickle(tmp_path / "in.pkl", {"train": [entry], "valid": [entry]})
    counts = to_pickle(
        lambda split: PickleSet(tmp_path / "in.pkl", split, (1, 1)), tmp_path / "out.pkl"
    )
    assert counts == {"train": 1, "valid": 1, "test": 0} and len(caplog.messages) == 1


def test_the_originals_pickle_comes_back_equal(tmp_path):
    mask = np.resize(np.int32([0, 85, 170, 255]), (1, 4, 6))
    entries = [
        {
            "image": np.random.default_rng(seed).random((1, 4, 6), np.float32),
            "mask": mask,
            "class": f"0{seed}",
            "metadata": {"site": ["a", seed], "patient": f"p{seed}"},
        }
        for seed in range(3)
    ]
    splits = {"train": entries[:1], "valid": entries[1:2], "test": entries[2:]}
    path, out = tmp_path / "in.pkl", tmp_path / "out.pkl"
    path.write_bytes(pickle.dumps(splits))
    to_pickle(lambda split: PickleSet(path, split, (4, 6)), out)
    written = pickle.loads(out.read_bytes())
    np.testing.assert_equal(written, splits)
    for split, (entry,) in written.items():
        assert entry["image"].dtype == np.float32 and entry["mask"].dtype == np.int32
        assert list(entry) == list(splits[split][0])


def test_a_broken_split_is_refused_and_nothing_written(tree, tmp_path):
    (tree / "database_nifti/patient0003/patient0003_2CH_ED_gt.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"2CH_ED_gt\.nii\.gz: no such file"):
        convert(tree, tmp_path / "new/out.pkl")
    assert not (tmp_path / "new").exists()


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "out.pkl"
    write_pickle(path, {"train": [{"image": np.zeros((2, 2, 1))}]})
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        write_pickle(path, {"train": [{"image": np.zeros((2, 2, 1)), "metadata": lambda: 0}]})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["out.pkl"]
    with pytest.raises(ValueError, match="split 'dev'"):
        write_pickle(path, {"dev": []})
