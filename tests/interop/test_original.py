"""The original's YAML config against ours: every field of its files arrives, nothing else does."""

import copy

import pytest

from motfm_jax.data.facts import Facts
from motfm_jax.interop import original
from motfm_jax.settings import check

# The fields of the original's default config.
VALUES = {
    "model_args": {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1,
        "num_res_blocks": [2, 2, 2],
        "num_channels": [8, 16, 24],
        "attention_levels": [False, True, True],
        "norm_num_groups": 8,
        "resblock_updown": True,
        "num_head_channels": [8, 16, 24],
        "transformer_num_layers": 6,
        "use_flash_attention": True,
        "with_conditioning": True,
        "mask_conditioning": True,
        "cross_attention_dim": 4,
        "conditioning_embedding_num_channels": [12],
    },
    "data_args": {"pickle_path": "camus.pkl", "split_train": "train", "split_val": "valid"},
    "train_args": {
        "num_epochs": 20,
        "batch_size": 2,
        "lr": 0.0003,
        "print_every": 1,
        "val_freq": 1,
        "device": "cuda",
        "num_val_samples": 10,
        "checkpoint_dir": "checkpoints",
        "gradient_accumulation_steps": 3,
        "grad_clip_norm": 0.5,
        "seed": 42,
    },
    "solver_args": {"method": "midpoint", "step_size": 0.2, "time_points": 5},
}


def changed(**sections):
    """VALUES with fields changed; None removes one."""
    values = copy.deepcopy(VALUES)
    for section, fields in sections.items():
        for name, value in fields.items():
            values.setdefault(section, {})[name] = value
            if value is None:
                del values[section][name]
    return values


def translated(**sections):
    return original.translate(changed(**sections), "original.yaml")


def test_each_field_arrives():
    result = translated()
    config = result.config
    assert config.cond == "mask+class" and config.seed == 42
    assert (
        config.model.to_dict()
        | dict(
            channels=(8, 16, 24),
            res_blocks=2,
            attention=(False, True, True),
            head_dim=0,
            transformer_layers=6,
            mask_embedding=12,
            time="floor",
            norm_groups=8,
        )
        == config.model.to_dict()
    )
    assert (
        config.train.to_dict()
        | dict(
            epochs=20,
            batch_size=6,
            accumulation=3,
            lr=0.0003,
            clip=0.5,
            ema=0.0,
            dtype="auto",
        )
        == config.train.to_dict()
    )
    assert (
        config.data.to_dict()
        | dict(
            source="pickle",
            root="camus.pkl",
            mask_encoding="scalar",
            size=(4, 4),
        )
        == config.data.to_dict()
    )
    assert (config.data.intensity.mode, config.data.intensity.scope) == ("minmax", "dataset")
    assert tuple(config.data.intensity.range) == (0.0, 1.0)
    assert (result.channels, result.num_classes, result.mask_channels) == (1, 4, 1)
    assert result.solver == ("midpoint", 5) and result.notes == []
    config.data.size = (32, 32)
    check(config)


@pytest.mark.parametrize(
    "with_class, with_mask, cond",
    [
        (False, False, "none"),
        (True, False, "class"),
        (False, True, "mask"),
        (True, True, "mask+class"),
    ],
)
def test_the_four_conditionings(with_class, with_mask, cond):
    switches = {"with_conditioning": with_class, "mask_conditioning": with_mask}
    assert translated(model_args=switches).config.cond == cond
    # The older original keeps them elsewhere.
    older = {"class_conditioning": with_class, "mask_conditioning": with_mask}
    gone = dict.fromkeys(switches)
    assert translated(model_args=gone, general_args=older).config.cond == cond


def test_volumes_are_scaled_one_by_one_and_a_missing_accumulation_is_8():
    result = translated(
        model_args={"spatial_dims": 3},
        data_args={"image_norm": {"mode": "auto", "scope": "sample", "range": [-1, 1]}},
        train_args={"gradient_accumulation_steps": None, "batch_size": 1, "precision": "16-mixed"},
    )
    intensity = result.config.data.intensity
    assert (intensity.mode, intensity.scope, intensity.range) == ("minmax", "sample", (-1.0, 1.0))
    assert (result.config.train.batch_size, result.config.train.accumulation) == (8, 8)
    assert [note.split(":")[0] for note in result.notes] == [
        "data_args.image_norm.mode=auto",
        "train_args.gradient_accumulation_steps=None",
        "train_args.precision=16-mixed",
    ]


def test_heads_of_one_width_keep_it():
    result = translated(model_args={"num_head_channels": 8})
    assert result.config.model.head_dim == 8
    # Levels that do not attend may say anything.
    assert translated(model_args={"num_head_channels": [5, 8, 8]}).config.model.head_dim == 8


