"""Any edit of a config is taken, or refused in one line that says where."""

import copy
import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from motfm_jax import presets, settings
from motfm_jax.data import SOURCES
from motfm_jax.data.facts import Facts
from motfm_jax.interop import original
from motfm_jax.io.run_folder import leaves


def saved(name, arguments):
    """What a file of configs/ says, as plain JSON."""
    config = presets.read_config(f"{name}:{arguments}")
    config.data.root = "data"
    return json.loads(json.dumps(config.to_dict()))


KNOWN = [
    saved(name, f"method={method},cond={cond},size={size}")
    for name, method, cond, size in itertools.product(
        ("phantom", "camus", "brain"), settings.METHODS, ("none", "mask"), ("debug", "paper")
    )
    if (method, cond) != ("spade", "none")
]
FACTS = Facts((32, 32), 1, ("a", "b"), ("background", "label"), None)
THEIRS = [
    original.to_yaml(settings.from_json(known | {"cond": cond}), FACTS)[0]
    for known, cond in ((KNOWN[0], "none"), (KNOWN[2], "mask+class"))
]

NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=5)
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**32, 2**64, 10**400, -(10**400)]),
    st.floats(),
    st.booleans(),
)
WORDS = (*settings.METHODS, *settings.CONDITIONS, *SOURCES, "speckle", "scalar", "zscore", "sample")
TEXTS = st.one_of(st.text(max_size=4), st.sampled_from(WORDS))
SCALARS = st.one_of(NUMBERS, TEXTS, st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(NAMES, inner, max_size=2)),
    max_leaves=6,
)


def like(value):
    """Values of the kind that stands there."""
    if isinstance(value, list):
        return st.lists(like(value[0]) if value else NUMBERS, max_size=6)
    if isinstance(value, bool | str):
        return st.booleans() if isinstance(value, bool) else TEXTS
    return st.integers(-1, 2**20) if isinstance(value, int) else NUMBERS


def edited(data, known):
    """One or a few fields, or a whole section, changed, renamed or removed."""
    values = copy.deepcopy(known)
    fields = [name for name, _ in leaves(known)] + list(known)
    for path in data.draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3)):
        *sections, name = path.split(".")
        holder = values
        for section in sections:
            holder = holder.get(section) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or name not in holder:
            continue  # an earlier edit has removed it
        how = data.draw(st.sampled_from(["like", "like", "any", "rename", "remove"]))
        if how in ("like", "any"):
            holder[name] = data.draw(like(holder[name]) if how == "like" else VALUES)
            continue
        value = holder.pop(name)
        if how == "rename":
            holder[data.draw(NAMES)] = value
    return values


def refusal(call):
    """The message of a ValueError, "" where there is none; other exceptions are not expected."""
    try:
        call()
        return ""
    except ValueError as error:
        said = str(error)
    assert said and "\n" not in said
    return said


@given(st.sampled_from(KNOWN), st.data())
def test_an_edited_config_is_taken_or_refused_by_the_field(known, data):
    values = edited(data, known)
    made = []

    def read():
        made.append(settings.from_json(values))
        settings.check(made[0])

    said = refusal(read)
    assert not said or said.startswith("config.")
    if made:  # it is saved and read again as it is
        text = json.dumps(made[0].to_dict())
        assert json.dumps(settings.from_json(json.loads(text)).to_dict()) == text
    if not said:
        refusal(lambda: original.to_yaml(made[0], FACTS))


@given(VALUES)
def test_anything_else_in_the_place_of_a_config_is_refused(values):
    said = refusal(lambda: settings.check(settings.from_json(values)))
    assert said or values == {}


@given(st.sampled_from(THEIRS), st.data())
def test_an_edited_config_of_the_original_is_translated_or_refused(theirs, data):
    values = edited(data, theirs)
    made = []
    said = refusal(lambda: made.append(original.translate(values, "theirs.yaml")))
    assert bool(said) != bool(made) and (made or said.startswith("theirs.yaml: "))
    if made:
        made[0].config.data.size = (1024,) * len(made[0].config.data.size)
        made[0].config.data.root = "data"
        refusal(lambda: settings.check(made[0].config))


@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.sampled_from(
                ["cond=", "mask", "size", "debug", ",", "=", "class", "+", "method=", "ddpm"]
            )
        ).map("".join),
    )
)
def test_arguments_of_a_config_file_are_known_or_refused(text):
    defaults = dict(method="flow", cond="none", size="paper")
    found = {}
    said = refusal(lambda: found.update(settings.parse_arguments(text, **defaults)))
    assert said.startswith("config argument") or found.keys() == defaults.keys()
