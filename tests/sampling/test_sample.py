"""The folder of outputs: its files, its sidecar, continuing, refusing, overwriting."""

import dataclasses
import functools
import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from motfm_jax import settings
from motfm_jax.core import Condition, Network
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pickles import read_pickle
from motfm_jax.methods.ode import Solver
from motfm_jax.model import Bundle
from motfm_jax.sampling import outputs
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.generate import Request
from motfm_jax.sampling.sample import sample_to_folder

CLASSES = ("2CH_ED", "2CH_ES")
INTENSITY = Intensity("percentile", "dataset", (-1.0, 1.0), (0.5, 99.5), 10.0, 50.0)
SHRINKS = (1 - 1 / 3 + 1 / 18) ** 3  # three midpoint steps of dx/dt = -x


@functools.cache  # with its compiled programs
def model(size):
    affine = np.diag([2.0, 2, 3, 1]).tolist()
    labels = ("background", "a", "b")
    return Bundle(
        network=Network(lambda *_: None, lambda params, x, t, context, key: -x * params["rate"]),
        params={"rate": np.float32(1.0)},
        condition=lambda mask, label: Condition(),
        facts=Facts(
            size, 1, CLASSES, labels, INTENSITY.to_json(), affine=affine, bounds=(10.0, 50.0)
        ),
        config=settings.default(),
        run="runs/x",
        checkpoint_hash="abc",
        step=7,
    )


def make_conditions(num=5, size=(8, 8)):
    masks = np.random.default_rng(0).integers(0, 3, (num, *size)).astype(np.uint8)
    return Conditions(num, masks, (np.arange(num) % 2).astype(np.int32), ["here"] * num)


