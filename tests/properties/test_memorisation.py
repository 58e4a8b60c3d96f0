"""The positive control of the audit: a model that was trained too long on too few images."""

import pytest

import motfm_jax as motfm


@pytest.mark.nightly
def test_a_model_that_learned_eight_images_by_heart_is_caught(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTFM_CACHE", str(tmp_path / "cache"))
    fields = {"data.size": (24, 24), "data.phantom_patients": 40, "train.lr": 2e-3}
    fields |= {"train.ema": 0.98, "train.schedule": "cosine"}
    shares = {}
    for limit, steps in ((8, 1000), (0, 300)):
        fields |= {"data.limit": limit, "train.steps": steps}
        config = motfm.config("phantom", size="debug", **fields)
        motfm.train(config, tmp_path / str(limit), progress=False)
        model = motfm.load(tmp_path / str(limit), "last")
        made = model.sample(32, steps=20, solver="heun")
        found = motfm.audit(made, model.data("train"), model.data("valid"), max_shift=0)
        shares[limit] = found["share_closer"], found["ratio_share"], found["auc"]
        assert found["control"]["share_closer"] == 1
    assert shares[8][0] > 0.9 and shares[8][1] > 0.2 and shares[8][2] > 0.9, shares
    assert shares[0][0] < 0.2 and shares[0][1] == 0 and shares[0][2] < 0.7, shares
