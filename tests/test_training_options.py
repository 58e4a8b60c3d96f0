"""Options of training and sampling a flow, in whole networks and whole runs."""

import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FACTS, ONE_LEVEL, command, make_config, save_run

import motfm_jax as motfm
from motfm_jax import build, datasets, trainer
from motfm_jax.core import Condition, Network
from motfm_jax.interop import exchange
from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.sampling import generate


def test_the_output_of_a_network_that_predicts_images_is_turned_into_a_velocity():
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)
    t = jnp.array([0.5, 0.99])
    condition = (None, np.array([0, 2]))
    outputs = []
    for prediction in ("velocity", "image"):
        config = make_config(cond="class", flow__prediction=prediction, **ONE_LEVEL)
        built = build.architecture(config, FACTS)
        shapes = jax.eval_shape(built.init, jax.random.key(0))
        params = {name: jnp.full(leaf.shape, 0.05) for name, leaf in shapes.items()}
        context = built.network.encode(params, built.condition(*condition))
        outputs.append(built.network.apply(params, x, t, context, None))
    output, velocity = outputs
    left = np.array([0.5, 0.05])[:, None, None, None]
    assert np.abs(output).max() > 0.01
    np.testing.assert_allclose(velocity, (output - x) / left, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_network_that_predicts_images_is_not_given_to_the_original(tmp_path):
    run = save_run(tmp_path / "run", make_config(flow__prediction="image", **ONE_LEVEL))
    x = np.ones((1, 16, 16, 1), np.float32)
    mask, label = np.zeros((1, 16, 16), np.uint8), np.zeros(1, np.int32)
    velocity = motfm.load(run).velocity(x, np.zeros(1), mask, label)
    assert velocity.shape == x.shape
    with pytest.raises(ValueError, match=r"flow\.prediction='image'; the original would"):
        exchange.to_torch(run, tmp_path / "weights.pt")


@pytest.mark.nightly
def test_guided_samples_of_the_library_the_command_and_the_export_agree(tmp_path):
    config = make_config(train__drop_condition=0.1, cond="class", **ONE_LEVEL)
    run, out = save_run(tmp_path / "run", config), tmp_path / "out"
    options = dict(steps=2, guidance=2.0, guidance_interval=(0.0, 0.4))
    model = motfm.load(run)
    made = model.sample(classes=[0, 1], **options)
    assert made.calls.tolist() == [3, 3]
    plain = model.sample(classes=[0, 1], steps=2)
    assert not np.allclose(made.images, plain.images, atol=1)
    about = motfm.export(run, out, **options)
    assert about["calls"] == 3 and about["guidance"] == {"weight": 2.0, "interval": [0.0, 0.4]}
    sampler = jax.export.deserialize((out / "sampler.jax_export").read_bytes()).call
    start = generate.start_noise(0, np.arange(2), model.shape)
    exported = jax.jit(sampler)(dict(np.load(out / "weights.npz")), start, None, np.arange(2))
    np.testing.assert_allclose(exported, made.images, rtol=0, atol=1e-4 * 255)
    with pytest.raises(ValueError, match=r"guide=.*has one network"):
        motfm.export(run, tmp_path / "other", guide=run, **options)


@pytest.mark.slow
def test_a_smaller_network_guides_by_its_name_and_step(tmp_path):
    fields = dict(cond="none", model__channels=(16,), model__attention=(False,))
    run = save_run(tmp_path / "run", make_config(**fields))
    small = save_run(tmp_path / "small", make_config(**fields | dict(model__channels=(8,))))
    common = [f"--run={run}", "--num=2", "--steps=2", "--guidance=2"]
    command("sample")([*common, f"--guide={small}@7", f"--out={tmp_path / 'samples'}"])
    sidecar = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert sidecar["solver"]["guidance"]["guide"].endswith("at step 7")
    images = np.load(tmp_path / "samples" / "samples.npz")["images"]
    model = motfm.load(run)
    with pytest.raises(ValueError, match=r"guide=.*has one network"):
        motfm.export(model.guided_by(motfm.load(small)), tmp_path / "out", guidance=2)
    made = model.sample(2, steps=2, guidance=2, guide=motfm.load(small))
    np.testing.assert_array_equal(made.images, images)
    assert made.calls.tolist() == [4, 4]
    x = generate.start_noise(0, np.arange(2), model.shape)
    own, weak = (each.velocity(x, np.zeros(2)) for each in (model, motfm.load(small)))
    halfway = x + 0.5 * (2 * own - weak)
    own, weak = (each.velocity(halfway, np.full(2, 0.5)) for each in (model, motfm.load(small)))
    expected = model.intensity.invert(halfway + 0.5 * (2 * own - weak))
    np.testing.assert_allclose(images, expected, atol=0.01)


def all_options(**fields):
    """A run of seconds with every option on."""
    return make_config(
        **{
            "data__phantom_patients": 10,
            "data__augment__affine": 0.1,
            "data__augment__flip": True,
            "data__augment__told": True,
            "flow__time_distribution": "logit_normal",
            "flow__time_mean": -0.4,
            "flow__time_uniform": 0.1,
            "flow__prediction": "image",
            "model__channels": (8,),
            "model__attention": (False,),
            "model__dropout": 0.1,
            "train__drop_condition": 0.2,
            "train__ema_length": 0.1,
            "train__batch_size": 4,
            "train__save_every": 2,
            "train__eval_every": 2,
            "train__sample_every": 100,
            **fields,
        }
    )


@pytest.mark.nightly
def test_a_run_with_every_option_resumes_exactly_and_is_sampled_and_inherited(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer.train(all_options(train__steps=4), whole)
    trainer.train(all_options(train__steps=2), parts)
    trainer.train(all_options(train__steps=4), parts, resume=True)
    expected, found = restore_weights(whole, 4).params, restore_weights(parts, 4).params
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    label = "unet/encoder/augment_embed/kernel"
    assert np.any(expected[label]), "the layer learned"
    made = motfm.load(parts).sample(2, steps=2, guidance=2.0, shift=2.0)
    assert np.isfinite(made.images).all() and made.calls.tolist() == [4, 4]
    fields = {"train__init_from": str(parts), "train__steps": 1}
    trainer.train(all_options(**fields), tmp_path / "tuned")
    assert (
        label in json.loads((tmp_path / "tuned" / "parent.json").read_text())["parameters"]["taken"]
    )
    trainer.train(all_options(**fields, data__augment__told=False), tmp_path / "untold")
    assert label not in restore_weights(tmp_path / "untold", 1).params


def test_the_numbers_of_the_augmentation_reach_the_network_in_training_alone():
    config = make_config(cond="none", data__augment__flip=True, data__augment__told=True)
    data = datasets.data(config)
    batch = next(trainer._train_batches(config, data, 0))
    assert batch.augment.shape == (8, 6) and set(np.unique(batch.augment[:, 0])) == {0, 1}
    assert next(trainer._valid_batches(config, data)).augment is None
    network = Network(
        lambda params, condition: condition.augment,
        lambda params, x, t, numbers, key: 100 * numbers[:, 0, None, None, None] * jnp.ones_like(x),
    )
    model = build.Architecture(
        build.Parts(network, network, None), lambda mask, label: Condition(), jnp.float32
    )
    keys = jax.random.split(jax.random.key(0), 8)
    losses = build.loss(config, model)({}, batch, keys, None)
    np.testing.assert_array_equal(np.asarray(losses) > 1000, batch.augment[:, 0] == 1)
