"""The rules of a field and between fields, and configs as JSON and as arguments of a file."""

import json
import re

import pytest

from motfm_jax import fields, settings

NAN, INFINITE = float("nan"), float("inf")


def make_config(changes=()):
    config = settings.default()
    with config.unlocked():
        config.update_from_flattened_dict(dict(changes))
    return config


def test_the_default_is_valid_and_locked():
    settings.check(settings.default())
    with pytest.raises(AttributeError, match="lr"):
        settings.default().train.lrr = 1.0


@pytest.mark.parametrize(
    "field, right, wrong, message",
    [
        (fields.choice("noise", "speckle"), ["speckle"], ["x", 1], "use one of noise, speckle$"),
        (fields.choice("noise", "speckle"), [], ["speckel"], "did you mean 'speckle'"),
        (fields.number(0), [0, 2**32 - 1], [-1, True, 2**32, 10**400], "of 0 or more, at most 4"),
        (fields.number(0.0), [0, 1e300], [-1e-9, NAN, INFINITE], "a number of 0 or more$"),
        (fields.number(0.0, 0, 1), [0.0, 1.0], [1.1], "of 0 or more, at most 1$"),
        (fields.positive(1), [1], [0, -1], "a number above 0"),
        (fields.positive(1.0), [1e-9], [0.0, NAN], "a number above 0$"),
        (
            fields.each_level(2, 1, 9),
            [1, 9, (2, 1), [3]],
            [0, 10, (2, 0), (), 1.0, True, "2"],
            "a whole number from 1 to 9, or one for each level$",
        ),
        (fields.numbers((1.0, 2.0), 2), [(0, 1)], [(1,), ("0", "1"), (0, NAN)], "give 2 numbers$"),
        (
            fields.numbers((8,), kind=int, above=0),
            [(1,), (8, 16)],
            [(), (8, 0), (8, 16.0), (8, True)],
            "give one or more whole numbers, each above 0",
        ),
    ],
)
def test_the_rule_of_a_field(field, right, wrong, message):
    assert not any(field.rule(value) for value in [field.default, *right])
    for value in wrong:
        assert re.search(message, field.rule(value)), value


def test_every_method_brings_the_fields_of_its_section():
    paths = dict(settings.leaves(settings.fields()))
    assert {"flow.source", "diffusion.eta", "spade.width", "data.intensity.mode"} <= paths.keys()
    assert paths["diffusion.schedule"].fixed and not paths["diffusion.eta"].fixed


