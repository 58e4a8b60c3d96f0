"""`import motfm_jax as motfm`: the ways of a user, each walked once."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny import ONE_LEVEL, ROOT, make_config, save_run

import motfm_jax as motfm
from motfm_jax import datasets

LEVEL = {
    "model.channels": (8,),
    "model.attention": (True,),
    "model.norm_groups": 4,
    "model.head_dim": 8,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = make_config(**ONE_LEVEL)
    facts = datasets.data(config).facts
    return motfm.load(save_run(tmp_path_factory.mktemp("library") / "run", config, facts))


@pytest.fixture(scope="module")
def samples(model):
    valid = model.data("valid")
    return model.sample(masks=valid.masks[:3], classes=valid.labels[:3], steps=2, seed=1)


def test_nothing_heavy_is_imported_before_it_is_used():
    script = (
        "import sys, motfm_jax as motfm; assert 'jax' not in sys.modules; "
        "assert {'load', 'train', 'score', 'METHODS'} <= set(dir(motfm)); "
        "motfm.Record; print('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        motfm.laod  # noqa: B018


@pytest.mark.parametrize("name", motfm.__all__)
def test_every_name_is_there(name):
    assert getattr(motfm, name) is not None


@pytest.mark.slow
def test_images_are_sampled_shown_and_saved(model, samples, tmp_path):
    valid = model.data("valid")
    assert samples.images.shape == (3, 16, 16, 1) and len(samples) == 3
    assert samples.calls.tolist() == [2, 2, 2]
    np.testing.assert_array_equal(samples.masks, valid.masks[:3])
    np.testing.assert_array_equal(samples.labels, valid.labels[:3])
    picture = samples.show()
    for shown in (model, valid, samples):
        assert len(repr(shown)) < 400, "a notebook shows it in a line"
    assert picture.mode == "RGB" and np.asarray(picture).std() > 5
    sidecar = samples.save(tmp_path / "samples")
    assert json.loads((tmp_path / "samples" / "samples.json").read_text()) == sidecar
    with np.load(tmp_path / "samples" / "samples.npz") as saved:
        np.testing.assert_array_equal(saved["images"], samples.images)
    assert samples.save(tmp_path / "samples") == sidecar, "nothing is written twice"


def test_classes_may_be_names_and_records_give_what_is_left_out(model, samples):
    valid = model.data("valid")
    named = model.sample(classes=["4CH_ES", "2CH_ED", "4CH_ES"], steps=2, seed=1)
    assert named.labels.tolist() == [3, 0, 3]
    np.testing.assert_array_equal(named.masks, valid.masks[[3, 0, 3]])
    listed = model.sample(masks=list(named.masks), classes=[3, 0, 3], steps=2, seed=1)
    np.testing.assert_array_equal(listed.masks, named.masks)
    again = model.sample(3, steps=2, seed=1)
    np.testing.assert_allclose(again.images, samples.images, atol=1e-3)


@pytest.mark.slow
def test_the_velocity_is_the_networks(model):
    valid = model.data("valid")
    x, t = np.zeros((2, 16, 16, 1), np.float32), np.array([0.0, 0.5], np.float32)
    velocity = model.velocity(x, t, valid.masks[:2], valid.labels[:2])
    assert velocity.shape == x.shape and np.isfinite(velocity).all()
    step = model.sample(masks=valid.masks[:2], classes=valid.labels[:2], noise=x, steps=1, raw=True)
    start = model.velocity(x, 0 * t, valid.masks[:2], valid.labels[:2])
    np.testing.assert_allclose(step.images, start, atol=1e-4)


def test_samples_are_scored_beside_real_images(model, samples, tmp_path):
    scores = motfm.score(samples, real=model.data("test"), networks=tmp_path)
    assert {"density_w1", "ssim"} <= scores.keys()
    assert scores["density_w1"].keys() == {"generated", "real"}
    samples.save(tmp_path / "samples")
    assert motfm.score(tmp_path / "samples", model.data("test"), networks=tmp_path) == scores
    alone = motfm.score(samples, model.data("test"), floor=model.data("test"), networks=tmp_path)
    assert alone["density_w1"]["generated"] == scores["density_w1"]["generated"]
    assert alone["ssim"]["real"] > scores["ssim"]["real"]
    with pytest.raises(ValueError, match="raw=True: sample again without it"):
        motfm.score(model.sample(2, steps=1, raw=True), model.data("test"))
    with pytest.raises(ValueError, match="samples of type ndarray"):
        motfm.score(samples.images, model.data("test"))


def test_copies_are_looked_for(model, samples, tmp_path):
    train = model.data("train")
    others = train.take(np.arange(20) % len(train))  # as held-out images all are copies
    report = motfm.audit(samples, train=train, held_out=others, out=tmp_path)
    assert report["num"] == {"generated": 3, "train": 16, "held_out": 20}
    assert report["share_closer"] == 0 and report["held_out"]["max"] < 1e-3
    assert (tmp_path / "audit.png").is_file()


@pytest.mark.nightly
def test_a_model_is_exported(model, tmp_path):
    about = motfm.export(model, tmp_path / "export", steps=2)
    assert (about["calls"], about["training_step"]) == (2, 7)
    assert list((tmp_path / "export").iterdir())


def test_a_config_is_made_and_checked():
    config = motfm.config(cond="class", **{"data.size": (32, 32, 32), "train.steps": 7})
    assert (config.cond, config.train.steps, config.data.source) == ("class", 7, "python")
    assert motfm.config("camus", size="debug", **{"data.root": "x"}).data.source == "camus"
    with pytest.raises(ValueError, match=r"config\.train\.stesp: .* did you mean train\.steps"):
        motfm.config(**{"train.stesp": 7})
    with pytest.raises(ValueError, match="multiple of 4"):
        motfm.config(**{"data.size": (33, 32)})
    with pytest.raises(ValueError, match=r"data\.size=16: two or three numbers"):
        motfm.config(**{"data.size": 16})
    with pytest.raises(ValueError, match="size='tiny': use one of debug, small, paper"):
        motfm.config(size="tiny")


class Lesions:
    """Images in memory, without a fingerprint."""

    classes = ("benign", "malignant")

    def __init__(self, seed, num):
        rng = np.random.default_rng(seed)
        self.images, self.labels = rng.uniform(0, 255, (num, 16, 16, 1)), np.arange(num) % 2

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return motfm.Record(self.images[i], label=int(self.labels[i]))


@pytest.mark.slow
def test_a_model_is_trained_on_ones_own_data(tmp_path):
    train = {"train.steps": 2, "train.batch_size": 4, "train.save_every": 2, "train.eval_every": 2}
    config = motfm.config(size="debug", cond="class", **{"data.size": (16, 16)}, **train, **LEVEL)
    args = dict(train=Lesions(0, 8), valid=Lesions(1, 4), progress=False)
    model = motfm.train(config, tmp_path / "run", **args)
    assert model.step == 2 and len(model.data("train")) == 8
    samples = model.sample(classes=["malignant"] * 2, steps=2)
    assert samples.labels.tolist() == [1, 1] and np.isfinite(samples.images).all()
    again = motfm.load(tmp_path / "run")
    assert again.checkpoint_hash == model.checkpoint_hash
    assert again.facts.classes == Lesions.classes
    with pytest.raises(ValueError, match="valid"):
        motfm.train(config, tmp_path / "other", train=Lesions(0, 8))
