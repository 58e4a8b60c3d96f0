import numpy as np
import pytest

from motfm_jax.metrics import manifold as module
from motfm_jax.metrics.manifold import Manifold, manifold


@pytest.mark.parametrize("rows", [1024, 7], ids=["one block", "many blocks"])
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("num", [60, 25])
def test_agrees_with_prdc(golden, monkeypatch, num, k, rows):
    monkeypatch.setattr(module, "ROWS", rows)
    features = golden("features")
    found = manifold(features["generated"][:num], features["real"], k)
    for name in Manifold._fields:
        expected = golden("manifolds")[f"{name}_of_{num}_k{k}_prdc"]
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, err_msg=name)


def test_one_mode_of_two_is_precise_and_recalls_half():
    random = np.random.default_rng(0)
    near = random.normal(size=(200, 3))
    real = np.concatenate([near, random.normal(size=(200, 3)) + 100])
    found = manifold(random.normal(size=(200, 3)), real)
    assert found.precision > 0.9 and found.density > 0.8
    assert 0.4 < found.recall < 0.5 and 0.4 < found.coverage <= 0.5
    apart = manifold(near + 1000, real)
    assert apart == Manifold(0, 0, 0, 0)


def test_what_has_no_neighbours_is_refused():
    rows = np.zeros((5, 2))
    with pytest.raises(ValueError, match="needs at least 6 rows"):
        manifold(rows, rows)
    with pytest.raises(ValueError, match="k=0: at least 1"):
        manifold(rows, rows, k=0)
