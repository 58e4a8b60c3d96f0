"""Scores in published features: what they are called, what they are 0 for, what is missing."""

import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.evaluation import published, sets
from motfm_jax.evaluation.sets import in_memory
from motfm_jax.features import weights
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.inception_score import answers, inception_score, split_of_each
from motfm_jax.metrics.kernel import cmmd, kid
from motfm_jax.metrics.moments import covariance, moments


def seen(seed, shift=0.0, rows=40):
    draw = np.random.default_rng(seed).standard_normal
    rows_of = {layer: draw((rows, 4)) + shift for layer in published.FRECHET}
    kernel = {
        "inception/2048": rows_of["inception/2048"],
        "clip/clip": _unit(draw((rows, 6)) + shift),
    }
    return published.Seen(
        {layer: moments(made) for layer, made in rows_of.items()},
        kernel,
        answers(draw((rows, 5)), split_of_each(rows, 0), 10),
    )


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_scores_carry_the_names_they_are_published_by():
    one, other = seen(0), seen(1, shift=3.0)
    scores = published.compare(one, other, 0)
    assert set(scores) == {
        "fid_64",
        "fid_192",
        "fid_768",
        "fid_2048",
        "fid_3d",
        "kid",
        "kid_std",
        "is",
        "is_std",
        "cmmd",
    }
    assert scores["fid_192"] == frechet_distance(
        one.moments["inception/192"], other.moments["inception/192"]
    )
    assert min(scores[name] for name in ("fid_64", "kid", "cmmd")) > 0.1


def test_equal_sets_are_at_0():
    scores = published.compare(seen(0), seen(0), 0)
    assert abs(scores["fid_64"]) < 1e-6 and abs(scores["fid_3d"]) < 1e-6
    assert abs(scores["cmmd"]) < 1e-6


def test_without_weights_nothing_is_scored_and_it_is_said(tmp_path):
    networks = published.Networks(tmp_path, 2)
    assert networks.missing == ["inception", "clip"] and networks.hashes == {}
    made = networks.look(in_memory(np.zeros((3, 8, 8, 1), np.float32)), 0)
    assert made == ({}, {}, None) and published.compare(made, made, 0) == {}


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Inception and CLIP that see a few weighted means of an image."""

    def layers(name):
        names = {"inception": (*published.FID_LAYERS, "logits"), "clip": ("clip",)}[name]

        def apply(params, images):
            means = jnp.concatenate([images.mean(axis=(1, 2)), images.mean(axis=(1, 3))], axis=1)
            rows = {
                layer: means @ params["fc/kernel"] ** (number + 1)
                for number, layer in enumerate(names)
            }
            length = jnp.linalg.norm(rows[names[0]], axis=1, keepdims=True)
            return rows if name == "inception" else {"clip": rows["clip"] / length}

        return apply

    monkeypatch.setattr(weights, "network", layers)
    kernel = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    for name in ("inception", "clip"):
        weights.write(tmp_path, name, {"fc/kernel": kernel}, "abc")
    return published.Networks(tmp_path, 2)


@pytest.mark.parametrize("batch", [1, 6])
def test_batches_of_any_size_leave_behind_what_the_whole_does(networks, monkeypatch, batch):
    """37 images: in batches of 6 the last has one."""
    assert networks.hashes == {"inception": "abc", "clip": "abc"} and networks.missing == []
    monkeypatch.setattr(sets, "BATCH", batch)
    images = np.random.default_rng(0).uniform(size=(37, 5, 6, 1)).astype(np.float32)
    images[:, :, 0] += 10  # a common offset
    whole = {
        f"{name}/{layer}": rows
        for name, look in networks._look.items()
        for layer, rows in look(images).items()
    }
    made = networks.look(in_memory(images), seed=5)
    for layer in published.FRECHET.keys() & whole:
        wanted = moments(whole[layer])
        assert made.moments[layer].count == 37
        np.testing.assert_allclose(made.moments[layer].mean, wanted.mean, rtol=1e-12)
        np.testing.assert_allclose(
            covariance(made.moments[layer]), covariance(wanted), rtol=1e-9, atol=1e-14
        )
    scores = published.compare(made, made, 0)
    variety = inception_score(whole["inception/logits"], 5)
    distance = kid(*[whole["inception/2048"]] * 2, 0)
    for name, value in {
        "is": variety.mean,
        "is_std": variety.std,
        "kid": distance.mean,
        "cmmd": cmmd(*[whole["clip/clip"]] * 2),
    }.items():
        assert scores[name] == pytest.approx(value, rel=1e-12), name


def test_damaged_weights_are_an_error_not_a_gap(tmp_path):
    weights.path_of(tmp_path, "inception").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged"):
        published.Networks(tmp_path, 2)
