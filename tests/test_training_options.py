"""Options of training and sampling a flow, in whole networks and whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FACTS, ONE_LEVEL, make_config, save_run

import motfm_jax as motfm
from motfm_jax import build
from motfm_jax.interop import exchange


def test_the_output_of_a_network_that_predicts_images_is_turned_into_a_velocity():
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)
    t = jnp.array([0.5, 0.99])
    condition = (None, np.array([0, 2]))
    outputs = []
    for prediction in ("velocity", "image"):
        config = make_config(cond="class", flow__prediction=prediction, **ONE_LEVEL)
        built = build.architecture(config, FACTS)
        shapes = jax.eval_shape(built.init, jax.random.key(0))
        params = {name: jnp.full(leaf.shape, 0.05) for name, leaf in shapes.items()}
        context = built.network.encode(params, built.condition(*condition))
        outputs.append(built.network.apply(params, x, t, context, None))
    output, velocity = outputs
    left = np.array([0.5, 0.05])[:, None, None, None]
    assert np.abs(output).max() > 0.01
    np.testing.assert_allclose(velocity, (output - x) / left, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_network_that_predicts_images_is_not_given_to_the_original(tmp_path):
    run = save_run(tmp_path / "run", make_config(flow__prediction="image", **ONE_LEVEL))
    x = np.ones((1, 16, 16, 1), np.float32)
    mask, label = np.zeros((1, 16, 16), np.uint8), np.zeros(1, np.int32)
    velocity = motfm.load(run).velocity(x, np.zeros(1), mask, label)
    assert velocity.shape == x.shape
    with pytest.raises(ValueError, match=r"flow\.prediction='image'; the original would"):
        exchange.to_torch(run, tmp_path / "weights.pt")
