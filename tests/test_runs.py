"""Trained runs read back, whole and as strangers may send them."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from debug_run import FACTS, INTENSITY, make_config

from motfm_jax import build, runs
from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.training.state import TrainState


def save_run(folder, config, params, facts=FACTS):
    """A run directory with one checkpoint, whose average is the parameters plus 1."""
    state = TrainState(
        step=np.int32(7),
        params=params,
        ema={name: leaf + 1 for name, leaf in params.items()},
        opt_state=(),
        halted=np.zeros((), bool),
    )
    checkpoints = Checkpoints(folder / "checkpoints", config.to_dict(), facts.to_json())
    checkpoints.save(7, state)
    checkpoints.close()
    return folder


def zeros_like_params(config):
    shapes = jax.eval_shape(build.model(config, FACTS).init, jax.random.key(0))
    return {name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    config = make_config()
    return save_run(tmp_path_factory.mktemp("saved"), config, zeros_like_params(config))


def retold(saved, folder, **said):
    """A copy of a run whose config or facts say something else, without digests of the old."""
    run = shutil.copytree(saved, folder / "run")
    shutil.rmtree(run / "checkpoints" / "7" / "sums")
    for name, value in said.items():
        (run / "checkpoints" / "7" / name / "metadata").write_text(json.dumps(value))
    return run


def test_a_run_comes_back_with_its_average_config_facts_and_network(tmp_path):
    config = make_config(train__lr=2e-3)
    params = zeros_like_params(config)
    trained = runs.load_run(save_run(tmp_path, config, params))
    assert trained.step == 7
    assert trained.config.to_dict() == config.to_dict()
    assert json.dumps(trained.facts.to_json()) == json.dumps(FACTS.to_json())
    assert trained.intensity == INTENSITY
    assert set(trained.params) == set(params)
    assert all((leaf == 1).all() for leaf in trained.params.values())
    assert trained.checkpoint_hash == runs.load_run(tmp_path, 7).checkpoint_hash
    assert trained.model.sites == build.model(config, FACTS).sites
    (site,) = runs.load_run(tmp_path, attention="xla").model.sites
    assert site.endswith("xla (requested)")


@pytest.mark.slow
def test_a_runs_cache_folder_is_used_if_this_machine_has_it(tmp_path):
    config = make_config()
    config.data.cache = str(tmp_path / "cache")
    run = save_run(tmp_path / "run", config, zeros_like_params(config))
    assert runs.load_run(run).config.data.cache == ""
    (tmp_path / "cache").mkdir()
    assert runs.load_run(run).config.data.cache == str(tmp_path / "cache")


@pytest.mark.slow
def test_a_run_of_another_architecture_is_refused_naming_parameters(tmp_path):
    config = make_config()
    others = {
        "shape": (make_config(model__channels=(8, 24)), r"is \(\d.*needs \(\d"),
        "missing": (make_config(cond="class"), "controlnet/.* missing"),
        "extra": (make_config(model__transformer_layers=2), "transformer_blocks/1/.* extra"),
    }
    for name, (other, message) in others.items():
        run = save_run(tmp_path / name, config, zeros_like_params(other))
        with pytest.raises(ValueError, match=f"another architecture.*{message}") as error:
            runs.load_run(run)
        assert "\n" not in str(error.value)


def test_a_run_saved_by_another_program_is_refused(tmp_path):
    class Saved:
        def to_dict(self):
            return {**make_config().to_dict(), "colour": "red"}

    run = save_run(tmp_path, Saved(), {"weight": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match=r"config\.colour: there is no such field"):
        runs.load_run(run)


@pytest.mark.parametrize(
    "change",
    [
        {"model.channels": ()},
        {"model.attention": ()},
        {"model.channels": (0, 0)},
        {"method": "x"},
        {"model.res_blocks": 10**7},
        {"train.dtype": "float128x"},
        {"model.norm_groups": 0},
        {"model.head_dim": -1},
    ],
)
def test_a_run_whose_config_cannot_work_is_refused(saved, tmp_path, change):
    config = make_config().to_dict()
    for name, value in change.items():
        room, name = name.split(".") if "." in name else ("", name)
        (config[room] if room else config)[name] = value
    run = retold(saved, tmp_path, config=config)
    name = next(iter(change))
    with pytest.raises(ValueError, match=rf"/7: its config cannot be used \(config\.{name}="):
        runs.load_run(run)


@pytest.mark.parametrize(
    "name, value",
    [
        ("size", (16,)),
        ("size", (16, -16)),
        ("size", (16, 16.5)),
        ("size", (0, 0)),
        ("size", (0, 16)),
        ("channels", 0),
        ("channels", "1"),
        ("classes", (1, 2)),
        ("mask_labels", ("background", None)),
        ("spacing_mm", (0.5, 0)),
        ("spacing_mm", (0.5, math.nan)),
        ("spacing_mm", (1, 1, 1)),
        ("spacing_mm", (1, 10**400)),
        ("classes", 4),
        ("affine", 3),
        ("affine", [[1, 0], [0, 1]]),
        ("affine", [["1"] * 4] * 4),
        ("source_intensity", {"mode": "minmax"}),
        ("source_intensity", [1]),
        *(
            ("intensity", INTENSITY.to_json() | change)
            for change in (
                {"low": -1e300},
                {"high": 10**400},
                {"mode": "log"},
                {"scope": "image"},
                {"low": None},
                {"low": 255.0},
                {"range": (1, 1)},
                {"range": (-1, 0, 1)},
                {"high": math.inf},
            )
        ),
    ],
)
def test_facts_that_cannot_be_are_refused(saved, tmp_path, name, value):
    facts = dataclasses.replace(FACTS, **{name: value})
    run = retold(saved, tmp_path, facts=facts.to_json())
    with pytest.raises(ValueError, match="/7: its facts are another program's"):
        runs.load_run(run)


@pytest.mark.parametrize("size", [(8, 8), (16, 16, 16), (2**31, 2**31)])
def test_a_config_and_facts_of_different_sizes_are_refused(saved, tmp_path, size):
    facts = dataclasses.replace(FACTS, size=size, spacing_mm=None)
    run = retold(saved, tmp_path, facts=facts.to_json())
    with pytest.raises(ValueError, match=r"/7: its config .*data\.size=\(16, 16\), its data had"):
        runs.load_run(run)


def test_there_is_nothing_to_load(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoints/"):
        runs.load_run(tmp_path)