def test_a_null_counts_as_a_missing_field():
    values = changed()
    values["train_args"]["grad_clip_norm"] = None
    values["model_args"]["norm_eps"] = None
    assert original.translate(values, "original.yaml").config.train.clip == 0


@pytest.mark.parametrize(
    "section, field, value, message",
    [
        ("model_args", "num_chanels", [8], "model_args.num_chanels: unknown"),
        ("data_args", "image_norm", {"bias": 1}, "data_args.image_norm.bias: unknown"),
        ("other_args", "x", 1, "other_args.x: unknown"),
        ("data_args", "image_norm", {"mode": "zscore"}, "image_norm.mode='zscore': needs minmax"),
        ("data_args", "mask_norm", {"mode": "none"}, "mask_norm.mode='none': needs minmax or auto"),
        ("data_args", "split_train", "training", "split_train='training': needs train"),
        ("model_args", "num_res_blocks", [2, 2], "one number for each of the 3 levels"),
        ("model_args", "num_head_channels", [8, 5, 12], "16 channels of a level"),
        ("model_args", "num_head_channels", 0, "1 or more on the levels that attend"),
        ("model_args", "attention_levels", None, "attention_levels=None: needs true or false"),
        ("model_args", "attention_levels", [True], "attention=.*one flag for each of the 3 levels"),
        ("model_args", "resblock_updown", None, "resblock_updown=None: needs True"),
        ("model_args", "norm_eps", 1e-5, "norm_eps=1e-05: needs 1e-06"),
        ("model_args", "out_channels", 2, "out_channels=2: needs 1"),
        ("model_args", "in_channels", None, "in_channels=None: needs a whole number"),
        ("model_args", "cross_attention_dim", None, "cross_attention_dim=None: needs a whole"),
        ("model_args", "conditioning_embedding_num_channels", [16, 32], "would shrink the mask"),
        ("model_args", "num_channels", [7, 16, 24], "7 does not divide"),
        ("model_args", "num_channels", [], "the channels of each level"),
        ("solver_args", "step_size", 1e-320, "a number from 0.0001"),
        ("train_args", "lr", "1e-4", "write 1.0e-4"),
        ("model_args", "spatial_dims", 4, "spatial_dims=4: needs 2 or 3"),
        ("train_args", "precision", "64", "train_args.precision='64'"),
        ("solver_args", "method", "magic", "solver_args.method='magic'"),
        ("general_args", "mask_conditioning", False, "mask_conditioning=False: needs True, as"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(section, field, value, message):
    with pytest.raises(ValueError, match=f"original.yaml: .*{message}"):
        translated(**{section: {field: value}})


@pytest.mark.parametrize(
    "fields, res_blocks, head_dim",
    [
        ({}, 2, 0),
        ({"num_res_blocks": [2, 1, 3], "num_head_channels": [8, 4, 12]}, (2, 1, 3), (8, 4, 12)),
    ],
)
def test_there_and_back(fields, res_blocks, head_dim):
    config = translated(model_args=fields).config
    assert (config.model.res_blocks, config.model.head_dim) == (res_blocks, head_dim)
    config.data.size = (32, 32)
    facts = Facts((32, 32), 1, tuple("abcd"), ("background", "a"), None)
    values, notes = original.to_yaml(config, facts)
    assert notes == []
    again = original.translate(values, "written")
    again.config.data.size = (32, 32)
    assert again.config.to_dict() == config.to_dict()
    assert again.num_classes == 4


def test_what_the_original_would_do_otherwise_is_noted_and_comes_back():
    config = translated().config
    config.model.time, config.data.mask_encoding = "continuous", "onehot"
    config.data.intensity.mode = "percentile"
    facts = Facts((32, 32), 1, tuple("abcd"), tuple("xyz"), None)
    values, notes = original.to_yaml(config, facts)
    for note, message in zip(notes, ("continuous time", "one-hot", "percentile"), strict=True):
        assert message in note
    again = original.translate(values, "written")
    assert again.config.model.time == "continuous"
    assert again.config.data.mask_encoding == "onehot" and again.mask_channels == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("model_args: [1, 2", "is not YAML"),
        ("model_args: {a: !!bool maybe}", "is not YAML"),
        ("- 1", "has no model_args"),
        ("model_args: 3", "has no model_args"),
        ("", "has no model_args"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    path = tmp_path / "original.yaml"
    with pytest.raises(ValueError, match="no such file"):
        original.read_yaml(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=f"original.yaml: {message}"):
        original.read_yaml(path)


def test_a_yaml_tag_that_calls_python_is_not_run(tmp_path):
    path, touched = tmp_path / "hostile.yaml", tmp_path / "touched"
    path.write_text(f"model_args: !!python/object/apply:os.system ['touch {touched}']")
    with pytest.raises(ValueError, match="is not YAML"):
        original.read_yaml(path)
    assert not touched.exists()
