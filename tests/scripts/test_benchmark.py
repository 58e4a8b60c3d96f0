"""scripts/benchmark.py: what it chooses to time, its ratios, and one whole call."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cases(script, *arguments):
    return list(script.chosen(script.flags(["--out=x", *arguments])))


def test_quick_times_five_cases(script):
    assert [case.name for case in cases(script, "--quick")] == [
        "unconditional forward 128^2 batch 1", "unconditional train 128^2 batch 1",
        "unconditional sample 128^2 batch 1", "mask_class forward 128^2 batch 1",
        "mask_class sample 128^2 batch 1"]


def test_everything_is_timed_but_what_takes_too_long_on_a_cpu(script):
    made = set(cases(script, "--batch", "1", "2"))
    assert script.Case("unconditional", "forward", 384, 2) in made
    assert script.Case("unconditional_3d", "train", 64, 1) in made
    if script.jax.devices()[0].platform == "cpu":
        assert script.Case("unconditional", "train", 384, 1) not in made
        assert script.Case("unconditional_3d", "train", 96, 1) not in made
    assert {case.work for case in cases(script, "--cases=sample")} == {"sample"}
    with pytest.raises(ValueError, match="--cases=backward: use forward, train, sample"):
        cases(script, "--cases=backward")


def test_the_ratio_is_that_to_the_fastest_other_with_its_interval(script):
    random = np.random.default_rng(0)
    seconds = {
        "ours": list(1.0 + 0.01 * random.standard_normal(15)),
        "slow": list(4.0 + 0.01 * random.standard_normal(15)),
        "fast": list(2.0 + 0.01 * random.standard_normal(15))}
    made = script.ratio(seconds)
    assert made["fastest"] == "fast"
    assert made["low"] < made["ratio"] < made["high"] and made["ratio"] == pytest.approx(0.5, 0.02)
    assert script.ratio({"ours": [1.0, 2.0]}) == {}


def test_slow_calls_are_measured_less_often(script, monkeypatch):
    monkeypatch.setattr(script, "SLOW_SECONDS", -1.0)
    calls = []
    with script.tqdm(disable=True) as bar:
        seconds = script.measure({"ours": lambda: calls.append(1)}, 15, bar)
    assert len(seconds["ours"]) == script.FEW_PAIRS and len(calls) == script.FEW_PAIRS + 2


@pytest.mark.slow
def test_a_whole_call_writes_its_tables(script, tmp_path):
    script.main([
        "--without-torch", "--networks=unconditional", "--cases=forward,sample", "--sizes=16",
        "--calls=2", "--pairs=2", f"--out={tmp_path}"])
    report = json.loads((tmp_path / "benchmark.json").read_text())
    forward, sample = report["rows"]
    assert len(forward["seconds"]["ours"]) == 2 and "ratio" not in forward
    # The network's work, and twice that: the loop's own is nothing beside it.
    assert 1.9 < sample["flop"] / forward["flop"] < 2.2
    assert "unconditional sample 16^2" in (tmp_path / "benchmark.md").read_text()
