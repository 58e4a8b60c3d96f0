"""Long arrays hold what the parameters by name hold, for networks, optimisers and checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_layers import batch_at, loss_fn

from motfm_jax.methods import adversarial
from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.state import by_name, init_state, pack, restored
from motfm_jax.training.step import averaging, make_train_step

SHAPES = {
    "unet/b/kernel": (3, 3, 1, 4),
    "unet/a/bias": (4,),
    "controlnet/kernel": (3, 3, 4, 1),
    "unet/c/scale": (2,),
    "controlnet/bias": (1,),
}


def params(seed=0):
    random = np.random.default_rng(seed)
    return {name: 0.3 * random.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def loss(named, batch, keys, dropout_key):
    own = {
        "in/kernel": named["unet/b/kernel"],
        "in/bias": named["unet/a/bias"][None, None, None],
        "out/kernel": named["controlnet/kernel"] * named["unet/c/scale"].sum(),
    }
    return loss_fn(own, batch, keys, dropout_key) + named["controlnet/bias"][0] ** 2


def test_packs_kernels_and_vectors_of_each_part_and_back():
    packed = pack(params())
    assert {key: leaf.shape for key, leaf in packed.groups.items()} == {
        "unet/kernels": (36, 1),
        "unet/vectors": (6,),
        "controlnet/kernels": (36, 1),
        "controlnet/vectors": (1,),
    }
    back = packed.named()
    assert list(back) == sorted(SHAPES)
    jax.tree.map(np.testing.assert_array_equal, back, params())
    assert np.shares_memory(back["unet/a/bias"], packed.groups["unet/vectors"])


def test_gradients_of_long_arrays_are_those_by_name():
    named = jax.tree.map(jnp.asarray, params())

    def weigh(named):
        return sum(jnp.sum(jnp.sin(leaf) * number) for number, leaf in enumerate(named.values()))

    packed = jax.grad(lambda packed: weigh(packed.named()))(pack(named))
    expected = jax.grad(weigh)({name: named[name] for name in sorted(named)})
    jax.tree.map(np.testing.assert_array_equal, packed.named(), expected)


OPTIMIZERS = {
    "adam": make_optimizer("adam", make_schedule(1e-2), clip=0.5),
    "adamw": make_optimizer("adamw", make_schedule(1e-2), weight_decay=0.1),
    "frozen": make_optimizer("adam", make_schedule(1e-2), frozen="unet/"),
    "adversarial": adversarial.optimizer(make_schedule(1e-2), 4.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_changes_long_arrays_as_it_does_those_by_name(name):
    optimizer = OPTIMIZERS[name]
    named = jax.tree.map(jnp.asarray, params())
    gradients = jax.tree.map(jnp.asarray, params(seed=1))
    state = optimizer.init(named)
    updates, state = optimizer.update(gradients, state, named)
    packed_state = optimizer.init(pack(named))
    packed, packed_state = optimizer.update(pack(gradients), packed_state, pack(named))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, packed.named(), updates)
    jax.tree.map(close, by_name(packed_state), state)


def test_a_saved_state_is_restored_exactly():
    optimizer = OPTIMIZERS["frozen"]
    state = init_state(jax.tree.map(jnp.asarray, params()), optimizer, 0.9)
    state, _ = jax.jit(make_train_step(loss, optimizer, averaging(0.9)))(
        state, batch_at(0), jax.random.key(1)
    )
    named = by_name(jax.device_get(state))
    assert named.params.keys() == named.ema.keys() == SHAPES.keys()
    back = restored(named, jax.eval_shape(lambda: state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert (np.asarray(named.params["unet/a/bias"]) == params()["unet/a/bias"]).all()
    assert (np.asarray(named.params["controlnet/bias"]) != params()["controlnet/bias"]).all()
