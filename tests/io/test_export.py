"""The exported folder: whole or absent, and the same images as the sampler it came from."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.core import Condition, Network, encode_mask, fold_keys, normal_per_example
from motfm_jax.io import export
from motfm_jax.methods import flow
from motfm_jax.methods.ode import Solver
from motfm_jax.settings import CONDITIONS

LABELS, CLASSES = ("background", "cavity", "myocardium"), ("2CH", "4CH")
SIZES = {2: (8, 6), 3: (4, 6, 2)}


def toy_facts(size):
    return dict(
        size=size,
        channels=1,
        classes=CLASSES,
        mask_labels=LABELS,
        intensity=dict(mode="minmax"),
        label_channels=0,
    )


def toy_network():
    """A velocity with a weight for each thing it sees, attention over pixels included."""

    def encode(params, condition):
        mask, label = condition.mask, condition.label
        return (
            None if mask is None else mask @ params["control/mask"],
            None if label is None else label @ params["unet/label"],
        )

    def apply(params, x, t, context, dropout_key):
        del dropout_key
        over_space = functools.partial(jnp.expand_dims, axis=tuple(range(1, x.ndim - 1)))
        tokens = x.reshape(x.shape[0], -1, 1, x.shape[-1])
        attended = jax.nn.dot_product_attention(tokens, tokens, tokens, implementation="xla")
        velocity = params["unet/x"] * attended.reshape(x.shape) - x * over_space(t[:, None])
        mask, label = context
        if mask is not None:
            velocity = velocity + mask
        return velocity if label is None else velocity + over_space(label)

    generator = np.random.default_rng(0)
    shapes = {"unet/x": (), "control/mask": (len(LABELS), 1), "unet/label": (len(CLASSES), 1)}
    params = {name: np.float32(generator.normal(size=s)) for name, s in shapes.items()}
    return Network(encode, apply), params


def toy_sampler(condition):
    """(sample_fn, params) of five Heun steps, in units where the network's [-1, 1] is [0, 255]."""
    network, params = toy_network()

    def sample_fn(params, x0, mask, label):
        given = Condition(
            encode_mask(mask, len(LABELS), "onehot") if "mask" in condition else None,
            jax.nn.one_hot(label, len(CLASSES)) if "class" in condition else None,
        )
        return (flow.sample(network, params, x0, given, Solver("heun", 5)).x + 1) * 127.5, None

    return sample_fn, params


def write(out, condition="mask+class", dims=2, overwrite=False):
    sample_fn, params = toy_sampler(condition)
    facts = toy_facts(SIZES[dims])
    sampler = export.Sampler(sample_fn, params, condition, {"cond": "toy"}, facts)
    export.write_export(out, sampler, dict(solver="heun", steps=5, calls=10), overwrite)
    return sample_fn, params


def inputs(condition, dims, batch):
    generator = np.random.default_rng(batch)
    size = SIZES[dims]
    mask = generator.integers(0, len(LABELS), (batch, *size)).astype(np.uint8)
    label = generator.integers(0, len(CLASSES), batch).astype(np.int32)
    noise = generator.normal(size=(batch, *size, 1)).astype(np.float32)
    return noise, mask if "mask" in condition else None, label if "class" in condition else None


def load(path):
    return jax.jit(jax.export.deserialize(path.read_bytes()).call)


def cases():
    for condition in CONDITIONS:
        for dims in SIZES:
            default = (condition, dims) in (("mask+class", 2), ("none", 3))
            yield pytest.param(condition, dims, marks=() if default else pytest.mark.nightly)


@pytest.mark.slow
@pytest.mark.parametrize("condition, dims", cases())
def test_the_program_makes_the_images_of_the_sampler_at_any_batch_size(tmp_path, condition, dims):
    sample_fn, params = write(tmp_path / "out", condition, dims)
    sampler = load(tmp_path / "out" / "sampler.jax_export")
    weights = dict(np.load(tmp_path / "out" / "weights.npz"))
    for batch in (1, 3):
        given = inputs(condition, dims, batch)
        images = sampler(weights, *given)
        assert images.shape == (batch, *SIZES[dims], 1)
        expected, _ = jax.jit(sample_fn)(params, *given)
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4 * float(np.ptp(expected)))


