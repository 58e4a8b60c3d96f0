"""The config files: valid in every size and condition, as documented, and on a GPU's attention."""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from motfm_jax import build, presets, settings
from motfm_jax.core import Batch
from motfm_jax.data.facts import Facts
from motfm_jax.nn.attention import attend
from motfm_jax.nn.dispatch import Capabilities

FILES = presets.built_in()


def get_config(text):
    config = presets.read_config(text)
    if config.data.source in ("camus", "decathlon", "folder", "pickle"):
        config.data.root = "data"
    return config


VARIANTS = {
    "phantom": (
        settings.CONDITIONS,
        [f"size={s},anatomy={a}" for s in settings.SIZES for a in ("echo", "brain")],
    ),
    "camus": (settings.CONDITIONS, [f"size={size}" for size in settings.SIZES]),
    "brain": (("none", "mask"), [f"size={size}" for size in settings.SIZES]),
    "folder": (
        settings.CONDITIONS,
        [f"size={s},dims={d}" for s in settings.SIZES for d in (2, 3)],
    ),
    "original": (settings.CONDITIONS, ["dims=2", "dims=3"]),
}


@pytest.mark.parametrize("name", FILES)
def test_every_size_and_condition_is_valid_and_survives_being_saved(name):
    for cond, rest in itertools.product(*VARIANTS[name]):
        config = get_config(f"{name}:cond={cond},{rest}")
        settings.check(config)
        assert config.cond == cond
        again = settings.from_json(json.loads(json.dumps(config.to_dict())))
        assert repr(again.to_dict()) == repr(config.to_dict()), (
            "tuples and numbers keep their types"
        )


@pytest.mark.parametrize("name", FILES)
def test_the_command_in_the_docstring_and_no_arguments_at_all_are_valid(name):
    settings.check(get_config(name))
    text = FILES[name].read_text()
    config = get_config(f"{name}:" + re.search(rf"--config=\S*{name}\S*:(\S+)", text)[1])
    settings.assign(config, dict(re.findall(r"--config\.(\S+)=(\S+)", text)))
    settings.check(config)


def test_there_is_a_file_a_built_in_name_or_a_refusal():
    assert FILES.keys() == VARIANTS.keys()
    assert presets.config_file(f"{FILES['camus']}:size=debug") == f"{FILES['camus']}:size=debug"
    with pytest.raises(ValueError, match=r"--config=camsu: there is no file camsu; .* camus"):
        presets.config_file("camsu")


# Parameters of the original's five networks, counted in MONAI.
ORIGINAL = {
    "cond=none": 25_877_601,
    "cond=class": 71_224_609,
    "cond=mask": 36_159_457,
    "cond=mask+class": 102_412_833,
    "cond=none,dims=3": 132_456_929,
}


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(each, marks=[pytest.mark.nightly] * ("class" in each)) for each in ORIGINAL],
)
def test_the_original_networks_have_the_original_number_of_parameters(arguments):
    documented = rf"original:{re.escape(arguments)} +{ORIGINAL[arguments]:,}"
    assert re.search(documented, FILES["original"].read_text())
    config = get_config(f"original:{arguments}")
    assert config.model.time == "floor" and config.model.head_dim == 0
    facts = Facts(tuple(config.data.size), 1, tuple("abcd"), tuple("abcd"), {})
    shapes = jax.eval_shape(build.architecture(config, facts).init, jax.random.key(0))
    assert sum(leaf.size for leaf in shapes.values()) == ORIGINAL[arguments]


PAPER = {
    # Small images of the same network: what attention is chosen does not depend on their size.
    "camus": Facts((32, 32), 1, ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES"), ("a", "b", "c", "d"), {}),
    "brain": Facts((16, 16, 16), 1, (), ("a", "b", "c", "d"), {}),
}


@pytest.mark.nightly
@pytest.mark.parametrize("stem", PAPER)
def test_the_paper_networks_lower_to_cudnn_attention_forward_and_backward(stem, monkeypatch):
    """The training program, lowered for CUDA on whatever device the test has."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(
        cudnn, "check_compute_capability", lambda capability: float(capability) <= 8.0
    )
    monkeypatch.setattr(
        cudnn, "is_cuda_compute_capability_equal", lambda capability: capability == "8.0"
    )
    config, facts = get_config(f"{stem}:size=paper"), PAPER[stem]
    config.model.res_blocks = config.model.transformer_layers = 1  # the same sites, fewer of each
    model = build.architecture(config, facts, Capabilities("gpu", 8.0))
    assert model.dtype == jnp.bfloat16 and len(model.sites) == (2 if stem == "camus" else 1)
    assert all("cudnn (flash attention fits)" in site for site in model.sites)
    loss = build.loss(config, model)

    def shaped(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    batch = Batch(
        image=shaped(jnp.float32, 2, *facts.size, 1),
        mask=shaped(jnp.uint8, 2, *facts.size),
        label=shaped(jnp.int32, 2),
        valid=shaped(bool, 2),
        index=shaped(jnp.int32, 2),
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    text = (
        jax.jit(jax.grad(lambda params, batch, keys: loss(params, batch, keys, None).mean()))
        .trace(jax.eval_shape(model.init, jax.random.key(0)), batch, keys)
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    called = set(re.findall(r"__cudnn\$\w+", text))
    assert called == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    # XLA's own softmax exponentiates [.., heads, T, T] in float32.
    softmax = re.compile(r"stablehlo\.exponential[^\n]*tensor<(?:\d+x)+(\d+)x\1xf32>")
    plain = jax.jit(lambda x: attend(x, x, x, 1, "xla")).lower(shaped(jnp.bfloat16, 2, 16, 32))
    assert softmax.search(plain.as_text()) is not None
    xla_site = softmax.search(text)
    assert xla_site is None
