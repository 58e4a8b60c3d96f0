"""Runs from the original's checkpoints: what they know, how they sample and train on."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from motfm_jax import build, runs, settings, trainer
from motfm_jax.data.convert import to_pickle
from motfm_jax.data.facts import Facts
from motfm_jax.data.phantom import PhantomEcho
from motfm_jax.interop import original
from motfm_jax.interop.exchange import from_torch, to_torch
from motfm_jax.interop.torch_weights import to_torch as original_state
from motfm_jax.interop.torch_weights import write_torch_weights
from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.io.run_folder import is_untrained

SIZE = (16, 16)
YAML = {
    "model_args": {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1,
        "num_res_blocks": 1,
        "num_channels": [8, 8],
        "attention_levels": [False, True],
        "norm_num_groups": 4,
        "resblock_updown": True,
        "num_head_channels": [8, 8],
        "transformer_num_layers": 1,
        "with_conditioning": True,
        "mask_conditioning": True,
        "cross_attention_dim": 4,
        "conditioning_embedding_num_channels": [4],
    },
    "data_args": {"pickle_path": "elsewhere.pkl", "split_train": "train", "split_val": "valid"},
    "train_args": {"num_epochs": 1, "batch_size": 2, "gradient_accumulation_steps": 2, "lr": 1e-3},
}


@pytest.fixture(scope="module")
def params():
    """Weights none of which is zero."""
    config = original.translate(YAML, "test").config
    facts = Facts(SIZE, 1, tuple("0123"), (), None)
    shapes = jax.eval_shape(build.architecture(config, facts).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return {
        name: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)
        for name, leaf in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, params):
    """weights.safetensors, original.yaml and dataset.pkl."""
    folder = tmp_path_factory.mktemp("original")
    write_torch_weights(folder / "weights.safetensors", original_state(params))
    (folder / "original.yaml").write_text(yaml.safe_dump(YAML))
    to_pickle(lambda split: PhantomEcho(split, SIZE, 10, "view_phase", 0), folder / "dataset.pkl")
    return folder


def converted(folder, out, **options):
    return from_torch(folder / "weights.safetensors", out, folder / "original.yaml", **options)


@pytest.fixture(scope="module")
def with_data(folder):
    return converted(folder, folder / "with_data", data=folder / "dataset.pkl")


@pytest.fixture(scope="module")
def without_data(folder):
    return converted(folder, folder / "without_data", size=SIZE)


@pytest.mark.slow
def test_with_its_data_a_run_knows_everything(folder, params, with_data):
    facts = with_data.model.facts
    assert facts.size == SIZE and len(facts.mask_labels) == 4
    assert facts.classes == ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
    assert with_data.model.intensity.mode == "minmax" and with_data.model.step == 0
    assert with_data.model.config.model.time == "floor"
    for name, values in params.items():
        np.testing.assert_array_equal(with_data.model.params[name], values, err_msg=name)
    record = json.loads((folder / "with_data/converted.json").read_text())
    assert record["from"].endswith("weights.safetensors") and len(record["blake2b"]) == 40


def test_without_data_names_are_numbered_and_intensities_untouched(without_data):
    facts = without_data.model.facts
    assert facts.size == SIZE and without_data.model.intensity.mode == "none"
    assert facts.classes == tuple("0123") and facts.mask_labels == ("background", "label 1")


@pytest.mark.nightly
def test_training_continues_from_the_weights_with_a_fresh_optimiser(
    folder, params, without_data, tmp_path
):
    run = shutil.copytree(folder / "without_data", tmp_path / "run")
    assert is_untrained(run)
    config = saved_config(run)
    config.data.root = str(folder / "dataset.pkl")
    config.train.update(dict(steps=1, lr=1e-6, ema=0.5, batch_size=4, eval_every=1, save_every=1))
    trainer.train(config, run, resume=True)
    weights = restore_weights(run)
    assert weights.step == 1 and not is_untrained(run)
    assert weights.facts["intensity"]["mode"] == "minmax"
    assert weights.facts["classes"][0] == "2CH_ED"
    for name, values in params.items():  # one update of Adam moves each by the learning rate
        np.testing.assert_allclose(weights.params[name], values, atol=1.1e-6, err_msg=name)
    config.train.lr = 1e-3  # from now on it resumes like any other run
    with pytest.raises(ValueError, match=r"train\.lr was"):
        trainer.train(config, run, resume=True)


def saved_config(run):
    return settings.from_json(json.loads((run / "config.json").read_text()))


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_data_than_the_network_takes_is_refused_and_changes_nothing(
    folder, without_data, tmp_path
):
    run, other = folder / "without_data", tmp_path / "other.pkl"
    to_pickle(lambda split: PhantomEcho(split, SIZE, 10, "view", 0), other)
    config, before = saved_config(run), tree(run)
    config.data.root = str(other)
    with pytest.raises(ValueError, match="the network has 4 classes, the data 2"):
        trainer.train(config, run, resume=True)
    assert tree(run) == before


def refused(message, *arguments, **options):
    with pytest.raises(ValueError, match=message):
        from_torch(*arguments, **options)


def test_what_does_not_fit_is_named_and_leaves_no_run(folder, params, with_data, tmp_path):
    out, weights, yaml_file = tmp_path / "run", "weights.safetensors", folder / "original.yaml"
    broken = original_state(params)
    broken["unet.surplus.weight"] = np.zeros(3, np.float32)
    write_torch_weights(tmp_path / weights, broken)
    refused("unet.surplus.weight extra", tmp_path / weights, out, yaml_file, size=SIZE)
    broken = original_state(params)
    broken["unet.conv_in.conv.bias"][0] = np.nan
    write_torch_weights(tmp_path / weights, broken)
    refused("NaN or infinite .*conv_in.conv.bias", tmp_path / weights, out, yaml_file, size=SIZE)
    refused("holds no config.*--config", folder / weights, out)
    refused("does not hold the size.*--data.*--size H W", folder / weights, out, yaml_file)
    refused("the network is 2-D", folder / weights, out, yaml_file, size=(16, 16, 16))
    refused("must be a multiple of 2", folder / weights, out, yaml_file, size=(15, 16))
    changed = {**YAML, "model_args": {**YAML["model_args"], "cross_attention_dim": 3}}
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(changed))
    data = folder / "dataset.pkl"
    three = tmp_path / "three.yaml"
    refused("4 classes .* the network has 3", folder / weights, out, three, data=data)
    assert not out.exists()
    refused("holds a run already", folder / weights, folder / "with_data", yaml_file, size=SIZE)


def test_there_and_back_is_bit_for_bit(folder, without_data, tmp_path):
    model, notes = to_torch(folder / "without_data", tmp_path / "back.safetensors")
    assert model.step == 0 and notes == []
    there, back = (
        load_file(path) for path in (folder / "weights.safetensors", tmp_path / "back.safetensors")
    )
    assert there.keys() == back.keys()
    for name in there:
        np.testing.assert_array_equal(there[name], back[name])
    with pytest.raises(ValueError, match="exists already"):
        to_torch(folder / "without_data", tmp_path / "back.safetensors")


def test_only_a_flow_from_noise_goes_back(folder, without_data, tmp_path, monkeypatch):
    model = without_data.model
    monkeypatch.setattr(runs, "load_run", lambda run, which: model)
    for path, value in (("flow.source", "speckle"), ("method", "ddpm")):
        config = model.config.copy_and_resolve_references()
        config.update_from_flattened_dict({path: value})
        model = dataclasses.replace(model, config=config)
        with pytest.raises(ValueError, match=f"config.{path}='{value}'; the original"):
            to_torch(folder, tmp_path / "back.safetensors")
