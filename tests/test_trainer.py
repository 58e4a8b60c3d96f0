"""Whole runs: train, resume, sample, export; for every dimension and conditioning."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest
from tiny import FACTS, ONE_LEVEL, SIZES, make_config, save_run

import motfm_jax as motfm
from motfm_jax import build, datasets, runs, trainer
from motfm_jax.data import pipeline
from motfm_jax.data.facts import Facts
from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.io.run_folder import read_metrics
from motfm_jax.settings import CONDITIONS, check
from motfm_jax.trainer import check_facts, num_steps, train
from motfm_jax.training import loop, memory
from motfm_jax.training.memory import Memory
from motfm_jax.training.reports import draw_losses, parent_lines, resume_lines

# One whole run of each method; the other combinations at night. The flow with masks and classes is
# that of test_resuming_is_exact.
DEFAULT = {
    (2, "class", "ddpm"),
    (2, "mask", "spade"),
    (3, "none", "flow"),
}
ALL = [
    pytest.param(*case, marks=[] if case in DEFAULT else [pytest.mark.nightly])
    for case in itertools.product((2, 3), CONDITIONS, ("flow", "ddpm", "spade"))
    if case[2] != "spade" or "mask" in case[1]
    # Diffusion meets volumes without a condition and with all; the others would add minutes.
    if case[::2] != (3, "ddpm") or case[1] in ("none", "mask+class")
]


def tiny(dims: int, cond: str, method: str = "flow", **train_fields):
    """A run of seconds: one block at one level of 8 channels, a batch of 4."""
    channels = (8, 8) if method == "spade" else (8,)
    fields = dict(batch_size=4, log_every=1, eval_every=2, save_every=2, sample_every=100)
    return make_config(
        dims,
        cond=cond,
        method=method,
        data__phantom_patients=10,
        model__channels=channels,
        model__attention=(False,) * len(channels),
        model__res_blocks=1,
        model__transformer_layers=1,
        **{f"train__{name}": value for name, value in (fields | train_fields).items()},
    )


def sampled(run: Path, seed: int = 0, batch: int = 0, num: int = 3) -> np.ndarray:
    model = motfm.load(run)
    steps = 1 if model.config.method == "spade" else 2
    samples = model.sample(num, steps=steps, seed=seed, batch=batch)
    assert (samples.calls == steps).all()
    return samples.images


@pytest.mark.slow
@pytest.mark.parametrize("dims, cond, method", ALL)
def test_every_kind_of_model_trains_resumes_and_samples(tmp_path, dims, cond, method):
    run = tmp_path / "run"
    first = train(tiny(dims, cond, method, steps=2), run)
    assert first.step == 2 and first.stopped_by is None
    resumed = train(tiny(dims, cond, method, steps=4), run, resume=True)
    assert resumed.step == 4
    rows = read_metrics(run)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    validated = [] if method == "spade" else [2, 4]
    assert [row["step"] for row in rows if "valid_loss" in row] == validated
    assert (run / "loss.png").exists() and (run / "samples" / "0000004.png").exists()
    assert sampled(run).shape == (3, *SIZES[dims], 1)


@pytest.mark.slow
def test_resuming_is_exact_with_accumulation_average_and_augmentation(tmp_path):
    def config(steps):
        made = tiny(2, "mask+class", steps=steps, accumulation=2, ema=0.9, warmup=2)
        made.data.augment.update(dict(affine=0.2, gamma=0.2))
        made.model.dropout = 0.1
        return made

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config(4), whole)
    train(config(2), parts)
    train(config(4), parts, resume=True)
    pace = "images_per_second"
    assert [{k: v for k, v in row.items() if k != pace} for row in read_metrics(whole)] == [
        {k: v for k, v in row.items() if k != pace} for row in read_metrics(parts)
    ]
    expected, found = restore_weights(whole, 4).params, restore_weights(parts, 4).params
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert sampled(parts).shape == (3, *SIZES[2], 1)


@pytest.mark.parametrize("room, chosen", [(60, "none"), (50, "norms"), (10, "blocks")])
def test_auto_computes_again_as_little_as_fits(room, chosen, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    plans = (Memory(needed, 0, room) for needed in (50, 30, 10))
    monkeypatch.setattr(memory, "of_training", lambda *_: next(plans))
    config = tiny(2, "none", steps=1)
    config.model.remat = "auto"
    train(config, tmp_path / "run")
    assert f"model.remat={chosen}\n" in caplog.text
    assert caplog.text.count("too much") == ("none", "norms", "blocks").index(chosen)
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["remat"] == "auto"


@pytest.mark.nightly
def test_a_run_goes_on_on_another_machine(tmp_path, caplog):
    caplog.set_level("INFO")
    run = tmp_path / "run"
    train(tiny(2, "none", steps=2, warmup=2), run)
    before = restore_weights(run, "last").params
    other = dict(batch_size=2, accumulation=2, lr=1e-4, schedule="cosine", warmup=1, clip=0.0)
    changed = tiny(2, "none", steps=4, dtype="bfloat16", **other)
    changed.model.remat = "blocks"
    assert train(changed, run, resume=True).step == 4
    after = restore_weights(run, "last").params
    assert max(np.abs(after[name] - before[name]).max() for name in before) > 0
    start = json.loads((run / "environment.json").read_text())[-1]
    assert start | {"step": 2, "images": 8, "batch_size": 2} == start
    assert sorted(change.split()[0] for change in start["changes"]) == [
        "model.remat",
        *(f"train.{name}" for name in sorted([*other, "dtype", "steps"])),
    ]
    assert "resumed after update 2, 8 images" in caplog.text
    assert "changed: train.batch_size was 4, is 2" in caplog.text
    assert caplog.text.count("not comparable bit for bit") == 1
    assert read_metrics(run)[-1]["step"] == 4
    with pytest.raises(ValueError, match=r"train\.optimizer was 'adam', is 'sgd'"):
        train(tiny(2, "none", steps=4, optimizer="sgd", **other), run, resume=True)


def test_results_stay_comparable_where_only_the_length_changes():
    longer = ["train.steps was 4, is 8"]
    for schedule, comparable in (("constant", True), ("cosine", False)):
        lines = resume_lines(4, 32, longer, schedule)
        assert lines[:2] == ["resumed after update 4, 32 images", f"changed: {longer[0]}"]
        assert (len(lines) == 2) is comparable


@pytest.mark.nightly
def test_numbers_beyond_the_range_of_bfloat16_stop_the_run_and_are_not_kept(tmp_path):
    run = tmp_path / "run"
    config = tiny(2, "none", steps=4, dtype="bfloat16", optimizer="sgd", clip=0.0, lr=1e30)
    with pytest.raises(loop.NonFiniteError, match=r"step 2: loss (inf|nan).*train.dtype=float32"):
        train(config, run)
    weights = restore_weights(run)
    assert weights.step == 1
    assert all(np.isfinite(leaf).all() for leaf in weights.params.values())


@pytest.mark.nightly
def test_images_do_not_depend_on_the_batch_they_are_solved_in(tmp_path):
    run = tmp_path / "run"
    train(tiny(2, "class", steps=2), run)
    alone, together = (sampled(run, batch=batch) for batch in (1, 3))
    np.testing.assert_allclose(alone, together, atol=1e-4 * 255, rtol=0)
    assert np.abs(alone - sampled(run, seed=1)).max() > 1


@pytest.mark.nightly
def test_a_controlnet_leaves_the_unet_it_began_with_as_it_is(tmp_path):
    train(tiny(2, "none", "ddpm", steps=2), tmp_path / "base")
    base = runs.load_run(tmp_path / "base")

    def config(steps):
        made = tiny(2, "mask", "ddpm", steps=steps)
        made.train.base = str(tmp_path / "base")
        return made

    run = tmp_path / "controlled"
    train(config(2), run)
    (tmp_path / "base").rename(tmp_path / "moved")  # a run that has begun needs it no more
    train(config(4), run, resume=True)
    trained = runs.load_run(run, "last")
    for name, value in base.params.items():
        np.testing.assert_array_equal(trained.params[name], value, err_msg=name)
    copied = "controlnet/encoder/conv_in/kernel"
    assert np.abs(trained.params[copied] - base.params["unet/encoder/conv_in/kernel"]).max() > 0
    assert np.abs(trained.params["controlnet/middle_conv/kernel"]).max() > 0
    with pytest.raises(ValueError, match=r"(no run|no such|checkpoint)"):
        train(config(2), tmp_path / "other")
    (tmp_path / "moved").rename(tmp_path / "base")
    train(config(1), run, overwrite=True)
    trained = runs.load_run(run, "last")
    for name, value in base.params.items():
        np.testing.assert_array_equal(trained.params[name], value, err_msg=name)
    for field, value in (("method", "flow"), ("cond", "mask+class")):
        other = config(2)
        other[field] = value
        with pytest.raises(ValueError, match=r"config.train.base=.*: its (method|cond) is"):
            train(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.nightly
def test_a_run_begins_with_the_weights_of_another_on_other_data(tmp_path, caplog):
    caplog.set_level("INFO")
    config = tiny(2, "mask+class", steps=2)
    train(config, tmp_path / "phantom")
    parent = runs.load_run(tmp_path / "phantom")

    def tuned(steps, **changes):
        made = tiny(2, "mask+class", steps=steps, **changes)
        made.train.init_from = str(tmp_path / "phantom")
        made.data.classes, made.data.size = "phase", (24, 8)
        return made

    run = tmp_path / "tuned"
    train(tuned(1, lr=1e-12, ema=0.0), run)
    found = runs.load_run(run)
    assert parent.facts.classes == ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
    assert found.facts.classes == ("ED", "ES") and found.facts.size == (24, 8)
    name = "unet/encoder/conv_in/kernel"
    np.testing.assert_allclose(found.params[name], parent.params[name], atol=1e-9)
    record = json.loads((run / "parent.json").read_text())
    assert (record["run"], record["step"]) == ("phantom", parent.step)
    assert record["checkpoint"] == parent.checkpoint_hash
    assert record["classes"]["anew"] == ["ED", "ES"] and not record["classes"]["taken"]
    assert record["mask_labels"]["taken"] == list(parent.facts.mask_labels)
    assert all("attn2/to_" in name for name in record["parameters"]["anew"])
    assert "starts from the averaged weights of phantom, step 2" in caplog.text
    assert "classes: ED, ES begun anew; 2CH_ED" in caplog.text

    (tmp_path / "phantom").rename(tmp_path / "moved")  # a run that has begun needs it no more
    assert train(tuned(2, lr=1e-12, ema=0.0), run, resume=True).step == 2
    (tmp_path / "moved").rename(tmp_path / "phantom")
    train(tiny(2, "none", steps=1), run, overwrite=True)
    assert not (run / "parent.json").exists()


def test_a_run_gives_no_weights_to_another_kind_of_network(tmp_path):
    parent = save_run(tmp_path / "parent", make_config(**ONE_LEVEL))
    for changes, message in (
        (dict(method="ddpm"), "its method is 'flow', here 'ddpm'"),
        (dict(model__norm_groups=2), "its model.norm_groups is 4, here 2"),
        (dict(dims=3), "its number of axes is 2, here 3"),
    ):
        config = make_config(**ONE_LEVEL, **changes, train__init_from=str(parent))
        facts = dataclasses.replace(FACTS, size=tuple(config.data.size))
        model = build.architecture(config, facts)
        with pytest.raises(ValueError, match=message) as error:
            runs.inherited_weights(config, model, facts, jax.random.key(0))
        assert "\n" not in str(error.value)


def test_a_flow_from_images_may_begin_with_one_from_noise_and_not_the_other_way(tmp_path):
    def inherited(parent, child):
        run = save_run(tmp_path / parent, make_config(**ONE_LEVEL, flow__source=parent))
        config = make_config(**ONE_LEVEL, flow__source=child, train__init_from=str(run))
        model = build.architecture(config, FACTS)
        params, _ = runs.inherited_weights(config, model, FACTS, jax.random.key(0))
        return params, runs.load_run(run).params

    taken, given = inherited("noise", "speckle")
    name = "unet/encoder/conv_in/kernel"
    np.testing.assert_array_equal(taken[name], given[name])
    with pytest.raises(ValueError, match=r"its flow.source is 'speckle', here 'noise'"):
        inherited("speckle", "noise")


def test_a_grey_run_says_which_colour_its_weights_are_of(tmp_path):
    colours = dataclasses.replace(FACTS, channels=3, channel_names=("red", "green", "blue"))
    parent = save_run(tmp_path / "parent", make_config(**ONE_LEVEL), colours)
    config = make_config(**ONE_LEVEL, train__init_from=str(parent))
    model = build.architecture(config, FACTS)
    _, record = runs.inherited_weights(config, model, FACTS, jax.random.key(0))
    assert "  channel 1 starts from the weights of channel red" in parent_lines(record)


@pytest.mark.nightly
@pytest.mark.parametrize("source", ["speckle", "channel"])
def test_a_flow_from_image_to_image_trains_resumes_and_is_measured(tmp_path, source):
    dims = 2 if source == "speckle" else 3

    def config(steps):
        made = tiny(dims, "mask" if dims == 2 else "none", steps=steps, sample_every=2)
        made.flow.source = source
        if source == "channel":
            made.data.update(
                dict(
                    source="decathlon", root=str(tmp_path / "data"), channel="FLAIR", spacing_mm=()
                )
            )
            made.flow.source_channel = "T1w"
        check(made)
        return made

    if source == "channel":
        write_two_channels(tmp_path / "data")
    run = tmp_path / "run"
    train(config(2), run)
    assert train(config(4), run, resume=True).step == 4
    assert (run / "samples" / "0000004.png").exists()
    trained = runs.load_run(run)
    arrays = datasets.arrays(trained.config, "valid")
    start = datasets.start(trained.config, trained.facts)
    examples = pipeline.Examples(arrays, trained.intensity, start)
    starts, real = pipeline.read_pairs(examples, np.arange(1))
    assert starts.shape == real.shape == (1, *SIZES[dims], 1)
    assert np.abs(starts - real).mean() > 0.01


def write_two_channels(root: Path) -> None:
    """A Decathlon folder in which FLAIR is the negative of T1w."""
    (root / "imagesTr").mkdir(parents=True)
    names, rng = [f"imagesTr/V_{number}.nii.gz" for number in range(12)], np.random.default_rng(0)
    for name in names:
        t1w = rng.uniform(0, 100, (8, 8, 8)).astype(np.float32)
        both = np.stack([100 - t1w, t1w], axis=-1)
        nibabel.save(nibabel.Nifti1Image(both, np.eye(4)), root / name)
    (root / "dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "FLAIR", "1": "T1w"},
                "training": [{"image": name} for name in names],
            }
        )
    )


def test_epochs_count_the_last_short_batch():
    config = tiny(2, "none", steps=0, epochs=3, batch_size=8)
    assert num_steps(config, 17) == 9
    # Three epochs are 60 places in batches of 4, of which 24 were filled in 3 updates of 8.
    config.train.batch_size = 4
    assert num_steps(config, 17, start=3, images=24) == 3 + (60 - 24) // 4
    assert num_steps(config, 17, start=40, images=100) == 40
    config.train.steps = 5
    assert num_steps(config, 17, start=3, images=24) == 5


def test_a_loss_that_is_no_number_is_left_out_of_the_picture(tmp_path):
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": "nan?"}, {"step": 3, "loss": 0.25}]
    pictures = []
    for logged in (rows, rows[::2]):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
        draw_losses(tmp_path)
        pictures.append((tmp_path / "loss.png").read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.nightly
def test_a_start_that_saved_nothing_is_no_run(tmp_path, monkeypatch):
    run, config = tmp_path / "run", tiny(2, "none", steps=1)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, run)
    assert (run / "config.json").exists()
    assert train(config, run).step == 1


def test_resuming_with_other_data_is_refused(tmp_path):
    facts = Facts((8, 8), 1, ("a", "b"), (), {"low": 0.0, "range": (-1.0, 1.0)})
    path = tmp_path / "facts.json"
    check_facts(path, facts)  # nothing there yet
    path.write_text(json.dumps(facts.to_json() | {"unknown": []}))  # a field of 0.1.0
    check_facts(path, facts)
    added = ("label_values", "channel_names", "bounds")  # since 0.1.0
    old = {name: value for name, value in facts.to_json().items() if name not in added}
    path.write_text(json.dumps(old))
    check_facts(path, dataclasses.replace(facts, channel_names=("T1w",), bounds=(0.0, 9.0)))
    with pytest.raises(ValueError, match=r"classes was \['a', 'b'\], is \['b', 'a'\]"):
        check_facts(path, dataclasses.replace(facts, classes=("b", "a")))
    path.write_text("")
    with pytest.raises(ValueError, match=r"facts\.json: cannot be read"):
        check_facts(path, facts)


def test_processes_that_read_other_checkpoints_do_not_train_together(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.parallel, "gather", lambda step: np.array([step, step + 10]))
    with pytest.raises(ValueError, match=r"checkpoints of different steps \(\[0, 10\]\)"):
        trainer.check_same_step(0, tmp_path)


@pytest.mark.nightly
def test_nothing_is_compiled_again_in_later_epochs(tmp_path):
    def compilations(work) -> int:
        found.clear()
        work()
        return sum(event.endswith("backend_compile_duration") for event in found)

    found = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: found.append(event)
    )
    config = tiny(2, "mask+class", steps=3, sample_every=3)
    train(config, tmp_path / "warm")  # what several runs share is compiled
    few = compilations(lambda: train(config, tmp_path / "few"))
    config.train.steps = 24  # epochs of 15 images, validations, pictures, saves
    assert compilations(lambda: train(config, tmp_path / "many")) == few

    sampled(tmp_path / "few", num=3, batch=2)
    few = compilations(lambda: sampled(tmp_path / "few", num=3, batch=2))
    assert compilations(lambda: sampled(tmp_path / "few", num=9, batch=2)) == few