def sample(out, conditions=None, *, size=(8, 8), overwrite=False, progress=None, **request):
    request = Request(**{"solver": Solver("midpoint", 3), **request})
    conditions = conditions or make_conditions(size=size)
    return sample_to_folder(
        out, model(size), conditions, request, overwrite=overwrite, progress=progress
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def arrays(folder, name="samples.npz"):
    with np.load(folder / name) as saved:
        return dict(saved)


def test_the_folder_holds_images_masks_classes_a_picture_and_a_sidecar(tmp_path):
    sidecar = sample(tmp_path / "out")
    assert names(tmp_path / "out") == ["grid.png", "samples.json", "samples.npz"]
    assert json.loads((tmp_path / "out" / "samples.json").read_text()) == sidecar
    saved = arrays(tmp_path / "out")
    assert sorted(saved) == ["classes", "images", "masks"]
    assert saved["images"].shape == (5, 8, 8, 1) and saved["masks"].shape == (5, 8, 8)
    assert saved["classes"].tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_allclose(saved["images"].mean(), 30, atol=3)  # -1 .. 1 is 10 .. 50
    np.testing.assert_allclose(saved["images"].std(), 20 * SHRINKS, rtol=0.15)
    assert sidecar["synthetic"] is True and sidecar["calls"] == 6 and sidecar["steps"] == 3
    assert sidecar["checkpoint"] == "abc" and sidecar["training_step"] == 7 and sidecar["seed"] == 0
    assert sidecar["condition"]["classes"][:2] == list(CLASSES)
    assert sidecar["condition"]["from"] == ["here"] * 5
    assert sidecar["seconds_per_image"] > 0
    assert sidecar["environment"]["packages"]["jax"]


EVERYTHING = dict(trajectory=True, pickle=True, nifti=True)


def test_raw_and_scaled_images_in_every_format(tmp_path):
    plain = sample(tmp_path / "plain", **EVERYTHING)
    raw = sample(tmp_path / "raw", **EVERYTHING, raw=True)
    assert names(tmp_path / "plain") == names(tmp_path / "raw")
    assert names(tmp_path / "raw") == [
        "grid.png",
        *(f"sample_000{index}{end}.nii.gz" for index in range(5) for end in ("", "_mask")),
        "samples.json",
        "samples.npz",
        "samples.pkl",
        "trajectory.npz",
        "trajectory.png",
    ]
    images, scaled = arrays(tmp_path / "raw")["images"], arrays(tmp_path / "plain")["images"]
    np.testing.assert_allclose(INTENSITY.invert(images), scaled, rtol=1e-5)
    assert abs(images.mean()) < 1 and scaled.mean() > 20
    way, scaled_way = (arrays(tmp_path / name, "trajectory.npz") for name in ("raw", "plain"))
    np.testing.assert_allclose(way["times"], [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(way["states"][-1], images, rtol=1e-5)
    np.testing.assert_allclose(INTENSITY.invert(way["states"]), scaled_way["states"], rtol=1e-5)
    volume = nibabel.load(tmp_path / "raw" / "sample_0002.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(volume[..., 0].T, images[2, ..., 0])
    entries = read_pickle(tmp_path / "raw" / "samples.pkl")
    assert list(entries) == ["train", "valid"] and len(entries["train"]) == 5
    np.testing.assert_array_equal(entries["train"][3]["image"][0], images[3, ..., 0])
    assert entries["train"][1]["class"] == "2CH_ES"
    scaling = "the percentile scaling from 10 .. 50 to the network's -1 .. 1, which clips training"
    assert raw["images"]["units"] == f"the network's: {scaling} images, is not undone"
    assert plain["images"]["units"] == f"the data's: {scaling} images, is undone"
    assert raw["settings"]["raw"] is True


def test_volumes_are_written_as_nifti_by_default_with_their_affines(tmp_path):
    shifted = np.eye(4)
    shifted[0, 3] = 5.0
    conditions = Conditions(2, affines=[None, shifted.tolist()])
    sidecar = sample(tmp_path, conditions, size=(4, 4, 6))
    images = arrays(tmp_path)["images"]
    for index, affine in enumerate([np.diag([2, 2, 3, 1]), shifted]):
        volume = nibabel.load(tmp_path / f"sample_000{index}.nii.gz")
        np.testing.assert_array_equal(volume.get_fdata(dtype=np.float32), images[index, ..., 0])
        np.testing.assert_allclose(volume.affine, affine)
    assert sidecar["condition"]["classes"] is None and list(arrays(tmp_path)) == ["images"]


@pytest.mark.parametrize("size", [(8, 8), (4, 4, 6)])
def test_the_mask_of_each_image_lies_beside_it_with_the_values_of_the_files(tmp_path, size):
    facts = dataclasses.replace(model(size).facts, label_values=(0, 255, 300))
    trained = dataclasses.replace(model(size), facts=facts, samplers={})
    request = Request(Solver("midpoint", 3), nifti=True)
    sample_to_folder(tmp_path, trained, make_conditions(size=size), request)
    saved = arrays(tmp_path)["masks"]
    assert set(np.unique(saved)) == {0, 1, 2}
    for index in range(5):
        image = nibabel.load(tmp_path / f"sample_000{index}.nii.gz")
        mask = nibabel.load(tmp_path / f"sample_000{index}_mask.nii.gz")
        assert mask.header.get_data_dtype() == np.uint16
        written = np.asanyarray(mask.dataobj)
        written = written[..., 0].T if len(size) == 2 else written
        np.testing.assert_array_equal(written, np.array([0, 255, 300])[saved[index]])
        np.testing.assert_array_equal(mask.affine, image.affine)


def test_frames_become_single_pictures_on_demand(tmp_path):
    sidecar = sample(tmp_path, png=True)
    assert [name for name in names(tmp_path) if name.startswith("sample_")] == [
        f"sample_000{index}.png" for index in range(5)
    ]
    assert sidecar["images"]["png"] == {"black": [10.0], "white": [50.0]}
    with Image.open(tmp_path / "sample_0003.png") as picture:
        levels = np.asarray(picture)
    expected = np.clip((arrays(tmp_path)["images"][3, ..., 0] - 10) / 40, 0, 1) * 255
    np.testing.assert_array_equal(levels, np.rint(expected))
    sample(tmp_path, overwrite=True)  # which deletes them
    assert names(tmp_path) == ["grid.png", "samples.json", "samples.npz"]
    with pytest.raises(ValueError, match="--png of volumes"):
        sample(tmp_path / "volumes", size=(4, 4, 6), png=True)


def test_the_sidecar_states_the_orientation(tmp_path):
    assert sample(tmp_path / "frames")["images"]["orientation"].startswith("rows from top")
    volumes = sample(tmp_path / "volumes", Conditions(1), size=(4, 4, 6))
    ways = "RAS: axes lead to the patient's right, front, top"
    assert volumes["images"]["orientation"] == ways


def test_adaptive_reports_the_spread_of_its_calls(tmp_path):
    sidecar = sample(tmp_path, solver=Solver("adaptive", rtol=1e-4, atol=1e-4))
    calls = sidecar["calls"]
    assert 7 <= calls["min"] <= calls["mean"] <= calls["max"]
    assert sidecar["solver"] == {"name": "adaptive", "rtol": 1e-4, "atol": 1e-4}


class Interrupted(Exception):
    pass


def interrupt(*_):
    raise Interrupted


def test_an_interrupted_call_continues_and_ends_like_an_uninterrupted_one(tmp_path):
    batch = tmp_path / "a" / ".partial" / "batch_00000000.npz"
    times = []
    for _ in range(2):
        with pytest.raises(Interrupted):
            sample(tmp_path / "a", batch=2, progress=interrupt)
        assert names(tmp_path / "a") == [".partial"]
        times.append(batch.stat().st_mtime_ns)
    assert times[0] == times[1]
    sample(tmp_path / "a", batch=2)
    sample(tmp_path / "b", batch=2)
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name, array in arrays(tmp_path / "b").items():
        np.testing.assert_array_equal(arrays(tmp_path / "a")[name], array)
    assert (tmp_path / "a" / "grid.png").read_bytes() == (tmp_path / "b" / "grid.png").read_bytes()


def claimed(out, settings, **options):
    """Whether there was anything to sample."""
    with outputs.claim(out, settings, **options) as folder:
        return folder is not None


def test_a_finished_folder_stays_unless_its_images_are_damaged(tmp_path):
    first = sample(tmp_path, **EVERYTHING)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sample(tmp_path, **EVERYTHING) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    path = tmp_path / "samples.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert claimed(tmp_path, first["settings"])
    path.unlink()
    assert claimed(tmp_path, first["settings"])
    (tmp_path / "samples.json").unlink()  # which shows whose folder it is
    with pytest.raises(ValueError, match="which was not written by sampling"):
        claimed(tmp_path, first["settings"])


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_and_overwrite_starts_again(tmp_path, finished):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    if finished:
        sample(out, batch=2, trajectory=True)
    else:
        with pytest.raises(Interrupted):
            sample(out, batch=2, trajectory=True, progress=interrupt)
    before = names(out)
    with pytest.raises(ValueError, match=r"seed was 0, is 1; trajectory was True, .*--overwrite"):
        sample(out, batch=2, seed=1)
    assert names(out) == before
    sample(out, batch=2, seed=1, overwrite=True)
    assert names(out) == ["grid.png", "notes.txt", "samples.json", "samples.npz"]
    sample(tmp_path / "fresh", batch=2, seed=1)
    np.testing.assert_array_equal(arrays(out)["images"], arrays(tmp_path / "fresh")["images"])


def test_drafts_of_a_killed_process_are_deleted(tmp_path):
    for name in (".0123abcd.samples.npz", ".0123abcd.mine.npz"):
        (tmp_path / name).write_text("half")
    assert claimed(tmp_path, {"seed": 0})
    assert names(tmp_path) == [".0123abcd.mine.npz"]


def test_foreign_files_are_never_touched(tmp_path):
    (tmp_path / "samples.npz").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"samples\.npz, which was not written by sampling"):
            claimed(tmp_path, {"seed": 0}, overwrite=overwrite)
    assert names(tmp_path) == ["samples.npz"]
    with pytest.raises(ValueError, match="is a file"):
        claimed(tmp_path / "samples.npz", {"seed": 0})


def test_two_writers_are_not_let_into_one_folder(tmp_path):
    second = outputs.claim(tmp_path, {"seed": 0})
    with (
        outputs.claim(tmp_path, {"seed": 0}),
        pytest.raises(ValueError, match="in use by process"),
    ):
        second.__enter__()
    assert names(tmp_path) == []


def test_given_noise_takes_the_place_of_the_seed(tmp_path):
    noise = np.random.default_rng(0).normal(size=(7, 8, 8, 1)).astype(np.float32)
    sidecar = sample(tmp_path, raw=True, start=noise)
    images = arrays(tmp_path)["images"]
    np.testing.assert_allclose(images, SHRINKS * noise[:5], rtol=1e-5, atol=1e-6)
    digest = sidecar["settings"]["noise"]
    assert sidecar["seed"] is None and len(digest) == 32 and digest in sidecar["start_noise"]
    assert sample(tmp_path, raw=True, start=noise[:5]) == sidecar
    noise[4, 7, 7] += 1e-6
    with pytest.raises(ValueError, match=r"noise was '.*', is '.*--overwrite"):
        sample(tmp_path, raw=True, start=noise)
    with pytest.raises(ValueError, match=r"noise was '.*', is None; seed was None, is 0"):
        sample(tmp_path, raw=True)


def test_a_refused_request_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="--seed=-1"):
        sample(tmp_path / "out", seed=-1)
    for shape in ((4, 8, 8, 1), (5, 8, 8, 2), (5, 8, 8)):
        with pytest.raises(ValueError, match=r"for 5 images \(8, 8, 1\): one row each needed"):
            sample(tmp_path / "out", start=np.zeros(shape, np.float32))
    floats = Conditions(5, np.zeros((5, 8, 8, 1), np.float32), None, ["m.npy"] * 5)
    with pytest.raises(ValueError, match="--pickle with --masks of floats"):
        sample(tmp_path / "out", floats, pickle=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_masks_of_floats_are_kept_and_drawn_like_the_labels_they_stand_for(tmp_path, channels):
    labels = np.random.default_rng(0).integers(0, 3, (5, 8, 8)).astype(np.uint8)
    masks = np.eye(3, dtype=np.float32)[labels] if channels == 3 else labels[..., None] / 2
    floats = Conditions(5, masks.astype(np.float32), None, ["m.npy"] * 5)
    sidecar = sample(tmp_path / "raw", floats)
    np.testing.assert_array_equal(arrays(tmp_path / "raw")["masks"], masks)
    assert sidecar["condition"]["mask_labels"] is None
    assert sidecar["condition"]["masks"] == "as the network takes them"
    sample(tmp_path / "labels", Conditions(5, labels, None, ["m.npy"] * 5))
    pictures = [(tmp_path / name / "grid.png").read_bytes() for name in ("raw", "labels")]
    assert pictures[0] == pictures[1]
