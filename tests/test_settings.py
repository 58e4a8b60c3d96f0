"""Every rule between fields, what the messages name, and configs as text and arguments."""

import json

import pytest

from motfm_jax import presets, settings

NAN, INFINITE = float("nan"), float("inf")


def make_config(changes=()):
    made = settings.default()
    with made.unlocked():
        made.update_from_flattened_dict(dict(changes))
    return made


def test_the_default_is_valid_and_locked():
    settings.check(settings.default())
    with pytest.raises(AttributeError, match="lr"):
        settings.default().train.lrr = 1.0


@pytest.mark.parametrize("path", settings.CHOICES)
def test_a_choice_that_does_not_exist_is_refused_with_the_ones_that_do(path):
    choices = settings.CHOICES[path]
    with pytest.raises(ValueError, match=f"^config.{path}='nothing': use one of {choices[0]}"):
        settings.check(make_config({path: "nothing"}))
    near = choices[-1][:-1] + "_"
    with pytest.raises(ValueError, match=f"did you mean '{choices[-1]}'".replace("+", r"\+")):
        settings.check(make_config({path: near}))


@pytest.mark.parametrize("path", settings.POSITIVE)
def test_a_number_that_must_be_positive(path):
    kind = type(settings.field(settings.default(), path))
    for value in (0, -1) if kind is int else (0.0, -1e-9, NAN, INFINITE):
        with pytest.raises(ValueError, match=f"^config.{path}={value}: needs .* above 0"):
            settings.check(make_config({path: value}))


@pytest.mark.parametrize("path", settings.NOT_NEGATIVE)
def test_a_number_that_must_not_be_negative(path):
    kind = type(settings.field(settings.default(), path))
    for value in (-1,) if kind is int else (-1e-9, NAN, INFINITE):
        with pytest.raises(ValueError, match=f"^config.{path}={value}: needs .* 0 or more"):
            settings.check(make_config({path: value}))
    settings.check(make_config({"train.steps": 1, path: 0}))


