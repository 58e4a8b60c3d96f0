"""Images made together with their masks: what the network learns, and what becomes of it."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny import FACTS, INTENSITY, SIZES, make_config, save_run
from toy import make_bundle

import motfm_jax as motfm
from motfm_jax import build, datasets
from motfm_jax.core import Batch, Condition, Network
from motfm_jax.data.cache import Arrays
from motfm_jax.data.joint import join, split
from motfm_jax.evaluation.synthetic import read_generated
from motfm_jax.io.run_folder import read_metrics
from motfm_jax.methods.ode import Solver
from motfm_jax.sampling import generate
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.generate import Request
from motfm_jax.sampling.sample import sample_to_folder
from motfm_jax.trainer import train

JOINT = dataclasses.replace(FACTS, label_channels=3, label_values=(0, 255, 300))
SMALL = dict(
    data__generate="image+mask",
    model__channels=(8,),
    model__attention=(False,),
    model__res_blocks=1,
)


def random_pair(shape=(2, 4, 5), channels=2, num_labels=3):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(*shape, channels)).astype(np.float32),
        rng.integers(0, num_labels, shape).astype(np.uint8),
    )


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 3, 4, 5)])
def test_labels_are_further_channels_and_come_back_by_arg_max(shape):
    image, mask = random_pair(shape)
    joined = np.asarray(join(image, mask, 3))
    expected = [image, *(np.where(mask == label, 1.0, -1.0)[..., None] for label in range(3))]
    np.testing.assert_array_equal(joined, np.concatenate(expected, axis=-1))
    noisy = joined + np.float32(0.9) * np.random.default_rng(1).uniform(-1, 1, joined.shape)
    back, labels = split(jnp.asarray(noisy), 3)
    np.testing.assert_allclose(back, noisy[..., :2], rtol=1e-6)
    np.testing.assert_array_equal(labels, mask)
    assert labels.dtype == np.uint8
    assert split(image, 0)[1] is None


@pytest.mark.parametrize("method", ["flow", "ddpm"])
def test_the_loss_is_that_of_image_and_label_channels(method):
    built = build.architecture(make_config(cond="none", method=method, **SMALL), JOINT)
    params = built.init(jax.random.key(0))
    assert params["unet/conv_out/kernel"].shape[-1] == 4
    image, mask = random_pair((2, 16, 16), channels=1)
    batch = Batch(image, mask, None, np.ones(2, bool), np.arange(2, dtype=np.int32))
    keys, config = jax.random.split(jax.random.key(1), 2), make_config(method=method, cond="none")
    alike = batch._replace(image=np.asarray(join(image, mask, 3)))
    section = motfm.METHODS[method].section
    expected = motfm.METHODS[method].loss(
        config[section], built.network, params, alike, Condition(), keys, None
    )
    found = build.loss(make_config(cond="none", method=method, **SMALL), built)(
        params, batch, keys, None
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def shifting(size=(16, 16), **facts):
    """A model whose network moves each channel by another constant: the image by 0.25, the second
    label's by 3."""
    model = make_bundle(size=size, data__generate="image+mask")
    shifts = jnp.array([0.25, 0.0, 3.0, 0.0])
    network = Network(
        lambda params, condition: None,
        lambda params, x, t, context, key: jnp.broadcast_to(shifts, x.shape),
    )
    joint = dataclasses.replace(
        JOINT, size=size, bounds=(0.0, 255.0), intensity=INTENSITY.to_json(), **facts
    )
    return dataclasses.replace(
        model, network=network, facts=joint, condition=lambda mask, label: Condition()
    )