DECATHLON = {"data.source": "decathlon", "data.root": "brains", "data.size": (32, 32, 32)}
SPADE = {"method": "spade", "cond": "mask"}
SPECKLE = {"flow.source": "speckle"}
PAIRS = {"data.generate": "image+mask"}
CHANNEL = {
    **DECATHLON,
    "flow.source": "channel",
    "flow.source_channel": "T1w",
    "data.channel": "FLAIR",
}
WRONG = [
    ({"seed": -1}, "config.seed=-1: needs a number of 0 or more"),
    ({"cond": "masks"}, "config.cond='masks': use one of none, class, .*did you mean 'mask'"),
    ({"method": "dpm"}, "config.method='dpm': use one of .*; did you mean 'ddpm'"),
    ({"data.source": "camsu"}, "config.data.source='camsu': .*did you mean 'camus'"),
    ({"train.ema": NAN}, "config.train.ema=nan: a decay"),
    ({"model.dropout": 1.0}, "config.model.dropout=1.0: a rate"),
    ({"diffusion.eta": 1.5}, "config.diffusion.eta=1.5"),
    ({"model.channels": (32, 48), "model.attention": (False, False)}, "48 .*model.norm_groups"),
    ({"model.attention": (True,)}, "config.model.attention=.*one flag for each of the 5 levels"),
    ({"model.attention": (0, 0, 0, 1, 1)}, "config.model.attention=.*True or False"),
    ({"model.head_dim": 33}, "config.model.head_dim=33: the 224 channels"),
    ({"model.head_dim": 48, "model.attention": (False,) * 5}, "head_dim=48: the 256.*middle"),
    ({"model.head_dim": (32, 32, 32, 64, 32)}, "head_dim=.*: the 224 channels"),
    ({"model.res_blocks": (2, 1)}, r"config.model.res_blocks=\(2, 1\): .*one for each of the 5"),
    ({"data.size": (64,)}, r"config.data.size=\(64,\): give \(H, W\) or"),
    ({"data.size": (64, 64, 64)}, "config.data.size=.*phantom_echo is 2-D"),
    ({"data.size": (3, 72)}, r"config.data.size=.*multiple of 16; nearest: \(16, (64|80)\)"),
    ({"data.source": "camus"}, "config.data.root is empty: camus"),
    ({**DECATHLON, "cond": "mask+class"}, r"config.cond='mask\+class': decathlon data have no"),
    ({"data.intensity.range": (1.0, 1.0)}, "config.data.intensity.range=.*lower"),
    ({"data.intensity.percentiles": (50.0, 101.0)}, "config.data.intensity.percentiles=.*<= 100"),
    ({**DECATHLON, "data.spacing_mm": (1.0, 1.0)}, "config.data.spacing_mm=.*give 3 numbers"),
    ({**DECATHLON, "data.label_map": ((1, 2, 3),)}, "config.data.label_map=.*pairs"),
    ({"train.steps": 0, "train.epochs": 0}, "config.train.steps=0 and config.train.epochs=0"),
    ({"train.batch_size": 8, "train.accumulation": 3}, "config.train.batch_size=8.*accumulation=3"),
    ({"train.base": "runs/base", "cond": "class"}, "config.train.base='runs/base' with .*'class'"),
    (
        {"train.base": "a", "train.init_from": "b", "cond": "mask"},
        "train.base='a' with .*choose one",
    ),
    ({"data.intensity.mode": "zscore", "method": "ddpm"}, "intensity.mode='zscore'.*'ddpm'"),
    ({"data.intensity.range": (0.0, 1.0), "method": "ddpm"}, r"range=\(0.0, 1.0\).*'ddpm'"),
    ({**SPADE, "data.intensity.range": (0.0, 1.0)}, "tanh"),
    ({**SPADE, "cond": "class"}, "cond='class': it makes images from masks"),
    ({**SPADE, "model.dropout": 0.1}, "only a UNet has it"),
    ({**SPADE, "train.base": "x"}, "only a UNet can be kept"),
    ({**SPADE, "train.optimizer": "sgd"}, "train.optimizer='sgd'.*only adam trains it"),
    (
        {**DECATHLON, **SPADE, "spade.perceptual_weight": 10.0},
        "perceptual_weight=10.0 with config.data.size=.*2-D images",
    ),
    ({**SPECKLE, "method": "ddpm"}, "only a flow has that choice"),
    ({"flow.prediction": "image", **SPADE}, "flow.prediction='image' with .*only a flow has that"),
    ({"flow.time_uniform": 0.1}, "time_uniform=0.1 with time_distribution='uniform'"),
    ({"train.drop_condition": 0.1}, "drop_condition=0.1 with .*'none': there is nothing to drop"),
    ({"train.ema_length": 0.29}, "config.train.ema_length=0.29: needs a number .*at most 0.28"),
    ({**SPECKLE, "flow.speckle_power": (0.2, 0.1)}, "the least, then the greatest"),
    ({**SPECKLE, "flow.speckle_power": (0.0, 0.1)}, "flow.speckle_power=.*each above 0"),
    ({**SPECKLE, "data.intensity.mode": "zscore"}, "speckle grows with the distance from black"),
    ({"flow.source": "channel"}, "it has one channel"),
    ({**CHANNEL, "flow.source_channel": "flair"}, "give two different names"),
    ({**CHANNEL, "data.augment.gamma": 0.1}, "would change the contrast that is to be learned"),
    (
        {**PAIRS, "cond": "mask+class"},
        r"image\+mask' with config.cond='mask\+class': a mask is made",
    ),
    ({**PAIRS, **SPADE}, "image.mask' with config.cond='mask': a mask is made or given"),
    ({**PAIRS, **SPECKLE}, "image.mask' with config.flow.source='speckle': .* made from noise"),
]
EDGES = [
    {"model.channels": (32,), "model.attention": (True,), "data.size": (1, 1)},
    {"model.head_dim": 256, "model.attention": (False,) * 5},  # the middle alone attends
    {"model.head_dim": 0, "model.dropout": 0.99, "train.ema": 0.0},
    {"model.head_dim": (5, 5, 5, 56, 0), "model.res_blocks": (1, 2, 3, 4, 5)},
    {"data.intensity.range": (0, 1), "data.intensity.percentiles": (0.0, 100.0)},
    {**DECATHLON, "cond": "mask", "data.spacing_mm": (1, 1.5, 2), "data.label_map": ((0, 255),)},
    {"train.steps": 1, "train.epochs": 0},
    {"method": "ddpm", "diffusion.eta": 1.0, "data.intensity.mode": "percentile"},
    SPADE,
    SPECKLE,
    CHANNEL,
    {**PAIRS, "method": "ddpm", "cond": "class"},
]