DECATHLON = {"data.source": "decathlon", "data.root": "brains", "data.size": (32, 32, 32)}
WRONG = [
    ({"model.channels": (32, 0)}, "config.model.channels=.*whole numbers, each above 0"),
    ({"model.channels": (32, 64.0)}, "config.model.channels=.*whole numbers"),
    ({"model.channels": (32, True)}, "config.model.channels=.*whole numbers"),
    ({"model.channels": (32, "64")}, "config.model.channels=.*whole numbers"),
    ({"model.channels": (), "model.attention": ()}, "config.model.channels=.*one or more"),
    (
        {"model.channels": (32, 48), "model.attention": (False, False)},
        "48 .*config.model.norm_gr",
    ),
    ({"model.attention": (True,)}, "config.model.attention=.*one flag for each of the 5 levels"),
    ({"model.attention": (0, 0, 0, 1, 1)}, "config.model.attention=.*True or False"),
    ({"model.head_dim": 33}, "config.model.head_dim=33: the 224 channels"),
    ({"model.head_dim": 224}, "config.model.head_dim=224: the 256 channels"),
    ({"model.head_dim": 48, "model.attention": (False,) * 5}, "head_dim=48: the 256.*middle"),
    ({"model.dropout": 1.0}, "config.model.dropout=1.0"),
    ({"model.dropout": -0.1}, "config.model.dropout=-0.1"),
    ({"model.dropout": NAN}, "config.model.dropout=nan"),
    ({"data.size": (64,)}, r"config.data.size=\(64,\): give \(H, W\) or"),
    ({"data.size": ()}, "config.data.size="),
    ({"data.size": (64, 64, 64)}, "config.data.size=.*phantom_echo is 2-D"),
    ({"data.size": (64, 64.0)}, "config.data.size=.*whole numbers"),
    ({"data.size": (64, 0)}, "config.data.size=.*above 0"),
    ({"data.size": (72, 64)}, r"config.data.size=.*multiple of 16; nearest: \((64|80), 64\)"),
    ({"data.size": (3, 64)}, r"config.data.size=.*multiple of 16; nearest: \(16, 64\)"),
    ({"data.source": "phantom_brain"}, "config.data.size=.*phantom_brain is 3-D"),
    ({**DECATHLON, "data.size": (64, 64)}, "config.data.size=.*decathlon is 3-D"),
    ({"data.source": "camus"}, "config.data.root is empty: camus"),
    ({**DECATHLON, "data.root": ""}, "config.data.root is empty: decathlon"),
    ({"data.source": "pickle"}, "config.data.root is empty: pickle"),
    ({**DECATHLON, "cond": "mask+class"}, r"config.cond='mask\+class': decathlon data have no"),
    ({"data.size": (10**400 + 1, 64)}, "config.data.size=.*whole numbers"),
    ({"data.intensity.range": (-(10**400), 1)}, "config.data.intensity.range=.*give 2 numbers"),
    ({"data.intensity.range": (1.0, 1.0)}, "config.data.intensity.range=.*lower"),
    ({"data.intensity.range": (0.0, NAN)}, "config.data.intensity.range=.*give 2 numbers"),
    ({"data.intensity.range": (0.0, 1.0, 2.0)}, "config.data.intensity.range=.*give 2 numbers"),
    ({"data.intensity.range": ("0", "1")}, "config.data.intensity.range=.*give 2 numbers"),
    ({"data.intensity.percentiles": (-1.0, 50.0)}, "config.data.intensity.percentiles=.*0 <="),
    ({"data.intensity.percentiles": (50.0, 101.0)}, "config.data.intensity.percentiles=.*<= 100"),
    ({"data.intensity.percentiles": (50.0, 50.0)}, "config.data.intensity.percentiles=.*first <"),
    ({"data.intensity.percentiles": (50.0,)}, "config.data.intensity.percentiles=.*2 numbers"),
    ({**DECATHLON, "data.spacing_mm": (1.0, 1.0)}, "config.data.spacing_mm=.*give 3 numbers"),
    ({**DECATHLON, "data.spacing_mm": (1.0, 0.0, 1.0)}, "config.data.spacing_mm=.*above 0"),
    ({**DECATHLON, "data.label_map": (1, 2)}, r"config.data.label_map=.*pairs \(from, to\)"),
    ({**DECATHLON, "data.label_map": ((1, 2, 3),)}, "config.data.label_map=.*pairs"),
    ({**DECATHLON, "data.label_map": ((1, -1),)}, "config.data.label_map=.*0 to 255"),
    ({**DECATHLON, "data.label_map": ("ab",)}, "config.data.label_map=.*pairs"),
    ({"train.batch_size": 10**400}, r"config.train.batch_size=10{39}: .* below 4294967296"),
    ({"train.batch_size": True}, "config.train.batch_size=True: needs a number above 0"),
    ({"train.steps": True}, "config.train.steps=True: needs a number 0 or more"),
    ({"train.steps": 0, "train.epochs": 0}, "config.train.steps=0 and config.train.epochs=0"),
    ({"train.batch_size": 8, "train.accumulation": 3}, "config.train.batch_size=8.*accumulation=3"),
    ({"train.ema": 1.0}, "config.train.ema=1.0"),
    ({"train.ema": -0.1}, "config.train.ema=-0.1"),
    ({"train.ema": NAN}, "config.train.ema=nan"),
    ({"diffusion.eta": 1.5, "method": "ddpm"}, "config.diffusion.eta=1.5"),
    ({"diffusion.eta": NAN, "method": "ddpm"}, "config.diffusion.eta=nan"),
    ({"data.intensity.mode": "zscore", "method": "ddpm"}, "intensity.mode='zscore'.*'ddpm'"),
    ({"data.intensity.range": (0.0, 1.0), "method": "ddpm"}, r"range=\(0.0, 1.0\).*'ddpm'"),
    ({"data.intensity.range": (0.0, 1.0), "method": "spade", "cond": "mask"}, "tanh"),
    ({"method": "spade", "cond": "mask", "model.dropout": 0.1}, "only a UNet has it"),
    ({"method": "spade", "cond": "class"}, "cond='class': it makes images from masks"),
    ({"method": "spade", "cond": "mask", "train.base": "x"}, "only a UNet can be kept"),
    ({"method": "spade", "cond": "mask", "train.optimizer": "sgd"}, "trained with adam"),
    (
        {**DECATHLON, "method": "spade", "cond": "mask", "spade.perceptual_weight": 10.0},
        "perceptual_weight=10.0 with config.data.size=.*2-D images",
    ),
    ({"method": "spade", "cond": "mask", "spade.perceptual_weight": -1.0}, "0 or more"),
]
EDGES = [
    {"data.size": (16, 16)},
    {"model.channels": (32,), "model.attention": (True,), "data.size": (1, 1)},
    {"model.head_dim": 0},
    {"model.head_dim": 256, "model.attention": (False,) * 5},  # the middle alone attends
    {"model.dropout": 0.99},
    {"data.intensity.range": (0, 1)},
    {"data.intensity.percentiles": (0.0, 100.0)},
    {**DECATHLON, "cond": "mask", "data.spacing_mm": (1, 1.5, 2), "data.label_map": ((0, 255),)},
    {"train.steps": 0, "train.epochs": 1},
    {"train.steps": 1, "train.epochs": 0},
    {"train.batch_size": 1, "train.accumulation": 1},
    {"train.ema": 0.0},
    {"method": "ddpm", "diffusion.eta": 1.0, "data.intensity.mode": "percentile"},
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
    parse = settings.parse_arguments
    defaults = dict(cond="none", size="paper")
    assert parse("", **defaults) == defaults
    assert parse("size=debug", **defaults) == {"cond": "none", "size": "debug"}
    assert parse("cond=mask+class,size=small", **defaults) == {
        "cond": "mask+class",
        "size": "small",
    }
    assert parse("anatomy=brain", anatomy="echo") == {"anatomy": "brain"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("cond=msk", r"config argument cond=msk: use one of none, class, mask, mask\+class"),
        ("method=ddmp", "config argument method=ddmp: use one of flow, ddpm, spade"),
        ("size=big", "config argument size=big: use one of debug, small, paper"),
        ("anatomy=echo", r"config argument 'anatomy=echo': this file takes method=..., cond=..., "),
        ("debug", "config argument 'debug': this file takes"),
        ("size=", "config argument size=: use one of"),
    ],
)
def test_arguments_that_a_config_file_does_not_take(text, message):
    with pytest.raises(ValueError, match=message):
        settings.parse_arguments(text, method="flow", cond="none", size="paper")


