"""motfm plan: what it prints, and that its plan is the training's own."""

import re

import pytest
from tiny import FACTS, ONE_LEVEL, make_config

from motfm_jax.commands import plan
from motfm_jax.trainer import train
from motfm_jax.training.memory import needs


def test_the_plan_is_that_of_the_training(tmp_path, caplog):
    caplog.set_level("INFO")
    fields = dict(train__steps=1, train__batch_size=4, train__accumulation=2)
    config = make_config(cond="none", **fields, **ONE_LEVEL)
    train(config, tmp_path / "run")
    assert f"needs {needs(plan.update(config, FACTS, 'none'))};" in caplog.text


def test_a_gpu_that_is_not_at_hand_is_looked_up(capsys):
    plan.main(["--gpu=80GB"])
    large = [int(count) for count in re.findall(r"(\d+) images fit", capsys.readouterr().out)]
    plan.main(["--gpu=24GB"])
    small = [int(count) for count in re.findall(r"(\d+) images fit", capsys.readouterr().out)]
    assert len(large) == len(small) > 0 and all(a > b > 0 for a, b in zip(large, small))


@pytest.mark.parametrize(
    "arguments, message",
    [(["--gpu=24"], "--gpu=24: a memory such as 24GB"), (["--gpu=24GB", "--channels=1"], "alone")],
)
def test_a_gpu_is_given_by_its_memory(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan.main(arguments)


@pytest.mark.nightly
def test_a_plan_says_what_each_choice_needs(capsys):
    plan.main(["--config=phantom:cond=mask+class,size=debug"])
    printed = capsys.readouterr().out
    lines = re.findall(r"update, model\.remat=(\w+) +[\d.]+ GB, \d+ images would fit", printed)
    assert lines == ["none", "norms", "blocks"]
    assert re.search(r"sampling, the same batch +[\d.]+ GB", printed)
