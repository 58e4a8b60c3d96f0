"""The README's examples run, on a tiny run of simulated scans."""

import re
from pathlib import Path

import numpy as np
import pytest

import motfm_jax as motfm

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", (Path(__file__).parents[1] / "README.md").read_text(), re.M | re.S
)


@pytest.mark.nightly
def test_the_readmes_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = {"train.steps": 2, "data.phantom_patients": 80}
    config = motfm.config("phantom", size="debug", cond="mask+class", **fields)
    motfm.train(config, "runs/camus", progress=False)
    use, own_data = EXAMPLES
    names = {}
    exec(use, names)
    assert names["made"].images.shape == (16, 32, 32, 1)
    assert (names["made"].calls == 10).all()
    assert (tmp_path / "samples/samples.json").exists()

    assert 'size="small"' in own_data and '"train.steps": 2000' in own_data
    own_data = own_data.replace('size="small"', 'size="debug"').replace("2000", "2")
    rng = np.random.default_rng(0)
    names |= {"x": rng.random((16, 64, 64)), "y": rng.integers(0, 2, 16)}
    names |= {"x_valid": rng.random((8, 64, 64)), "y_valid": rng.integers(0, 2, 8)}
    exec(own_data, names)
    assert names["model"].facts.classes == ("benign", "malignant")
