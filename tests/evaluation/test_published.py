"""Scores in published features: what they are called, what they are 0 for, what is missing."""

import numpy as np
import pytest

from motfm_jax.evaluation import published
from motfm_jax.features import weights
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.moments import moments


def seen(seed, shift=0.0, rows=40):
    draw = np.random.default_rng(seed).standard_normal
    return {f"inception/{layer}": draw((rows, 4)) + shift for layer in published.FID_LAYERS} | {
        "inception/logits": draw((rows, 5)), "clip/clip": _unit(draw((rows, 6)) + shift),
        "r3d/512": draw((rows, 4)) + shift}


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_scores_carry_the_names_they_are_published_by():
    one, other = seen(0), seen(1, shift=3.0)
    scores = published.compare(one, other, 0)
    assert set(scores) == {
        "fid_64", "fid_192", "fid_768", "fid_2048", "fid_3d", "kid", "kid_std", "is", "is_std",
        "cmmd"}
    assert scores["fid_192"] == frechet_distance(
        moments(one["inception/192"]), moments(other["inception/192"])).distance
    assert min(scores[name] for name in ("fid_64", "kid", "cmmd")) > 0.1


def test_equal_sets_are_at_0():
    scores = published.compare(seen(0), seen(0), 0)
    assert abs(scores["fid_64"]) < 1e-6 and abs(scores["fid_3d"]) < 1e-6
    assert abs(scores["cmmd"]) < 1e-6


def test_without_weights_nothing_is_scored_and_it_is_said(tmp_path):
    networks = published.Networks(tmp_path, 2)
    assert networks.missing == ["inception", "clip"] and networks.hashes == {}
    made = networks.features(np.zeros((3, 8, 8, 1), np.float32))
    assert made == {} and published.compare(made, made, 0) == {}


def test_networks_look_at_every_image_once_whatever_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "network", lambda name: lambda params, images: {
        "512": params["fc/kernel"][0, 0] * images.mean(axis=(1, 2, 3))})
    weights.write(tmp_path, "r3d", {"fc/kernel": np.full((1, 1), 2.0, np.float32)}, "abc")
    networks = published.Networks(tmp_path, 3)
    assert networks.hashes == {"r3d": "abc"} and networks.missing == []
    images = np.random.default_rng(0).uniform(size=(37, 2, 3, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(
        networks.features(images)["r3d/512"], 2 * images.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_damaged_weights_are_an_error_not_a_gap(tmp_path):
    weights.path_of(tmp_path, "inception").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged"):
        published.Networks(tmp_path, 2)