def test_a_saved_config_comes_back_and_older_ones_take_defaults():
    made = make_config({**DECATHLON, "data.label_map": ((2, 1), (3, 1)), "train.lr": 3e-4})
    again = settings.from_json(json.loads(json.dumps(made.to_dict())))
    assert again.to_dict() == made.to_dict()
    assert again.data.label_map == ((2, 1), (3, 1)), "pairs are tuples again, not lists"
    assert again.is_locked
    assert settings.from_json({"train": {"lr": 1}}).to_dict() == {
        **settings.default().to_dict(),
        "train": {**settings.default().train.to_dict(), "lr": 1.0},
    }


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"train": {"lrr": 1.0}},
            r"config.train.lrr: there is no such field; did you mean train.lr\?",
        ),
        ({"traim": {}}, r"config.traim: there is no such field; did you mean train\?"),
        ({"data": {"intensity": {"xyz": 1}}}, "config.data.intensity.xyz: there is no such field$"),
        ({"train": {"lr": "fast"}}, "config.train.lr='fast': needs .* float"),
        ({"train": {"steps": 1.5}}, "config.train.steps=1.5: needs .* int"),
        ({"train": {"lr": None}}, "config.train.lr=None: needs .* float"),
        ({"model": 3}, "config.model=3: needs"),
        ({"seed": {"a": 1}}, "config.seed=.*: needs .* int"),
        ({"data": {"size": 64}}, "config.data.size=64: needs .* tuple"),
        ({"train": {"lr": 10**400}}, "config.train.lr=10*: needs .* float"),
        ([], r"config=\[\]: fields by name needed"),
        (3, "config=3: fields by name needed"),
    ],
)
def test_a_saved_config_with_fields_or_types_of_another_program(values, message):
    with pytest.raises(ValueError, match=message):
        settings.from_json(values)


