"""scripts/benchmark.py: what it chooses to time, its ratios, and one whole call."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from motfm_jax.benchmark import ours as program
from motfm_jax.benchmark import timing
from motfm_jax.benchmark.cases import Case, draw
from motfm_jax.benchmark.feed import feed
from motfm_jax.training import memory

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "benchmark.py"


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
        "unconditional forward 128^2 batch 1",
        "unconditional train 128^2 batch 1",
        "unconditional sample 128^2 batch 1",
        "mask_class forward 128^2 batch 1",
        "mask_class sample 128^2 batch 1",
    ]


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


@pytest.mark.parametrize("batch", ["0", "many", "-1"])
def test_batches_are_numbers_or_the_largest(script, batch):
    with pytest.raises(ValueError, match='numbers from 1, or "largest"'):
        script.flags(["--out=x", f"--batch={batch}"])


def test_the_ratio_is_that_to_the_fastest_other_with_its_interval(script):
    random = np.random.default_rng(0)
    seconds = {
        "ours": list(1.0 + 0.01 * random.standard_normal(15)),
        "slow": list(4.0 + 0.01 * random.standard_normal(15)),
        "fast": list(2.0 + 0.01 * random.standard_normal(15)),
    }
    made = script.ratio(seconds)
    assert made["fastest"] == "fast"
    assert made["low"] < made["ratio"] < made["high"] and made["ratio"] == pytest.approx(0.5, 0.02)
    assert script.ratio({"ours": [1.0, 2.0]}) == {}


def test_slow_calls_are_measured_less_often(script, monkeypatch):
    monkeypatch.setattr(timing, "SLOW_SECONDS", -1.0)
    calls = []
    with script.tqdm(disable=True) as bar:
        seconds = timing.measure({"ours": lambda: calls.append(1)}, 15, bar)
    assert len(seconds["ours"]) == timing.FEW_PAIRS and len(calls) == timing.FEW_PAIRS + 2


@pytest.mark.slow
def test_the_largest_batch_is_a_power_of_two_whose_memory_grows_with_it(monkeypatch):
    case = Case("unconditional", "forward", 16, 1)
    found = []
    for limit in (210 << 20, 300 << 20):
        monkeypatch.setattr(memory, "limit", lambda limit=limit: limit)
        found.append(program.largest_batch(case, 1, ROOT))
    assert all(batch & (batch - 1) == 0 for batch in found)
    assert 1 <= found[0] < found[1]
    monkeypatch.setattr(memory, "limit", lambda: 1 << 20)
    with pytest.raises(ValueError, match=r"needs 0\.17 GB of the device's 0\.001 GB"):
        program.largest_batch(case, 1, ROOT)


@pytest.mark.slow
def test_networks_of_ours_alone_can_be_timed():
    for network, side in (("paper_mask_class", 32), ("paper_3d", 16)):
        case = Case(network, "forward", side, 2)
        made = program.program(case, draw(case), 1, ROOT)
        shape = jax.eval_shape(made.function, *made.arguments).shape
        assert shape == (2, *(side,) * case.dims, 1)


def test_the_data_path_is_timed_as_training_uses_it(tmp_path):
    made = feed(2, 32, tmp_path, seconds=0.1)
    assert made["data"] == "32^2" and made["examples_per_second"] > made["batch"]


@pytest.mark.slow
def test_a_whole_call_writes_its_tables(script, tmp_path):
    script.main(
        [
            "--without-torch",
            "--networks=unconditional",
            "--cases=forward,sample",
            "--sizes=16",
            "--calls=2",
            "--pairs=2",
            f"--out={tmp_path}",
        ]
    )
    report = json.loads((tmp_path / "benchmark.json").read_text())
    forward, sample = report["rows"]
    assert len(forward["seconds"]["ours"]) == 2 and "ratio" not in forward
    # The network's work, and twice that: the loop's own is nothing beside it.
    assert 1.9 < sample["flop"] / forward["flop"] < 2.2
    assert 0 < forward["warm_s"] < forward["trace_s"] + forward["compile_s"]
    text = (tmp_path / "benchmark.md").read_text()
    assert "unconditional sample 16^2" in text and "examples a second at 96^3" in text
