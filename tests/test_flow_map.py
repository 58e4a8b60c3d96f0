"""Runs of flow maps: begun from a flow, resumed, sampled in any number of calls, exported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SIZES, make_config

import motfm_jax as motfm
from motfm_jax import runs
from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.settings import CONDITIONS, check
from motfm_jax.trainer import train


def tiny(method, folder, dims=2, cond="mask+class", **fields):
    """A run of seconds: one block at one level of 8 channels, a batch of 4."""
    teacher = {"train__teacher": str(folder / "flow")} if method == "flow_map" else {}
    return make_config(
        dims,
        cond=cond,
        method=method,
        **{
            "data__phantom_patients": 10,
            "model__channels": (8,),
            "model__attention": (True,),
            "model__res_blocks": 1,
            "model__transformer_layers": 1,
            "train__batch_size": 4,
            "train__steps": 2,
            "train__log_every": 1,
            "train__eval_every": 2,
            "train__save_every": 2,
            "train__sample_every": 100,
            **teacher,
            **fields,
        },
    )


CASES = [
    pytest.param(dims, cond, source, marks=[] if (dims, cond) == (2, "mask+class") else [nightly])
    for nightly in [pytest.mark.nightly]
    for dims in (2, 3)
    for cond in CONDITIONS
    for source in (("noise", "speckle") if (dims, cond) == (2, "mask") else ("noise",))
]


@pytest.mark.slow
@pytest.mark.parametrize("dims, cond, source", CASES)
def test_a_map_begins_as_its_flow_resumes_exactly_and_samples(tmp_path, dims, cond, source):
    fields = {"dims": dims, "cond": cond, "flow__source": source}
    train(tiny("flow", tmp_path, **fields), tmp_path / "flow")
    flow = runs.load_run(tmp_path / "flow")
    train(tiny("flow_map", tmp_path, **fields), tmp_path / "parts")
    train(tiny("flow_map", tmp_path, **fields, train__steps=4), tmp_path / "whole")
    (tmp_path / "flow").rename(tmp_path / "moved")  # a run that has begun needs it no more
    train(tiny("flow_map", tmp_path, **fields, train__steps=4), tmp_path / "parts", resume=True)
    whole, parts = (restore_weights(tmp_path / name, 4).params for name in ("whole", "parts"))
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)
    for name, value in flow.params.items():
        np.testing.assert_array_equal(whole[f"teacher/{name}"], value, err_msg=name)
    model = motfm.load(tmp_path / "whole")
    assert model.params.keys() == flow.params.keys()
    assert any((model.params[name] != value).any() for name, value in flow.params.items())
    one, three = model.sample(2), model.sample(2, steps=3)
    assert one.images.shape == (2, *SIZES[dims], 1)
    assert one.calls.tolist() == [1, 1] and three.calls.tolist() == [3, 3]
    assert model.sample(2, solver="heun", steps=2).calls.tolist() == [4, 4]


@pytest.mark.slow
def test_with_the_same_time_twice_it_is_the_velocity_bit_for_bit(tmp_path):
    config = tiny("flow", tmp_path)
    train(config, tmp_path / "flow")
    model = runs.load_run(tmp_path / "flow")
    rng = np.random.default_rng(0)
    params = {name: 0.2 * rng.normal(size=leaf.shape) for name, leaf in model.params.items()}
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    x, t = jnp.asarray(rng.normal(size=(3, *model.shape)), jnp.float32), jnp.array([0, 0.3, 1])
    mask, label = np.ones((3, *model.facts.size), np.uint8), np.arange(3)
    context = model.network.encode(params, model.condition(mask, label))
    velocity, same, jump = (
        jax.jit(lambda s: model.network.apply(params, x, t, context, None, s))(s)
        for s in (None, t, jnp.ones(3))
    )
    np.testing.assert_array_equal(same, velocity)
    differs = np.abs(jump - velocity).max(axis=(1, 2, 3)) > 1e-4
    assert differs.tolist() == [True, True, False]


def test_what_a_map_starts_from_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"config.train.teacher is empty"):
        check(tiny("flow_map", tmp_path, train__teacher=""))
    with pytest.raises(ValueError, match=r"config.train.init_from='runs/x'.*leave it empty"):
        check(tiny("flow_map", tmp_path, train__init_from="runs/x"))
    with pytest.raises(ValueError, match=r"config.train.teacher='runs/x'.*learns from data alone"):
        check(tiny("flow", tmp_path, train__teacher="runs/x"))


@pytest.mark.slow
def test_a_flow_of_another_network_or_kind_is_refused(tmp_path):
    train(tiny("flow", tmp_path, cond="class"), tmp_path / "flow")
    for fields, fault in (
        ({"cond": "mask+class"}, "its cond is class, mask.class needed"),
        ({"cond": "class", "model__norm_groups": 8}, "its model.norm_groups is 4, 8 needed"),
    ):
        with pytest.raises(ValueError, match=f"config.train.teacher=.*: {fault}"):
            train(tiny("flow_map", tmp_path, **fields), tmp_path / "map")
    dropping = tiny("flow_map", tmp_path, cond="class", train__drop_condition=0.1)
    with pytest.raises(ValueError, match="the teacher was never trained without its condition"):
        train(dropping, tmp_path / "map")
    train(tiny("flow_map", tmp_path, cond="class"), tmp_path / "map")
    again = tiny("flow_map", tmp_path, cond="class", train__teacher=str(tmp_path / "map"))
    with pytest.raises(ValueError, match="its method is flow_map, flow needed"):
        train(again, tmp_path / "other")


@pytest.mark.slow
def test_an_exported_map_makes_the_same_image(tmp_path):
    train(tiny("flow", tmp_path, cond="none"), tmp_path / "flow")
    train(tiny("flow_map", tmp_path, cond="none"), tmp_path / "map")
    model = motfm.load(tmp_path / "map")
    about = motfm.export(model, tmp_path / "exported")
    assert about["calls"] == about["steps"] == 1 and about["solver"] == "jump"
    program = jax.export.deserialize((tmp_path / "exported/sampler.jax_export").read_bytes())
    weights = dict(np.load(tmp_path / "exported/weights.npz"))
    noise = np.random.default_rng(0).normal(size=(2, *model.shape)).astype(np.float32)
    expected = model.sample(2, noise=noise).images
    np.testing.assert_allclose(
        program.call(weights, noise, None, None), expected, rtol=1e-4, atol=1e-3
    )
