"""The folder of outputs: its files, its sidecar, continuing, refusing, overwriting."""

import json

import nibabel
import numpy as np
import pytest

from motfm_jax.core import Condition, Network
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pickles import read_pickle
from motfm_jax.data.records import Facts
from motfm_jax.methods.ode import Solver
from motfm_jax.sampling import outputs
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.sample import Checkpoint, Request, sample_to_folder

CLASSES = ("2CH_ED", "2CH_ES")
INTENSITY = Intensity("percentile", "dataset", (-1.0, 1.0), (0.5, 99.5), 10.0, 50.0)
NETWORK = Network(
    lambda params, condition: None, lambda params, x, t, context, key: -x * params["rate"]
)
CHECKPOINT = Checkpoint("runs/x", "abc", 7)


def request(**changes):
    return Request(Solver("midpoint", 3))._replace(**changes)


def sample(out, num=5, size=(8, 8), asked=None, conditions=None, intensity=INTENSITY, **rest):
    masks = np.random.default_rng(0).integers(0, 3, (num, *size)).astype(np.uint8)
    labels = (np.arange(num) % 2).astype(np.int32)
    facts = Facts(
        size,
        1,
        CLASSES,
        ("background", "a", "b"),
        intensity and intensity.to_json(),
        None,
        np.diag([2.0, 2, 3, 1]).tolist(),
    )
    return sample_to_folder(
        out,
        asked or request(),
        conditions or Conditions(num, masks, labels, ["here"] * num),
        network=NETWORK,
        params={"rate": np.float32(1.0)},
        condition=lambda mask, label: Condition(),
        kind="mask+class",
        facts=facts,
        intensity=intensity,
        checkpoint=CHECKPOINT,
        **rest,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_holds_images_masks_classes_a_picture_and_a_sidecar(tmp_path):
    sidecar = sample(tmp_path / "out")
    assert names(tmp_path / "out") == ["grid.png", "samples.json", "samples.npz"]
    assert json.loads((tmp_path / "out" / "samples.json").read_text()) == sidecar
    with np.load(tmp_path / "out" / "samples.npz") as arrays:
        assert sorted(arrays.files) == ["classes", "images", "masks"]
        assert arrays["images"].shape == (5, 8, 8, 1) and arrays["masks"].shape == (5, 8, 8)
        assert arrays["classes"].tolist() == [0, 1, 0, 1, 0]
        factor = (1 - 1 / 3 + 1 / 18) ** 3  # three midpoint steps of dx/dt = -x
        np.testing.assert_allclose(arrays["images"].mean(), 30, atol=3)  # -1 .. 1 is 10 .. 50
        np.testing.assert_allclose(arrays["images"].std(), 20 * factor, rtol=0.15)
    assert sidecar["synthetic"] is True and sidecar["calls"] == 6 and sidecar["steps"] == 3
    assert sidecar["checkpoint"] == "abc" and sidecar["training_step"] == 7 and sidecar["seed"] == 0
    assert sidecar["condition"]["classes"][:2] == list(CLASSES)
    assert sidecar["condition"]["from"] == ["here"] * 5
    assert sidecar["seconds_per_image"] > 0
    assert "stand for 10 and 50" in sidecar["images"]["units"]
    assert sidecar["environment"]["packages"]["jax"]


def test_trajectory_pickle_and_nifti_are_written_when_asked(tmp_path):
    sample(tmp_path, num=3, asked=request(trajectory=True, pickle=True, nifti=True))
    assert names(tmp_path) == [
        "grid.png",
        "sample_0000.nii.gz",
        "sample_0001.nii.gz",
        "sample_0002.nii.gz",
        "samples.json",
        "samples.npz",
        "samples.pkl",
        "trajectory.npz",
        "trajectory.png",
    ]
    images = np.load(tmp_path / "samples.npz")["images"]
    with np.load(tmp_path / "trajectory.npz") as way:
        np.testing.assert_allclose(way["times"], [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
        np.testing.assert_allclose(way["states"][-1], images, rtol=1e-5)
    entries = read_pickle(tmp_path / "samples.pkl")
    assert list(entries) == ["train", "valid"] and len(entries["train"]) == 3
    np.testing.assert_array_equal(entries["train"][1]["image"][0], images[1, ..., 0])
    assert entries["train"][1]["class"] == "2CH_ES"


def test_volumes_are_written_as_nifti_by_default_with_their_affines(tmp_path):
    shifted = np.eye(4)
    shifted[0, 3] = 5.0
    conditions = Conditions(2, affines=[None, shifted.tolist()])
    sidecar = sample(tmp_path, size=(4, 4, 6), conditions=conditions)
    images = np.load(tmp_path / "samples.npz")["images"]
    for index, affine in enumerate([np.diag([2, 2, 3, 1]), shifted]):
        volume = nibabel.load(tmp_path / f"sample_000{index}.nii.gz")
        np.testing.assert_array_equal(volume.get_fdata(dtype=np.float32), images[index, ..., 0])
        np.testing.assert_allclose(volume.affine, affine)
    assert sidecar["condition"]["classes"] is None
    assert np.load(tmp_path / "samples.npz").files == ["images"]


def test_adaptive_reports_the_spread_of_its_calls(tmp_path):
    sidecar = sample(tmp_path, asked=request(solver=Solver("adaptive", rtol=1e-4, atol=1e-4)))
    calls = sidecar["calls"]
    assert 7 <= calls["min"] <= calls["mean"] <= calls["max"]
    assert sidecar["solver"] == {"name": "adaptive", "rtol": 1e-4, "atol": 1e-4}


class Interrupted(Exception):
    pass


def interrupt(done, total):
    raise Interrupted


def test_an_interrupted_call_continues_and_ends_as_if_it_had_not_been(tmp_path):
    with pytest.raises(Interrupted):
        sample(tmp_path / "a", asked=request(batch=2), progress=interrupt)
    assert names(tmp_path / "a") == [".partial"]
    first_batch = (tmp_path / "a" / ".partial" / "batch_00000000.npz").stat().st_mtime_ns
    with pytest.raises(Interrupted):
        sample(tmp_path / "a", asked=request(batch=2), progress=interrupt)
    again = (tmp_path / "a" / ".partial" / "batch_00000000.npz").stat().st_mtime_ns
    assert again == first_batch
    sample(tmp_path / "a", asked=request(batch=2))
    sample(tmp_path / "b", asked=request(batch=2))
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in ("images", "masks", "classes"):
        continued, straight = (np.load(tmp_path / folder / "samples.npz")[name] for folder in "ab")
        np.testing.assert_array_equal(continued, straight)
    assert (tmp_path / "a" / "grid.png").read_bytes() == (tmp_path / "b" / "grid.png").read_bytes()


def test_a_finished_folder_is_left_as_it_is(tmp_path):
    first = sample(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sample(tmp_path) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    ["samples.npz", "grid.png", "trajectory.npz", "sample_0001.nii.gz", "samples.pkl", "cut"],
)
def test_a_finished_folder_that_lost_a_file_is_made_again(tmp_path, file):
    asked = request(trajectory=True, nifti=True, pickle=True)
    sample(tmp_path, asked=asked)
    path = tmp_path / (file if file != "cut" else "samples.npz")
    before, present = path.read_bytes(), names(tmp_path)
    if file == "cut":
        path.write_bytes(before[: len(before) // 2])
    else:
        path.unlink()
    sample(tmp_path, asked=asked)
    assert names(tmp_path) == present
    if not file.endswith(".gz"):  # whose header holds the time
        assert path.read_bytes() == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_and_overwrite_starts_again(tmp_path, finished):
    (tmp_path / "notes.txt").write_text("mine")
    if finished:
        sample(tmp_path, asked=request(batch=2, trajectory=True))
    else:
        with pytest.raises(Interrupted):
            sample(tmp_path, asked=request(batch=2, trajectory=True), progress=interrupt)
    before = names(tmp_path)
    other = request(batch=2, seed=1)
    with pytest.raises(ValueError, match=r"seed was 0, is 1; trajectory was True, .*--overwrite"):
        sample(tmp_path, asked=other)
    assert names(tmp_path) == before
    sample(tmp_path, asked=other, overwrite=True)
    assert names(tmp_path) == ["grid.png", "notes.txt", "samples.json", "samples.npz"]
    sample(tmp_path.parent / "fresh", asked=other)
    np.testing.assert_array_equal(
        np.load(tmp_path / "samples.npz")["images"],
        np.load(tmp_path.parent / "fresh" / "samples.npz")["images"],
    )


def test_files_that_are_not_ours_are_never_touched(tmp_path):
    (tmp_path / "samples.npz").write_bytes(b"precious")
    refusal = r"samples\.npz, which was not written by sampling"
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=refusal):
            sample(tmp_path, overwrite=overwrite)
    assert (tmp_path / "samples.npz").read_bytes() == b"precious"
    with pytest.raises(ValueError, match="is a file"):
        sample(tmp_path / "samples.npz")


def test_two_writers_are_not_let_into_one_folder(tmp_path):
    second = outputs.claim(tmp_path, {"seed": 0})
    with (
        outputs.claim(tmp_path, {"seed": 0}),
        pytest.raises(ValueError, match="in use by process"),
    ):
        second.__enter__()
    assert names(tmp_path) == []


def test_a_seed_that_is_none_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="--seed=-1"):
        sample(tmp_path / "out", asked=request(seed=-1))
    assert not (tmp_path / "out").exists()


def arrays(folder, name="samples.npz"):
    with np.load(folder / name) as made:
        return dict(made)


def test_raw_images_are_the_others_before_the_scaling_is_undone(tmp_path):
    everything = dict(trajectory=True, pickle=True, nifti=True)
    plain = sample(tmp_path / "plain", asked=request(**everything))
    raw = sample(tmp_path / "raw", asked=request(**everything, raw=True))
    assert names(tmp_path / "plain") == names(tmp_path / "raw")
    images, undone = arrays(tmp_path / "raw")["images"], arrays(tmp_path / "plain")["images"]
    np.testing.assert_allclose(INTENSITY.invert(images), undone, rtol=1e-5)
    assert abs(images.mean()) < 1 and undone.mean() > 20
    way, way_undone = (
        arrays(tmp_path / name, "trajectory.npz")["states"] for name in ("raw", "plain")
    )
    np.testing.assert_allclose(INTENSITY.invert(way), way_undone, rtol=1e-5)
    volume = nibabel.load(tmp_path / "raw" / "sample_0002.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(volume[..., 0].T, images[2, ..., 0])
    entry = read_pickle(tmp_path / "raw" / "samples.pkl")["train"][3]
    np.testing.assert_array_equal(entry["image"][0], images[3, ..., 0])
    units = raw["images"]["units"]
    assert units.startswith("as the network gives them: the percentile scaling is not undone")
    assert "stand for 10 and 50" in units and raw["settings"]["raw"] is True
    assert plain["images"]["units"].startswith("those of the training data")
    with pytest.raises(ValueError, match="raw was True, is False"):
        sample(tmp_path / "raw", asked=request(**everything))


def test_raw_images_need_no_intensity(tmp_path):
    sidecar = sample(tmp_path, asked=request(raw=True), intensity=None)
    assert sidecar["images"]["intensity"] is None and "not known" in sidecar["images"]["units"]


def test_given_noise_takes_the_place_of_the_seed(tmp_path):
    noise = np.random.default_rng(0).normal(size=(7, 8, 8, 1)).astype(np.float32)
    sidecar = sample(tmp_path / "out", asked=request(raw=True), noise=noise)
    factor = (1 - 1 / 3 + 1 / 18) ** 3
    np.testing.assert_allclose(
        arrays(tmp_path / "out")["images"], factor * noise[:5], rtol=1e-5, atol=1e-6
    )
    digest = sidecar["settings"]["noise"]
    assert sidecar["seed"] is None and len(digest) == 32 and digest in sidecar["start_noise"]
    assert sample(tmp_path / "out", asked=request(raw=True), noise=noise[:5]) == sidecar
    seeded = sample(tmp_path / "seeded")
    assert "jax.random.key(seed)" in seeded["start_noise"] and seeded["settings"]["noise"] is None


@pytest.mark.parametrize("finished", [True, False])
def test_other_noise_is_other_images(tmp_path, finished):
    noise = np.zeros((5, 8, 8, 1), np.float32)
    options = dict(asked=request(batch=2, raw=True))
    if finished:
        sample(tmp_path, **options, noise=noise)
    else:
        with pytest.raises(Interrupted):
            sample(tmp_path, **options, noise=noise, progress=interrupt)
    changed = noise.copy()
    changed[4, 7, 7] = 1e-6
    with pytest.raises(ValueError, match=r"noise was '.*--overwrite"):
        sample(tmp_path, **options, noise=changed)
    with pytest.raises(ValueError, match=r"noise was '.*', is None; seed was None, is 0"):
        sample(tmp_path, **options)
    sample(tmp_path, **options, noise=noise)
    np.testing.assert_array_equal(arrays(tmp_path)["images"], 0)


def test_noise_that_does_not_fit_the_images_leaves_nothing_behind(tmp_path):
    for shape in ((4, 8, 8, 1), (5, 8, 8, 2), (5, 8, 8)):
        with pytest.raises(ValueError, match=r"for 5 images \(8, 8, 1\): one row each needed"):
            sample(tmp_path / "out", noise=np.zeros(shape, np.float32))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_masks_of_floats_are_kept_and_drawn_as_the_labels_they_stand_for(tmp_path, channels):
    labels = np.random.default_rng(0).integers(0, 3, (5, 8, 8)).astype(np.uint8)
    masks = np.eye(3, dtype=np.float32)[labels] if channels == 3 else labels[..., None] / 2
    given = Conditions(5, masks.astype(np.float32), None, ["m.npy"] * 5)
    sidecar = sample(tmp_path / "raw", conditions=given)
    np.testing.assert_array_equal(arrays(tmp_path / "raw")["masks"], masks)
    assert sidecar["condition"]["mask_labels"] is None
    assert sidecar["condition"]["masks"] == "as the network takes them"
    sample(tmp_path / "labels", conditions=Conditions(5, labels, None, ["m.npy"] * 5))
    pictures = [(tmp_path / name / "grid.png").read_bytes() for name in ("raw", "labels")]
    assert pictures[0] == pictures[1]
    with pytest.raises(ValueError, match="--pickle with --masks of floats"):
        sample(tmp_path / "pickle", conditions=given, asked=request(pickle=True))
    assert not (tmp_path / "pickle").exists()
