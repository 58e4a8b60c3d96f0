"""From configs to data, networks and losses."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FACTS, SIZES, make_config

from motfm_jax import build, datasets, presets, settings
from motfm_jax.core import Batch, Condition
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.features import weights
from motfm_jax.methods import METHODS
from motfm_jax.methods.method import TEACHER
from motfm_jax.nn.dispatch import Capabilities

A100, H100 = Capabilities("gpu", 8.0), Capabilities("gpu", 9.0)


def test_statistics_come_from_the_training_examples_alone():
    data = datasets.data(make_config(data__intensity__mode="zscore"))
    train, valid = (np.asarray(part.images, np.float64) for part in (data.train, data.valid))
    assert len(train) == 4 * 4 and len(valid) == 4, "six patients: four, one and one"
    assert not {meta["patient"] for meta in data.train.meta} & {
        meta["patient"] for meta in data.valid.meta
    }
    np.testing.assert_allclose(data.intensity.low, train.mean(), rtol=1e-6)
    np.testing.assert_allclose(data.intensity.high, train.mean() + train.std(), rtol=1e-6)
    assert abs(np.concatenate([train, valid]).mean() - train.mean()) > 1e-3


def test_facts_are_those_of_the_data_and_survive_being_saved():
    data = datasets.data(make_config())
    facts = data.facts
    assert (facts.size, facts.channels) == ((16, 16), 1)
    assert facts.classes == ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
    assert facts.mask_labels[0] == "background" and len(facts.mask_labels) == 4
    assert len(facts.spacing_mm) == 2
    assert_saved_and_read_back(facts)
    assert Intensity.from_json(json.loads(json.dumps(facts.intensity))) == data.intensity


def assert_saved_and_read_back(facts):
    text = json.dumps(facts.to_json())
    again = Facts.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    for name in ("size", "channels", "classes", "mask_labels", "spacing_mm", "affine"):
        assert getattr(again, name) == getattr(facts, name), name


def test_a_limit_applies_to_training_examples_only():
    config = make_config(data__limit=3)
    assert len(datasets.arrays(config, "train")) == 3
    assert len(datasets.arrays(config, "valid")) == 4
    unlimited = datasets.arrays(make_config(), "train")
    np.testing.assert_array_equal(datasets.arrays(config, "train").images, unlimited.images[:3])


def test_a_brain_has_an_affine_and_three_dimensions():
    config = settings.default()
    presets.apply(config, 3, "debug")
    config.update_from_flattened_dict(
        {"data.source": "phantom_brain", "data.phantom_patients": 3, "data.size": (8, 8, 8)}
    )
    facts = datasets.data(config).facts
    assert facts.size == (8, 8, 8) and np.shape(facts.affine) == (4, 4)
    assert_saved_and_read_back(facts)
    model = build.architecture(config, facts)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert shapes["unet/encoder/conv_in/kernel"].shape == (3, 3, 3, 1, 16)


def test_data_without_masks_or_classes_cannot_condition(monkeypatch):
    from motfm_jax.data.phantom import PhantomEcho

    def bare(self, index, original=PhantomEcho.__getitem__):
        return original(self, index)._replace(mask=None, label=None)

    monkeypatch.setattr(PhantomEcho, "__getitem__", bare)
    monkeypatch.setattr(PhantomEcho, "mask_labels", ())
    settings = dict(data__phantom_patients=5)  # not in the cache of the other tests
    for cond, missing in (("mask", "masks"), ("class", "classes"), ("mask+class", "masks")):
        with pytest.raises(ValueError, match=f"PhantomEcho: config.cond=.* needs {missing}"):
            datasets.arrays(make_config(cond=cond, **settings), "train")
    assert datasets.arrays(make_config(cond="none", **settings), "train").masks is None


def without(**fields):
    return Facts.from_json({**FACTS.to_json(), **fields})


@pytest.mark.parametrize(
    "cond, facts, missing",
    [
        ("class", without(classes=()), "classes"),
        ("mask", without(mask_labels=()), "mask labels"),
        ("mask+class", without(classes=()), "classes"),
    ],
)
def test_a_network_is_not_built_for_conditions_the_data_lacks(cond, facts, missing):
    with pytest.raises(ValueError, match=f"config.cond=.*the data names no {missing}"):
        build.architecture(make_config(cond=cond), facts)


MASK = np.array([[[0, 1], [2, 1]]], np.uint8)
LABEL = np.array([2], np.int32)


@pytest.mark.parametrize("cond", settings.CONDITIONS)
def test_a_condition_holds_what_the_config_asks_for(cond):
    condition = build.architecture(make_config(cond=cond), FACTS).condition
    made = condition(MASK, LABEL)
    assert (made.mask is not None) == ("mask" in cond)
    assert (made.label is not None) == ("class" in cond)
    if made.mask is not None:
        np.testing.assert_array_equal(made.mask, np.eye(3)[MASK])
        with pytest.raises(ValueError, match=r"conditioned on mask.*: give a mask"):
            condition(None, LABEL)
    if made.label is not None:
        np.testing.assert_array_equal(made.label, [[0, 0, 1, 0]])
        with pytest.raises(ValueError, match=r"conditioned on .*class: give a class"):
            condition(MASK, None)
    if cond == "none":
        assert condition(None, None) == Condition()


def test_a_scalar_mask_is_one_channel_as_in_the_original():
    model = build.architecture(make_config(data__mask_encoding="scalar"), FACTS)
    np.testing.assert_array_equal(model.condition(MASK, LABEL).mask[..., 0], MASK / 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert shapes["controlnet/mask_embedding/conv_in/kernel"].shape == (3, 3, 1, 4)


def test_sites_say_where_attention_is_and_which_kernel_it_uses():
    config = make_config(
        cond="class", model__channels=(8, 16, 32), model__attention=(False, True, False)
    )
    assert build.architecture(config, FACTS, A100).sites == (
        "attention at level 1: 64 tokens, 2 heads of 8: cudnn (flash attention fits)",
        "attention at the middle: 16 tokens, 4 heads of 8: cudnn (flash attention fits)",
    )
    config = make_config(model__head_dim=0)
    assert build.architecture(config, FACTS, Capabilities("cpu"), attention="xla").sites == (
        "attention at level 1 and the middle: 64 tokens, 1 heads of 16: xla (requested)",
    )
    (site,) = build.architecture(config, FACTS, Capabilities("cpu")).sites
    assert site.endswith("xla (no cuDNN flash attention: the device is a cpu)")


@pytest.mark.parametrize(
    "dtype, device, expected",
    [
        ("auto", A100, jnp.bfloat16),
        ("auto", Capabilities("cpu"), jnp.float32),
        ("float32", H100, jnp.float32),
        ("bfloat16", Capabilities("cpu"), jnp.bfloat16),
    ],
)
def test_what_a_network_computes_in(dtype, device, expected):
    assert build.architecture(make_config(train__dtype=dtype), FACTS, device).dtype == expected


def test_cudnn_asked_for_in_vain_is_an_error():
    config = make_config(model__attention_implementation="cudnn")
    with pytest.raises(ValueError, match="'cudnn' cannot run: the device is a cpu"):
        build.architecture(config, FACTS, Capabilities("cpu"))
    with pytest.raises(ValueError, match=r"not float32; use auto or xla.*train.dtype"):
        build.architecture(
            make_config(model__attention_implementation="cudnn", train__dtype="float32"),
            FACTS,
            H100,
        )


@pytest.mark.slow
def test_model_fields_reach_the_network():
    def shapes(cond="class", **changes):
        model = build.architecture(make_config(cond=cond, **changes), FACTS)
        return jax.eval_shape(model.init, jax.random.key(0))

    plain = shapes()
    for changes in (
        dict(model__res_blocks=2),
        dict(model__transformer_layers=2),
        dict(model__attention=(True, True)),
    ):
        assert shapes(**changes) != plain, changes
    masked = shapes(cond="mask", model__mask_embedding=6)
    assert masked["controlnet/mask_embedding/conv_in/kernel"].shape == (3, 3, 3, 6)


KINDS = [
    (dims, cond, method)
    for dims in SIZES
    for cond in settings.CONDITIONS
    for method in METHODS
    if method != "spade" or "mask" in cond
]


@pytest.mark.parametrize("dims, cond, method", KINDS)
def test_every_kind_of_model_has_a_loss_and_a_sampler_of_the_right_shapes(dims, cond, method):
    """Traced alone: nothing is compiled."""
    config = make_config(
        dims,
        cond=cond,
        method=method,
        model__channels=(8,),
        model__attention=(True,),
        spade__hidden=8,
        spade__width=8,
        spade__discriminators=1,
        train__teacher="runs/flow" if METHODS[method].distils else "",
    )
    facts = dataclasses.replace(FACTS, size=SIZES[dims], spacing_mm=None)
    built, size, kind = build.architecture(config, facts), SIZES[dims], METHODS[method]

    def shaped(dtype, *shape):
        return jax.ShapeDtypeStruct((3, *shape), dtype)

    batch = Batch(
        shaped(jnp.float32, *size, 1),
        shaped(jnp.uint8, *size),
        shaped(jnp.int32),
        shaped(bool),
        shaped(jnp.int32),
    )
    params = jax.eval_shape(built.init, jax.random.key(0))
    if kind.distils:
        params |= {TEACHER + name: leaf for name, leaf in params.items()}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    losses = jax.eval_shape(build.loss(config, built), params, batch, keys, None)
    assert (losses.shape, losses.dtype) == ((3,), jnp.float32)

    def sample(params, x0, mask, label):
        condition = built.condition(mask, label)
        chosen = kind.solver(config[kind.section], "", 1, {})
        return kind.sample(built.network, params, x0, condition, chosen, None, False)

    solution = jax.eval_shape(sample, params, batch.image, batch.mask, batch.label)
    assert (solution.x.shape, solution.calls.shape) == ((3, *size, 1), (3,))


def test_a_perceptual_loss_needs_the_published_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTFM_CACHE", str(tmp_path))
    config = make_config(method="spade", cond="mask", spade__perceptual_weight=10.0)
    with pytest.raises(
        ValueError,
        match=(
            r"config\.spade\.perceptual_weight=10\.0: .* no weights of vgg; download "
            r"vgg19-dcbb9e9d\.pth .*.*convert.* features --network=vgg"
        ),
    ) as error:
        build.loss(config, build.architecture(config, FACTS))
    assert "\n" not in str(error.value)
    for other in (dict(method="spade"), dict(spade__perceptual_weight=10.0)):
        assert build._perceiver(make_config(cond="mask", **other)) is None


def test_a_perceptual_loss_looks_through_the_published_network(tmp_path, monkeypatch):
    """At images from 0 to 1, with the weights that were taken over."""
    monkeypatch.setenv("MOTFM_CACHE", str(tmp_path))
    params = {"features/0/kernel": np.full((1, 1), 3.0, np.float32)}
    weights.write(weights.default_folder(), "vgg", params, "dcbb9e9d")
    monkeypatch.setattr(
        weights,
        "network",
        lambda name: (
            lambda params, images: {
                layer: params["features/0/kernel"][0, 0] * images + len(name) for layer in "abcde"
            }
        ),
    )
    perceive = build._perceiver(
        make_config(method="spade", cond="mask", spade__perceptual_weight=10.0)
    )
    seen = perceive(np.array([-1.0, 0.0, 1.0]))
    assert [layer.tolist() for layer in seen] == [[3.0, 4.5, 6.0]] * 5


def test_every_source_is_reached():
    sources = {"phantom_echo": "PhantomEcho", "phantom_brain": "PhantomBrain"}
    for (name, kind), split in itertools.product(sources.items(), ("train", "valid", "test")):
        config = settings.default()
        config.update_from_flattened_dict(
            {
                "data.source": name,
                "data.phantom_patients": 9,
                "data.split_seed": 3,
                "data.size": (8, 8) if name == "phantom_echo" else (8, 8, 8),
            }
        )
        made = datasets.source(config, split)
        assert type(made).__name__ == kind
        assert (made.split, made.size, made.num_patients, made.seed) == (
            split,
            config.data.size,
            9,
            3,
        )


def test_decoded_arrays_go_where_the_config_or_the_environment_says(tmp_path, monkeypatch):
    config = make_config()
    monkeypatch.setenv("MOTFM_CACHE", str(tmp_path / "environment"))
    assert datasets.cache_dir(config) == tmp_path / "environment"
    config.data.cache = str(tmp_path / "config")
    assert datasets.cache_dir(config) == tmp_path / "config"
    monkeypatch.delenv("MOTFM_CACHE")
    config.data.cache = ""
    assert datasets.cache_dir(config).parts[-2:] == (".cache", "motfm_jax")


def test_augmentation_is_none_unless_asked_for():
    assert datasets.augmentation(make_config()) is None
    for field in ("affine", "gamma"):
        made = datasets.augmentation(make_config(**{f"data__augment__{field}": 0.1}))
        assert made is not None
    assert datasets.augmentation(make_config(data__augment__flip=True)) is not None


def test_a_diffusion_learns_the_noise_and_not_the_velocity():
    """A network that answers 0: the flow's loss is E (x1 - x0)^2, the diffusion's E x0^2 = 1."""
    config, image = settings.default(), np.full((64, 8, 8, 1), 3.0, np.float32)
    network = build.Network(
        lambda params, condition: None, lambda params, x, t, context, key: jnp.zeros_like(x)
    )
    model = build.Architecture(
        build.Parts(network, network, None), lambda mask, label: None, jnp.float32
    )
    batch = Batch(image, None, None, np.ones(64, bool), np.arange(64))
    keys = jax.random.split(jax.random.key(0), 64)
    for method, expected in (("flow", 10.0), ("ddpm", 1.0)):
        config.method = method
        losses = build.loss(config, model)({}, batch, keys, None)
        np.testing.assert_allclose(losses.mean(), expected, rtol=0.05)
