"""A method and a data source from outside the package, through the ordinary entry points."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ONE_LEVEL, command

import motfm_jax as motfm
from motfm_jax.core import normal_per_example
from motfm_jax.fields import positive
from motfm_jax.methods import METHODS, flow


def absolute_loss(settings, network, params, batch, condition, keys, dropout_key):
    time_keys, noise_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    t = flow.draw_times(time_keys, "uniform")
    x0 = normal_per_example(noise_keys, batch.image.shape[1:])
    x_t, velocity = flow.linear_path(x0, batch.image, t)
    context = network.encode(params, condition)
    error = network.apply(params, x_t, t, context, dropout_key) - velocity
    return settings.weight * jnp.mean(jnp.abs(error), axis=(1, 2, 3))


ABSOLUTE = motfm.Method(
    section="absolute",
    settings={"weight": positive(2.0)},
    loss=absolute_loss,
    solver=flow.METHOD.solver,
    sample=flow.METHOD.sample,
)


class Squares:
    dims, needs_root, classes, mask_labels = (2,), False, (), ()

    def __init__(self, num):
        self.num = num

    @classmethod
    def from_config(cls, data, split):
        return cls(8 if split == "train" else 4)

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        image = np.random.default_rng(index).uniform(0, 10, (16, 16))
        image[4:12, 4:12] += 50
        return motfm.Record(image, patient=f"square{index}")


@pytest.mark.slow
def test_they_train_resume_sample_and_export(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "absolute", ABSOLUTE)
    monkeypatch.setitem(motfm.SOURCES, "squares", Squares)
    fields = {name.replace("__", "."): value for name, value in ONE_LEVEL.items()}
    fields |= {"data.source": "squares", "data.size": (16, 16), "absolute.weight": 3.0}
    fields |= {"model.norm_groups": 4, "model.head_dim": 8, "train.batch_size": 4}
    run, out = tmp_path / "run", tmp_path / "samples"
    for steps in (1, 2):
        config = motfm.config(method="absolute", size="debug", **fields, **{"train.steps": steps})
        model = motfm.train(config, run, resume=True, progress=False)
        assert model.step == steps
    command("sample")([f"--run={run}", f"--out={out}", "--num=2", "--steps=2"])
    with np.load(out / "samples.npz") as samples:
        assert samples["images"].shape == (2, 16, 16, 1)
    command("export")([f"--run={run}", f"--out={tmp_path / 'exported'}", "--steps=2"])
    assert json.loads((tmp_path / "exported" / "export.json").read_text())["calls"] == 2
