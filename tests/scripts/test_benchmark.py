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


def test_the_flags_choose_the_cases(script):
    names = {case.name for case in script.chosen(script.flags(["--out=x", "--sizes=16,384"]))}
    assert "mask_class sample 384^2 batch 1" in names
    assert "unconditional_3d train 16^3 batch 1" in names
    if script.jax.devices()[0].platform == "cpu":
        assert "unconditional train 384^2 batch 1" not in names
    assert len(script.chosen(script.flags(["--out=x", "--quick"]))) == 5
    with pytest.raises(ValueError, match="--cases=backward: use forward, train, sample"):
        script.flags(["--out=x", "--cases=backward"])


def test_the_ratio_is_that_to_the_fastest_other_with_its_interval(script):
    random = np.random.default_rng(0)
    seconds = {
        name: list(mean + 0.01 * random.standard_normal(15))
        for name, mean in (("ours", 1.0), ("slow", 4.0), ("fast", 2.0))
    }
    result = script.ratio(seconds)
    assert result["fastest"] == "fast" and result["ratio"] == pytest.approx(0.5, 0.02)
    assert result["low"] < result["ratio"] < result["high"]
    assert script.ratio({"ours": [1.0, 2.0]}) == {}


@pytest.mark.nightly
def test_a_whole_call_writes_its_tables(script, tmp_path):
    sizes = ["--without-torch", "--networks=unconditional", "--sizes=16"]
    script.main([*sizes, "--cases=forward,sample", "--calls=2", "--pairs=2", f"--out={tmp_path}"])
    report = json.loads((tmp_path / "benchmark.json").read_text())
    forward, sample = report["rows"]
    assert len(forward["seconds"]["ours"]) == 2 and "ratio" not in forward
    # The network's work, and twice that: the loop itself adds almost nothing.
    assert 1.9 < sample["flop"] / forward["flop"] < 2.2
    assert 0 < forward["warm_s"] < forward["trace_s"] + forward["compile_s"]
    text = (tmp_path / "benchmark.md").read_text()
    assert "unconditional sample 16^2" in text and "examples a second at 96^3" in text