@pytest.mark.parametrize(
    "fields, error",
    [
        (dict(model=dict(chanels=(32, 64))), KeyError),
        (dict(model=dict(channels=64)), TypeError),
        (dict(train=dict(steps=1.5)), TypeError),
    ],
)
def test_a_preset_cannot_set_an_unknown_field_or_another_type(monkeypatch, fields, error):
    monkeypatch.setitem(presets._SIZES[2], "debug", [fields])
    with pytest.raises(error):
        presets.apply(settings.default(), 2, "debug")


DEBUG = "--config=configs/phantom.py:size=debug"


def test_flags_change_fields_of_the_config_file(parse):
    parsed = parse(
        DEBUG,
        "--config.train.lr=1",
        "--config.data.size=(64,48)",
        "--config.model.remat=true",
        "--config.data.label_map=((2,1),)",
        "--config.cond=none",
    )
    assert (parsed.train.lr, parsed.model.remat, parsed.cond) == (1.0, True, "none")
    assert (parsed.data.size, parsed.data.label_map) == ((64, 48), ((2, 1),))
    assert parsed.model.channels == (16, 32), "from the preset"
    assert parsed.is_locked


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((DEBUG, "--config.train.lrr=1"), "Did you mean .?lr"),
        ((DEBUG, "--config.trian.lr=1"), "Did you mean .?train"),
        ((DEBUG, "--config.train.steps=1.5"), "--config.train.steps=1.5"),
        ((DEBUG, "--config.train.lr=fast"), "--config.train.lr=fast"),
        ((DEBUG, "--config.model.remat=maybe"), "--config.model.remat=maybe"),
        ((DEBUG, "--config.data.size=(64,64.0)"), "config.data.size=.*whole numbers"),
        ((DEBUG, "--config.data.size=(64"), "config.data.size=.*whole numbers"),
        ((DEBUG, "--config.train.lr=nan"), "config.train.lr=nan"),
        ((DEBUG, "debug"), "'debug': flags are given as --name=value"),
        (("--config=configs/phantm.py",), "there is no file configs/phantm.py; see configs/"),
        (("--config=configs/phantom.py:cond=msk",), "cond=msk: use one of none, class, mask"),
        (("--config=configs/phantom.py:anatomy=heart",), "anatomy=heart: use echo or brain"),
        (("--cofig=configs/phantom.py",), "cofig.*Did you mean: config"),
        ((), "--config is missing"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line_that_says_where(parse, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(*arguments)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


SPECKLE = {"flow.source": "speckle"}
CHANNEL = {
    "flow.source": "channel",
    "flow.source_channel": "T1w",
    "data.channel": "FLAIR",
    "data.source": "decathlon",
    "data.root": "x",
    "data.size": (16, 16, 16),
}


@pytest.mark.parametrize(
    "changes, message",
    [
        (SPECKLE | {"method": "ddpm"}, "only a flow starts from anything but noise"),
        (SPECKLE | {"flow.speckle_power": (0.2, 0.1)}, "the least, then the greatest"),
        (SPECKLE | {"flow.speckle_power": (0.0, 0.1)}, "flow.speckle_power=.*each above 0"),
        (SPECKLE | {"data.intensity.mode": "zscore"}, "speckle grows with the distance from black"),
        ({"flow.source": "channel"}, "it has one channel"),
        (CHANNEL | {"flow.source_channel": ""}, "give two different names"),
        (CHANNEL | {"flow.source_channel": "flair"}, "give two different names"),
        (CHANNEL | {"data.augment.gamma": 0.1}, "would change the contrast that is to be learned"),
    ],
)
def test_what_a_flow_starts_from_must_exist(changes, message):
    settings.check(make_config(SPECKLE))
    settings.check(make_config(CHANNEL))
    with pytest.raises(ValueError, match=message):
        settings.check(make_config(changes))


def test_a_controlnet_needs_masks():
    with pytest.raises(ValueError, match=r"config.train.base='runs/base' with config.cond='class'"):
        settings.check(make_config({"train.base": "runs/base", "cond": "class"}))
