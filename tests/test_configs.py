"""The config files: valid in every size and condition, as documented, and on a GPU's attention."""

import importlib.util
import itertools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from motfm_jax import build, settings
from motfm_jax.core import Batch
from motfm_jax.data.records import Facts
from motfm_jax.nn.attention import attend
from motfm_jax.nn.dispatch import Capabilities

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(f"config_file_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_config(path, arguments=""):
    config = load(path).get_config(arguments)
    if config.data.source in ("camus", "decathlon", "pickle"):
        config.data.root = "data"
    return config


def variants():
    anatomies = {"phantom": ("anatomy=echo,", "anatomy=brain,")}
    for path in FILES:
        if path.stem == "original":
            for cond, dims in itertools.product(settings.CONDITIONS, "23"):
                yield path, f"cond={cond},dims={dims}"
            continue
        conditions = ("none", "mask") if path.stem == "brain" else settings.CONDITIONS
        for cond, size, anatomy in itertools.product(
            conditions, settings.SIZES, anatomies.get(path.stem, ("",))
        ):
            yield path, f"{anatomy}cond={cond},size={size}"


def name(value):
    return value.stem if isinstance(value, Path) else value


def test_there_are_config_files():
    assert {path.stem for path in FILES} >= {"phantom", "camus", "brain", "original"}


@pytest.mark.parametrize("path, arguments", list(variants()), ids=name)
def test_every_size_and_condition_is_valid_and_survives_being_saved(path, arguments):
    config = get_config(path, arguments)
    settings.check(config)
    assert config.cond == re.search("cond=([^,]*)", arguments)[1]
    again = settings.from_json(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert repr(again.to_dict()) == repr(config.to_dict()), "tuples and numbers keep their types"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_command_in_the_docstring_and_no_arguments_at_all_are_valid(path):
    settings.check(get_config(path))
    documented = re.search(
        rf"--config=(?:configs/)?{path.stem}(?:\.py)?:(\S+)", load(path).__doc__
    )[1]
    config = get_config(path, documented)
    for field, value in re.findall(r"--config\.(\S+)=(\S+)", load(path).__doc__):
        room, _, last = field.rpartition(".")
        setattr(settings.field(config, room), last, value)
    settings.check(config)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_what_a_config_file_does_not_take_is_refused(path):
    for arguments in ("cond=nothing", "size=huge", "dims=4", "colour=red", "debug"):
        with pytest.raises(ValueError, match="config argument"):
            load(path).get_config(arguments)
    if path.stem == "brain":
        with pytest.raises(ValueError, match="no classes"):
            settings.check(get_config(path, "cond=class"))


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
    [pytest.param(each, marks=[pytest.mark.slow] * ("class" in each)) for each in ORIGINAL],
)
def test_the_original_networks_have_the_original_number_of_parameters(arguments):
    path = FOLDER / "original.py"
    assert re.search(
        rf"original:{re.escape(arguments)} +{ORIGINAL[arguments]:,}", load(path).__doc__
    )
    config = get_config(path, arguments)
    assert config.model.time == "floor" and config.model.head_dim == 0
    facts = Facts(tuple(config.data.size), 1, tuple("abcd"), tuple("abcd"), {})
    shapes = jax.eval_shape(build.architecture(config, facts).init, jax.random.key(0))
    assert sum(leaf.size for leaf in shapes.values()) == ORIGINAL[arguments]


PAPER = {
    # Small images of the same network: what attention is chosen does not depend on their size.
    "camus": Facts((32, 32), 1, ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES"), ("a", "b", "c", "d"), {}),
    "brain": Facts((16, 16, 16), 1, (), ("a", "b", "c", "d"), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("stem", PAPER)
@pytest.mark.parametrize("capability", [8.0, 9.0])
def test_the_paper_networks_attend_with_cudnn_everywhere(stem, capability):
    config = get_config(FOLDER / f"{stem}.py", "size=paper")
    model = build.architecture(config, PAPER[stem], Capabilities("gpu", capability))
    assert model.dtype == jnp.bfloat16
    assert len(model.sites) == (2 if stem == "camus" else 1)
    assert all("cudnn (flash attention fits)" in site for site in model.sites)


@pytest.mark.slow
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
    config, facts = get_config(FOLDER / f"{stem}.py", "size=paper"), PAPER[stem]
    config.model.res_blocks = config.model.transformer_layers = 1  # the same sites, fewer of each
    model = build.architecture(config, facts, Capabilities("gpu", 8.0))
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