@pytest.mark.parametrize("changes, message", WRONG)
def test_what_cannot_work_is_refused_naming_the_field(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        settings.check(make_config(changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", EDGES)
def test_values_at_the_edge_of_the_rules_are_taken(changes):
    settings.check(make_config(changes))


def test_arguments_replace_the_defaults_of_a_config_file():
    parse, defaults = settings.parse_arguments, dict(cond="none", size="paper")
    assert parse("", **defaults) == defaults
    result = parse("cond=mask+class,size=small", **defaults, anatomy="echo")
    assert result == {"cond": "mask+class", "size": "small", "anatomy": "echo"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("cond=msk", r"config argument cond=msk: use one of none, class, mask, mask\+class"),
        ("method=ddmp", "config argument method=ddmp: use one of flow, flow_map, ddpm, spade"),
        ("size=", "config argument size=: use one of debug, small, paper"),
        ("anatomy=echo", r"config argument 'anatomy=echo': this file takes method=..., cond=..., "),
        ("debug", "config argument 'debug': this file takes"),
    ],
)
def test_arguments_that_a_config_file_does_not_take(text, message):
    with pytest.raises(ValueError, match=message):
        settings.parse_arguments(text, method="flow", cond="none", size="paper")


def test_a_saved_config_comes_back_and_older_ones_take_defaults():
    changes = {**DECATHLON, "data.label_map": ((2, 1), (3, 1)), "model.res_blocks": (2, 1, 1, 1, 1)}
    config = make_config(changes)
    again = settings.from_json(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert again.data.label_map == ((2, 1), (3, 1)), "pairs are tuples again, not lists"
    assert again.is_locked
    expected = settings.default()
    expected.train.lr = 1.0
    assert settings.from_json({"train": {"lr": 1}}).to_dict() == expected.to_dict()


@pytest.mark.parametrize("saved, read", [(True, "blocks"), (False, "none"), ("norms", "norms")])
def test_remat_of_an_older_run_is_understood(saved, read):
    assert settings.from_json({"model": {"remat": saved}}).model.remat == read


def test_fields_are_set_by_path():
    config = settings.default()
    settings.assign(config, {"data.intensity.range": [0, 1], "seed": 3})
    assert (config.data.intensity.range, config.seed) == ((0, 1), 3)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"train": {"lrr": 1.0}},
            r"config.train.lrr: there is no such field; did you mean train.lr\?",
        ),
        ({"data": {"intensity": {"xyz": 1}}}, "config.data.intensity.xyz: there is no such field$"),
        ({"train": {"steps": 1.5}}, "config.train.steps=1.5: needs .* int"),
        ({"train": {"lr": None}}, "config.train.lr=None: needs .* float"),
        ({"train": {"lr": 10**400}}, "config.train.lr=10*: needs .* float"),
        ({"model": 3}, "config.model=3: needs"),
        ({"seed": {"a": 1}}, "config.seed=.*: needs .* int"),
        ({"data": {"size": 64}}, "config.data.size=64: needs .* tuple"),
        ([], r"config=\[\]: fields by name needed"),
    ],
)
def test_a_saved_config_with_fields_or_types_of_another_program(values, message):
    with pytest.raises(ValueError, match=message):
        settings.from_json(values)
