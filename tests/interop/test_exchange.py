"""Runs from the original's checkpoints: what they know, how they sample and train on."""

import json

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from motfm_jax import build, runs
from motfm_jax.cli import _saved_config
from motfm_jax.data.convert import to_pickle
from motfm_jax.data.phantom import PhantomEcho
from motfm_jax.data.records import Facts
from motfm_jax.interop import original
from motfm_jax.interop.exchange import from_torch, to_torch
from motfm_jax.interop.torch_weights import to_torch as original_state
from motfm_jax.interop.torch_weights import write_torch_weights
from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.io.run_folder import is_untrained
from motfm_jax.settings import default
from motfm_jax.trainer import train

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


def converted(folder, out, **given):
    return from_torch(folder / "weights.safetensors", out, folder / "original.yaml", **given)


def test_with_its_data_a_run_knows_everything(folder, params, tmp_path):
    made = converted(folder, tmp_path / "run", data=folder / "dataset.pkl")
    facts = made.trained.facts
    assert facts.size == SIZE and facts.unknown == ()
    assert facts.classes == ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES") and len(facts.mask_labels) == 4
    assert made.trained.intensity.mode == "minmax" and made.trained.step == 0
    assert made.trained.config.model.time == "floor"
    for name, values in params.items():
        np.testing.assert_array_equal(made.trained.params[name], values, err_msg=name)
    record = json.loads((tmp_path / "run" / "converted.json").read_text())
    assert record["from"].endswith("weights.safetensors") and len(record["blake2b"]) == 40


@pytest.mark.slow
def test_without_data_it_says_what_it_does_not_know(folder, tmp_path):
    nothing = converted(folder, tmp_path / "nothing").trained
    assert nothing.facts.size == (0, 0) and nothing.intensity is None
    assert "size" in nothing.facts.unknown and nothing.facts.classes == ("0", "1", "2", "3")
    sized = converted(folder, tmp_path / "sized", size=SIZE).trained
    assert sized.facts.size == SIZE and "size" not in sized.facts.unknown


@pytest.mark.slow
@pytest.mark.parametrize("with_data", [True, False])
def test_training_goes_on_from_the_weights_with_a_fresh_optimiser(
    folder, params, tmp_path, capsys, with_data
):
    run = tmp_path / "run"
    converted(folder, run, data=folder / "dataset.pkl" if with_data else None)
    config = _saved_config(["--resume", f"--workdir={run}"])
    config.data.root = str(folder / "dataset.pkl")
    config.data.size = SIZE
    config.train.update(dict(steps=1, lr=1e-6, ema=0.5, batch_size=4, eval_every=1, save_every=1))
    assert train(config, run, resume=True).step == 1
    assert "fresh optimiser" in capsys.readouterr().out
    weights = restore_weights(run)
    assert weights.step == 1 and weights.facts["unknown"] == []
    for name, values in params.items():  # one update of Adam moves each by the learning rate
        np.testing.assert_allclose(weights.params[name], values, atol=1.1e-6, err_msg=name)
    assert runs.load_run(run).intensity is not None
    config.train.steps = 2
    assert train(config, run, resume=True).step == 2
    config.train.lr = 1e-3  # from now on it is a run like any other
    with pytest.raises(ValueError, match=r"train\.lr was"):
        train(config, run, resume=True)


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_data_than_the_network_takes_is_refused_and_changes_nothing(folder, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other.pkl"
    converted(folder, run)
    to_pickle(lambda split: PhantomEcho(split, SIZE, 10, "view", 0), other)
    config, before = _saved_config(["--resume", f"--workdir={run}"]), tree(run)
    config.data.root, config.data.size = str(other), SIZE
    with pytest.raises(ValueError, match="the network has 4 classes, the data 2"):
        train(config, run, resume=True)
    assert tree(run) == before


@pytest.mark.slow
def test_step_0_of_an_ordinary_run_is_not_taken_for_converted_weights(folder, tmp_path):
    run = tmp_path / "run"
    converted(folder, run)
    assert is_untrained(run)
    (run / "converted.json").unlink()
    assert not is_untrained(run)


def test_what_does_not_fit_is_named_and_leaves_no_run(folder, params, tmp_path):
    out = tmp_path / "run"
    broken = original_state(params)
    broken["unet.surplus.weight"] = np.zeros(3, np.float32)
    del broken["unet.conv_in.conv.bias"]
    write_torch_weights(tmp_path / "broken.safetensors", broken)
    with pytest.raises(ValueError, match=r"unet.conv_in.conv.bias missing.*unet.surplus.weight"):
        from_torch(tmp_path / "broken.safetensors", out, folder / "original.yaml")
    nan = original_state(params)
    nan["unet.conv_in.conv.bias"][0] = np.nan
    write_torch_weights(tmp_path / "nan.safetensors", nan)
    with pytest.raises(ValueError, match=r"NaN or infinite values in unet.conv_in.conv.bias"):
        from_torch(tmp_path / "nan.safetensors", out, folder / "original.yaml")
    with pytest.raises(ValueError, match=r"holds no config.*--config"):
        from_torch(folder / "weights.safetensors", out)
    with pytest.raises(ValueError, match="--size 16 16 16: the network is 2-D"):
        converted(folder, out, size=(16, 16, 16))
    with pytest.raises(ValueError, match="must be a multiple of 2"):
        converted(folder, out, size=(15, 16))
    changed = {**YAML, "model_args": {**YAML["model_args"], "cross_attention_dim": 3}}
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(ValueError, match=r"4 classes .* the network has 3"):
        from_torch(
            folder / "weights.safetensors",
            out,
            tmp_path / "three.yaml",
            data=folder / "dataset.pkl",
        )
    assert not out.exists()


@pytest.mark.slow
def test_a_run_is_not_replaced_unless_asked(folder, tmp_path):
    run = tmp_path / "run"
    converted(folder, run)
    with pytest.raises(ValueError, match="holds a run already"):
        converted(folder, run)
    assert converted(folder, run, overwrite=True).trained.step == 0


def test_there_and_back_is_bit_for_bit(folder, tmp_path):
    converted(folder, tmp_path / "run")
    trained, notes = to_torch(tmp_path / "run", tmp_path / "back.safetensors")
    assert trained.step == 0 and notes == []
    there, back = (
        load_file(path) for path in (folder / "weights.safetensors", tmp_path / "back.safetensors")
    )
    assert there.keys() == back.keys()
    for name in there:
        np.testing.assert_array_equal(there[name], back[name])
    with pytest.raises(ValueError, match="exists already"):
        to_torch(tmp_path / "run", tmp_path / "back.safetensors")


def test_only_resume_of_a_run_that_is_there_does_without_a_config(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(default().to_dict()))
    assert _saved_config(["--resume", "--workdir", str(run)]).to_dict() == default().to_dict()
    assert _saved_config([f"--workdir={run}"]) is None
    assert _saved_config(["--resume=false", f"--workdir={run}"]) is None
    assert _saved_config(["--resume", f"--workdir={run}", "--config=configs/camus.py"]) is None
    assert _saved_config(["--resume", f"--workdir={tmp_path}"]) is None
    foreign = default()
    foreign.data.cache = str(tmp_path / "elsewhere")
    (run / "config.json").write_text(json.dumps(foreign.to_dict()))
    assert _saved_config(["--resume", f"--workdir={run}"]).data.cache == ""
    (run / "config.json").write_text('{"sed": 1}')
    with pytest.raises(ValueError, match=r"config.json: cannot be used .*did you mean seed"):
        _saved_config(["--resume", f"--workdir={run}"])
