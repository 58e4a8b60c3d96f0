"""Long arrays hold what the parameters by name hold, for networks, optimisers and checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import batch_at, loss_fn

from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.packing import Packing
from motfm_jax.training.state import init_state
from motfm_jax.training.step import make_train_step

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
    packing, named = Packing(params()), params()
    packed = packing.pack(named)
    assert {key: leaf.shape for key, leaf in packed.items()} == {
        "unet/kernels": (36, 1),
        "unet/vectors": (6,),
        "controlnet/kernels": (36, 1),
        "controlnet/vectors": (1,),
    }
    back = packing.unpack(packed)
    assert list(back) == sorted(SHAPES)
    jax.tree.map(np.testing.assert_array_equal, back, named)
    assert np.shares_memory(back["unet/a/bias"], packed["unet/vectors"])


def test_gradients_of_long_arrays_are_those_by_name():
    packing, named = Packing(params()), jax.tree.map(jnp.asarray, params())
    weigh = lambda named: sum(  # noqa: E731
        jnp.sum(jnp.sin(leaf) * number) for number, leaf in enumerate(named.values())
    )
    found = jax.grad(packing.taking(weigh))(packing.pack(named))
    wanted = packing.pack(jax.grad(weigh)({name: named[name] for name in sorted(named)}))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


RULES = [
    dict(name="adam", clip=0.5),
    dict(name="adamw", weight_decay=0.1),
    dict(name="adam", frozen="unet/"),
    dict(name="sgd"),
]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_trains_and_saves_as_by_name(rule, tmp_path):
    packing = Packing(params())
    optimizer = make_optimizer(learning_rate=make_schedule(1e-2), **rule)
    named = init_state(jax.tree.map(jnp.asarray, params()), optimizer, 0.9)
    packed = jax.jit(lambda: init_state(packing.pack(named.params), optimizer, 0.9))()
    steps = [
        jax.jit(make_train_step(function, optimizer, 0.9))
        for function in (loss, packing.taking(loss))
    ]
    for number in range(3):
        named, _ = steps[0](named, batch_at(number), jax.random.key(1))
        packed, _ = steps[1](packed, batch_at(number), jax.random.key(1))
    again = packing.by_name(packed)
    assert jax.tree.structure(again) == jax.tree.structure(named)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), again, named)

    save = Checkpoints(tmp_path, {}, {}, named=lambda s: packing.by_name(jax.device_get(s)))
    save.save(3, packed)
    save.wait()
    restored = packing.by_group(save.restore(jax.eval_shape(lambda: packing.by_name(packed))))
    save.close()
    jax.tree.map(np.testing.assert_array_equal, restored, jax.device_get(packed))


def test_a_change_by_name_is_one_of_long_arrays():
    packing, named = Packing(params()), params()
    changed = packing.within(lambda p: p | {"unet/a/bias": p["unet/a/bias"] + 1})(
        packing.pack(named)
    )
    expected = named | {"unet/a/bias": named["unet/a/bias"] + 1}
    jax.tree.map(np.testing.assert_array_equal, packing.unpack(changed), expected)