def test_the_noise_program_draws_the_noise_of_seed_and_index_bit_for_bit():
    program = jax.jit(jax.export.deserialize(export.noise_program((8, 6), 2)).call)
    indices = np.array([5, 0, 70000], np.int32)
    for seed in (0, 2**32 - 1):
        noise = program(np.uint32(seed), indices)
        expected = normal_per_example(fold_keys(jax.random.key(seed), indices), (8, 6, 2))
        np.testing.assert_array_equal(noise, expected)
        np.testing.assert_array_equal(program(np.uint32(seed), indices[1:2])[0], expected[1])


def test_an_undeclared_label_or_class_gives_nan_in_its_own_image_only(tmp_path):
    write(tmp_path / "out")
    sampler = load(tmp_path / "out" / "sampler.jax_export")
    weights = dict(np.load(tmp_path / "out" / "weights.npz"))
    noise, mask, label = inputs("mask+class", 2, 4)
    mask[1, 2, 3] = len(LABELS)
    label[2:] = (-1, len(CLASSES))
    images = np.asarray(sampler(weights, noise, mask, label))
    assert np.isfinite(images).all(axis=(1, 2, 3)).tolist() == [True, False, False, False]
    assert np.isnan(images[1:]).all()


def test_the_folder_holds_what_it_says(tmp_path):
    _, params = write(tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert {path.name for path in out.iterdir()} == {
        "weights",
        "weights.npz",
        "sampler.jax_export",
        "noise.jax_export",
        "config.json",
        "facts.json",
        "export.json",
        "example.py",
        "README.txt",
    }
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    flat = np.load(out / "weights.npz")
    assert set(flat) == set(params)
    for name, array in params.items():
        np.testing.assert_array_equal(flat[name], array)
    assert json.loads((out / "config.json").read_text()) == {"cond": "toy"}
    assert json.loads((out / "facts.json").read_text())["mask_labels"] == list(LABELS)
    description = json.loads((out / "export.json").read_text())
    assert description["calls"] == 10 and description["condition"] == "mask+class"
    example = (out / "example.py").read_text()
    assert all(
        f"    {line}\n" in (out / "README.txt").read_text() for line in example.splitlines() if line
    )


@pytest.mark.nightly
def test_a_network_of_another_device_count_reads_the_orbax_weights(tmp_path):
    write(tmp_path / "out")
    script = """
import sys, jax, numpy as np, orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
assert jax.device_count() == 4
flat = dict(np.load(sys.argv[1] + "/weights.npz"))
replicated = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
target = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=replicated) for k, v in flat.items()}
for given in ((), (target,)):
    weights = ocp.StandardCheckpointer().restore(sys.argv[1] + "/weights", *given)
    assert set(weights) == set(flat), set(weights)
    for name in flat:
        np.testing.assert_array_equal(weights[name], flat[name])
assert len(weights["unet/x"].sharding.device_set) == 4
"""
    environment = dict(
        os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=4"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")], env=environment, check=True
    )


def test_a_taken_folder_is_refused_and_only_an_export_is_overwritten(tmp_path):
    out = tmp_path / "out"
    write(out, "none")
    before = (out / "sampler.jax_export").read_bytes()
    with pytest.raises(ValueError, match="out: holds an export already; --overwrite"):
        write(out)
    assert (out / "sampler.jax_export").read_bytes() == before
    write(out, "class", overwrite=True)
    assert json.loads((out / "export.json").read_text())["condition"] == "class"
    results = tmp_path / "results"
    results.mkdir()
    (results / "export.json").write_text("[]")
    with pytest.raises(ValueError, match="results: exists and is not an export"):
        write(results, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "results"]


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is not a writable folder"):
        export.write_export(tmp_path / "file" / "deep" / "out", None, {})


def test_no_class_name_becomes_code():
    facts = toy_facts((8, 6)) | {"classes": ("2CH\nimport os", "4CH")}
    assert "# 0 2CH import os, 1 4CH\n" in export.example_text(facts, "class")
