"""motfm plan: what it prints, and that its plan is the training's own."""

import re

import pytest
from tiny import FACTS, ONE_LEVEL, make_config

from motfm_jax.commands import plan
from motfm_jax.trainer import train
from motfm_jax.training.memory import needs


def test_the_plan_is_that_of_the_training(tmp_path, caplog):
    caplog.set_level("INFO")
    config = make_config(cond="none", train__steps=1, train__batch_size=2, **ONE_LEVEL)
    train(config, tmp_path / "run")
    assert f"needs {needs(plan.update(config, FACTS, 'none', 2))};" in caplog.text


@pytest.mark.nightly
def test_a_plan_says_what_each_choice_needs(capsys):
    plan.main(["--config=phantom:cond=mask+class,size=debug"])
    printed = capsys.readouterr().out
    lines = re.findall(r"update, model\.remat=(\w+) +[\d.]+ GB, \d+ images would fit", printed)
    assert lines == ["none", "norms", "blocks"]
    assert re.search(r"sampling, the same batch +[\d.]+ GB", printed)