def test_the_image_is_restored_and_the_mask_is_the_greatest_label_channel():
    model, conditions = shifting(), Conditions(5)
    assert model.shape == (16, 16, 4)
    request = Request(Solver("euler", 2), seed=3, batch=2)
    made = generate.generate(model, conditions, request)
    noise = generate.start_noise(3, np.arange(5), (16, 16, 4))
    expected = (noise[..., :1] + 0.25 + 1) / 2 * 255
    np.testing.assert_allclose(made.images, expected, atol=1e-3)
    np.testing.assert_array_equal(made.masks, (noise[..., 1:] + [0, 3, 0]).argmax(-1))
    assert made.masks.dtype == np.uint8 and (made.masks == 1).mean() > 0.9
    way = generate.generate_trajectory(model, conditions, request, 3)
    assert way.shape == (3, 3, 16, 16, 1)
    np.testing.assert_allclose(way[-1], expected[:3], atol=1e-3)
    raw = generate.generate(model, conditions, request._replace(raw=True))
    np.testing.assert_allclose(raw.images, noise[..., :1] + 0.25, atol=1e-5)
    np.testing.assert_array_equal(raw.masks, made.masks)


def test_what_an_interrupted_sampling_had_is_kept(tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    model, request = shifting(), Request(Solver("euler", 2), batch=2)
    with pytest.raises(Interrupted):
        sample_to_folder(tmp_path / "a", model, Conditions(5), request, progress=interrupt)
    for name in ("a", "b"):
        sample_to_folder(tmp_path / name, model, Conditions(5), request)
    first, second = (dict(np.load(tmp_path / name / "samples.npz")) for name in ("a", "b"))
    assert sorted(first) == ["images", "masks"]
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_masks_are_written_with_the_values_of_the_files_and_the_sidecar_says_what_they_are(
    tmp_path,
):
    request = Request(Solver("euler", 2), nifti=True, png=True)
    sidecar = sample_to_folder(tmp_path, shifting(), Conditions(2), request)
    masks = np.load(tmp_path / "samples.npz")["masks"]
    for index, mask in enumerate(masks):
        values = np.array([0, 255, 300])[mask]
        nifti = nibabel.load(tmp_path / f"sample_000{index}_mask.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(nifti.dataobj)[..., 0].T, values)
        with Image.open(tmp_path / f"sample_000{index}_mask.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), values)
    assert sidecar["generated"] == ["images", "masks"]
    assert sidecar["statement"].startswith("Every image and every mask here was generated")
    condition = sidecar["condition"]
    assert condition["kind"] == "none" and condition["mask_labels"] == list(JOINT.mask_labels)
    assert condition["label_values"] == [0, 255, 300]
    images = np.zeros((1, 16, 16, 1), np.float32)
    real = Arrays(images, masks[:1], None, [{}], (), JOINT.mask_labels)
    learned = read_generated(tmp_path, "segment", real)
    np.testing.assert_array_equal(learned.masks, masks)
    sample_to_folder(
        tmp_path, shifting(), Conditions(2), Request(Solver("euler", 1)), overwrite=True
    )
    assert not list(tmp_path.glob("sample_*")), "which deletes them"


@pytest.mark.slow
@pytest.mark.parametrize(
    "dims, cond", [(2, "class"), pytest.param(3, "none", marks=pytest.mark.nightly)]
)
def test_a_run_trains_resumes_and_makes_both(tmp_path, dims, cond):
    def config(steps):
        fields = dict(steps=steps, batch_size=4, log_every=1, eval_every=2, save_every=2)
        made = make_config(
            dims,
            cond=cond,
            data__phantom_patients=10,
            **SMALL,
            **{f"train__{name}": value for name, value in fields.items()},
        )
        made.data.augment.update(dict(flip=True, affine=0.2, gamma=0.2))
        return made

    run = tmp_path / "run"
    train(config(2), run)
    train(config(4), run, resume=True)
    assert [row["step"] for row in read_metrics(run) if "valid_loss" in row] == [2, 4]
    model = motfm.load(run)
    num_labels = len(model.facts.mask_labels)
    assert model.facts.label_channels == num_labels > 2
    samples = model.sample(3, steps=2, seed=1)
    assert samples.images.shape == (3, *SIZES[dims], 1) and samples.masks.shape == (3, *SIZES[dims])
    assert samples.masks.max() < num_labels
    assert np.asarray(samples.show()).std() > 5
    start = generate.start_noise(1, np.arange(3), model.shape)
    again = model.sample(3, steps=2, noise=start, classes=samples.labels if cond != "none" else ())
    np.testing.assert_array_equal(again.masks, samples.masks)


def test_data_without_masks_are_refused(monkeypatch):
    from motfm_jax.data.phantom import PhantomEcho

    def bare(self, index, original=PhantomEcho.__getitem__):
        return original(self, index)._replace(mask=None)

    monkeypatch.setattr(PhantomEcho, "__getitem__", bare)
    monkeypatch.setattr(PhantomEcho, "mask_labels", ())
    config = make_config(cond="none", data__generate="image+mask", data__phantom_patients=7)
    with pytest.raises(ValueError, match=r"PhantomEcho: .*image\+mask' needs masks"):
        datasets.arrays(config, "train")
    with pytest.raises(ValueError, match="the data names no mask labels"):
        build.architecture(config, dataclasses.replace(FACTS, mask_labels=()))


def test_fine_tuning_takes_the_image_channels_and_the_labels_of_the_same_name(tmp_path):
    from motfm_jax.runs import inherited_weights
    from motfm_jax.training.reports import parent_lines

    images = save_run(
        tmp_path / "images", make_config(cond="none", **SMALL | {"data__generate": "image"})
    )
    pairs = save_run(tmp_path / "pairs", make_config(cond="none", **SMALL), JOINT)
    other = dataclasses.replace(JOINT, mask_labels=("background", "lesion", "cavity"))
    for parent, taken in ((images, {0: 0}), (pairs, {0: 0, 1: 1, 3: 2})):
        config = make_config(cond="none", **SMALL, train__init_from=str(parent))
        built, key = build.architecture(config, other), jax.random.key(0)
        params, record = inherited_weights(config, built, other, key)
        fresh, old = jax.device_get(built.init(key)), motfm.load(parent).params
        expected = np.array(fresh["unet/conv_out/kernel"])
        for ours, theirs in taken.items():
            expected[..., ours] = old["unet/conv_out/kernel"][..., theirs]
        np.testing.assert_array_equal(params["unet/conv_out/kernel"], expected)
    assert record["label_channels"]["taken"] == ["background", "cavity"]
    assert "  label channels: background, cavity taken; lesion begun anew; myocardium left" in (
        parent_lines(record)
    )


@pytest.mark.nightly
def test_an_export_makes_both(tmp_path):
    run = save_run(tmp_path / "run", make_config(cond="class", **SMALL), JOINT)
    motfm.export(run, tmp_path / "export", steps=2)
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path / "export", check=True)
    images, masks = (np.load(tmp_path / "export" / f"{name}.npy") for name in ("images", "masks"))
    made = motfm.load(run).sample(classes=np.arange(4, dtype=np.int32), steps=2)
    np.testing.assert_allclose(images, made.images, rtol=1e-3, atol=0.1)
    assert (masks == made.masks).mean() > 0.99
    assert "label maps [b, 16, 16] uint8: 0 background" in (
        (tmp_path / "export" / "README.txt").read_text()
    )
    assert json.loads((tmp_path / "export" / "facts.json").read_text())["label_channels"] == 3


@pytest.mark.nightly
def test_a_flow_map_of_both_starts_from_a_flow_of_both(tmp_path):
    def config(**fields):
        short = dict(steps=1, batch_size=4, **fields)
        return make_config(
            cond="class",
            data__phantom_patients=10,
            method="flow_map" if fields else "flow",
            **SMALL,
            **{f"train__{name}": value for name, value in short.items()},
        )

    train(config(), tmp_path / "flow")
    train(config(teacher=str(tmp_path / "flow")), tmp_path / "map")
    samples = motfm.load(tmp_path / "map").sample(2, steps=1)
    assert samples.masks.shape == (2, 16, 16) and (samples.calls == 1).all()
