"""Whole runs of networks behind a front, and what has none."""

import dataclasses

import jax.export
import numpy as np
import pytest
from tiny import FACTS, ONE_LEVEL, make_config, save_run

import motfm_jax as motfm
from motfm_jax import settings
from motfm_jax.interop import exchange
from motfm_jax.sampling import generate

HAAR = dict(model__front="haar", **ONE_LEVEL)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(method="spade", cond="mask"), "its network has no front"),
        (dict(model__front_levels=3), "front_levels=3"),
        (dict(data__size=(18, 16), model__front_levels=2), "a front and 1 levels halve it 2 times"),
    ],
)
def test_a_front_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        settings.check(make_config(**HAAR | fields))


@pytest.mark.slow
def test_a_run_with_a_front_is_not_given_to_the_original(tmp_path):
    run = save_run(tmp_path / "run", make_config(**HAAR))
    with pytest.raises(ValueError, match="the original's network has no front"):
        exchange.to_torch(run, tmp_path / "weights.pt")


@pytest.mark.nightly
@pytest.mark.parametrize("anatomy, size", [("echo", (16, 16)), ("brain", (8, 8, 8))])
@pytest.mark.parametrize("cond", ["none", "class", "mask", "mask+class"])
def test_a_front_trains_resumes_samples_and_exports(tmp_path, anatomy, size, cond):
    source, run = f"phantom_{anatomy}", tmp_path / "run"
    config = make_config(len(size), cond=cond, data__source=source, **HAAR)
    config.train.update(steps=2, batch_size=4)
    motfm.train(config, run, progress=False)
    config.train.steps = 4
    model = motfm.train(config, run, resume=True, progress=False)
    made = model.sample(2, steps=2)
    assert made.images.shape == (2, *size, 1) and np.isfinite(made.images).all()
    motfm.export(run, tmp_path / "out", steps=2)
    sampler = jax.export.deserialize((tmp_path / "out" / "sampler.jax_export").read_bytes()).call
    start = generate.start_noise(0, np.arange(2), model.shape)
    weights = dict(np.load(tmp_path / "out" / "weights.npz"))
    exported = jax.jit(sampler)(weights, start, made.masks, made.labels)
    np.testing.assert_allclose(exported, made.images, rtol=0, atol=1e-3 * np.ptp(made.images))


@pytest.mark.nightly
def test_a_run_of_the_same_channels_and_front_is_begun_with_and_others_are_refused(tmp_path):
    run = save_run(tmp_path / "run", make_config(**HAAR))
    config = make_config(train__init_from=str(run), data__size=(24, 24), **HAAR)
    config.train.update(steps=1, batch_size=4)
    motfm.train(config, tmp_path / "mine", progress=False)
    other = dataclasses.replace(FACTS, mask_labels=("background", "lesion", "organ"))
    config.train.init_from = str(save_run(tmp_path / "labels", make_config(**HAAR), other))
    with pytest.raises(ValueError, match="its mask labels is"):
        motfm.train(config, tmp_path / "other", progress=False)
    config.train.init_from = str(run)
    config.model.front = "pixel_shuffle"
    with pytest.raises(ValueError, match=r"model\.front is 'haar', here 'pixel_shuffle'"):
        motfm.train(config, tmp_path / "other", progress=False)
