"""The original's five networks at full width against PyTorch, computed side by side.

Needs JAX and PyTorch in one environment, 8 GB of memory and some minutes:

    python3.11 -m venv both
    both/bin/pip install -e ".[test,parity]"
    both/bin/python -m pytest -n 0 tests/parity/test_live.py
    both/bin/python tests/parity/differences.py --full

The CPU build of PyTorch does.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with PyTorch: install the extra `parity`")
pytest.importorskip("generative", reason="compares with MONAI generative: extra `parity`")

from differences import TOLERANCES, differences
from live import LIVE, live_case, live_model

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.mark.parametrize("name", LIVE)
def test_a_config_of_the_original_builds_a_network_of_as_many_parameters(name):
    wanted = jax.eval_shape(live_model(name).init, jax.random.key(0))
    assert sum(np.prod(leaf.shape) for leaf in wanted.values()) == LIVE[name].parameters


@pytest.mark.parametrize("name", LIVE)
def test_the_full_network_computes_and_learns_as_the_original_does(name):
    found = differences(live_case(name))
    wrong = {
        parameter: value
        for parameter, value in found.gradients.items()
        if not value <= TOLERANCES["gradient"]
    }
    assert not wrong
    assert found.velocity <= TOLERANCES["velocity"]
    assert found.trajectory <= TOLERANCES["trajectory"]
    assert found.loss <= TOLERANCES["loss"]
