"""Trained runs read back."""

import json
import shutil

import pytest
from tiny import FACTS, INTENSITY, ONE_LEVEL, make_config, save_run

from motfm_jax import runs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("saved"), make_config(**ONE_LEVEL))


def rewritten(saved, folder, **parts):
    """A copy of a run with another config or other facts, without digests of the old."""
    run = shutil.copytree(saved, folder / "run")
    shutil.rmtree(run / "checkpoints" / "7" / "sums")
    for name, value in parts.items():
        (run / "checkpoints" / "7" / name / "metadata").write_text(json.dumps(value))
    return run


@pytest.mark.slow
def test_a_run_comes_back_with_its_average_config_facts_and_network(saved):
    model = runs.load_run(saved)
    assert model.step == 7
    assert model.config.to_dict() == make_config(**ONE_LEVEL).to_dict()
    assert json.dumps(model.facts.to_json()) == json.dumps(FACTS.to_json())
    assert model.intensity == INTENSITY
    again = runs.load_run(saved, "7")
    assert again.checkpoint_hash == model.checkpoint_hash
    assert again.params.keys() == model.params.keys()


def test_a_runs_cache_folder_is_used_if_this_machine_has_it(saved, tmp_path):
    cache = tmp_path / "cache"
    config = make_config(**ONE_LEVEL, data__cache=str(cache))
    run = rewritten(saved, tmp_path, config=config.to_dict())
    assert runs.load_run(run).config.data.cache == ""
    cache.mkdir()
    assert runs.load_run(run).config.data.cache == str(cache)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model__norm_groups=2, model__channels=(10,), model__head_dim=0), r"is \(.*needs \("),
        (dict(cond="class"), "controlnet/.* extra"),
        (dict(model__transformer_layers=2), "transformer_blocks/1/.* missing"),
    ],
)
def test_a_run_of_another_architecture_is_refused_naming_parameters(
    saved, tmp_path, changes, message
):
    config = make_config(**ONE_LEVEL | changes)
    run = rewritten(saved, tmp_path, config=config.to_dict())
    with pytest.raises(ValueError, match=f"another architecture.*{message}") as error:
        runs.load_run(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path, value",
    [("colour", "red"), ("model.channels", ()), ("model.res_blocks", 10**7), ("method", "x")],
)
def test_a_run_whose_config_cannot_work_is_refused(saved, tmp_path, path, value):
    config = make_config(**ONE_LEVEL).to_dict()
    section, _, name = path.rpartition(".")
    (config[section] if section else config)[name] = value
    run = rewritten(saved, tmp_path, config=config)
    with pytest.raises(ValueError, match=rf"/7: its config cannot be used \(config\.{path}[=:]"):
        runs.load_run(run)


def test_a_run_of_the_first_version_is_read(saved, tmp_path):
    run = rewritten(saved, tmp_path, facts=FACTS.to_json() | {"unknown": []})
    assert json.dumps(runs.load_run(run).facts.to_json()) == json.dumps(FACTS.to_json())


def test_facts_of_another_program_are_refused(saved, tmp_path):
    run = rewritten(saved, tmp_path, facts={"colour": "red"})
    with pytest.raises(ValueError, match="/7: its facts cannot be used"):
        runs.load_run(run)


def test_there_is_nothing_to_load(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoints/"):
        runs.load_run(tmp_path)
