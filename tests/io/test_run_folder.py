"""A run's folder: refusing, resuming, overwriting, records."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from motfm_jax.io.run_folder import SAVED, mark_saved, open_run, read_metrics

CONFIG = {"cond": "none", "data": {"size": (16, 16)}, "train": {"lr": 1e-4, "steps": 10}}
ROOT = Path(__file__).parents[2]


def make_run(path, config=CONFIG, **settings):
    with open_run(path, config, **settings) as run:
        run.start(0, config["train"].get("batch_size", 1))
        run.log(1, {"loss": 0.5})
        run.write_json("facts.json", {"size": [16, 16]})
        (run.checkpoints / "1").mkdir(parents=True, exist_ok=True)
        (run.checkpoints / "1" / "arrays").write_text("weights")
    return path


def changed(path, value):
    config = json.loads(json.dumps(CONFIG))
    room, name = path.split(".") if "." in path else ("", path)
    (config[room] if room else config)[name] = value
    return config


def tree(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_run_holds_its_config_and_what_it_ran_on(tmp_path):
    path = make_run(tmp_path / "new" / "run")
    assert json.loads((path / "config.json").read_text()) == json.loads(json.dumps(CONFIG))
    assert json.loads((path / "facts.json").read_text()) == {"size": [16, 16]}
    (start,) = json.loads((path / "environment.json").read_text())
    assert start["packages"]["jax"] and start["devices"] and start["python"]
    assert "revision" in start


def test_an_existing_run_is_refused_and_untouched(tmp_path):
    path = make_run(tmp_path / "run")
    before = tree(path)
    with pytest.raises(ValueError, match=r"holds a run already; --resume .* --overwrite"):
        open_run(path, CONFIG)
    assert tree(path) == before


def test_resume_starts_a_run_if_there_is_none(tmp_path):
    make_run(tmp_path / "absent", resume=True)
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "empty", resume=True)
    # A start cut short before its config was written.
    (tmp_path / "cut").mkdir()
    for name in ("lock", "environment.json", ".0123abcd.config.json"):
        (tmp_path / "cut" / name).write_text("[]")
    make_run(tmp_path / "cut")


def test_resume_continues_and_adds_each_start(tmp_path):
    path = make_run(tmp_path / "run")
    with open_run(path, changed("train.steps", 20), resume=True) as run:
        assert (run.checkpoints / "1" / "arrays").read_text() == "weights"
    assert json.loads((path / "config.json").read_text())["train"]["steps"] == 20
    assert len(json.loads((path / "environment.json").read_text())) == 2


def test_a_start_records_what_changed_and_where_it_began(tmp_path):
    path = make_run(tmp_path / "run", changed("train.batch_size", 8))
    for step, size, images in ((10, 8, 80), (30, 4, 240), (40, 4, 280), (20, 4, 160), (25, 2, 180)):
        with open_run(path, changed("train.batch_size", size), resume=True) as run:
            assert run.start(step, size) == images, "a start at 20 lost those at 30 and 40"
    _, *starts = json.loads((path / "environment.json").read_text())
    assert [start["changes"] for start in starts] == [
        [],
        ["train.batch_size was 8, is 4"],
        [],
        [],
        ["train.batch_size was 4, is 2"],
    ]
    assert starts[1] | {"step": 30, "images": 240, "batch_size": 4} == starts[1]


def test_a_run_of_an_older_version_had_one_batch_size(tmp_path):
    path = make_run(tmp_path / "run", changed("train.batch_size", 8))
    (path / "environment.json").write_text('[{"revision": null}, {"revision": null}]')
    open_run(path, changed("train.batch_size", 4), resume=True).close()  # cut short
    with open_run(path, changed("train.batch_size", 2), resume=True) as run:
        assert run.start(10, 2) == 80


def test_resume_with_another_config_is_refused_and_gives_up_the_lock(tmp_path):
    path = make_run(tmp_path / "run")
    before = tree(path)
    with pytest.raises(ValueError, match=r"other settings \(train.ema was absent, is 0.5\)"):
        open_run(path, changed("train.ema", 0.5), resume=True)
    assert tree(path) == before
    open_run(path, CONFIG, resume=True).close()


def test_a_run_older_than_a_field_resumes_with_its_default(tmp_path):
    path = make_run(tmp_path / "run")
    newer = {"train": {"ema": 0.9}, "data": {"spacing": (1, 2)}}
    config = changed("train.ema", 0.9)
    config["data"] = {**config["data"], "spacing": (1, 2)}
    with open_run(path, config, resume=True, defaults=newer):
        assert json.loads((path / "config.json").read_text())["train"]["ema"] == 0.9
    other = make_run(tmp_path / "other")
    with pytest.raises(ValueError, match=r"train\.ema was 0\.9, is 0\.5"):
        open_run(other, changed("train.ema", 0.5), resume=True, defaults=newer)


def test_overwrite_deletes_what_the_run_wrote_and_nothing_else(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "notes.txt").write_text("mine")
    with open_run(path, changed("cond", "mask"), overwrite=True) as run:
        assert not run.checkpoints.exists()
        assert not (path / "facts.json").exists()
        assert (path / "notes.txt").read_text() == "mine"
        run.start(0)
    assert read_metrics(path) == []


def test_overwrite_does_not_follow_a_link_out_of_the_run(tmp_path):
    path = make_run(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "keep").write_text("mine")
    (path / "samples").symlink_to(tmp_path / "elsewhere")
    open_run(path, CONFIG, overwrite=True).close()
    assert (tmp_path / "elsewhere" / "keep").exists()
    assert not (path / "samples").exists()


LOST = "the run has lost its checkpoints; put them back"


def test_a_run_without_its_checkpoints_does_not_start_again(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "checkpoints").rename(tmp_path / "moved")
    before = tree(path)
    for settings in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=LOST):
            open_run(path, CONFIG, **settings)
    assert tree(path) == before
    (tmp_path / "moved").rename(path / "checkpoints")
    open_run(path, CONFIG, resume=True).close()


@pytest.mark.parametrize("left", [(), ("damaged-1", "2.orbax-checkpoint-tmp")])
def test_a_run_that_lost_what_was_saved_does_not_start_again(tmp_path, left):
    path = make_run(tmp_path / "run")
    mark_saved(path)
    shutil.rmtree(path / "checkpoints" / "1")
    for name in left:
        (path / "checkpoints" / name).mkdir()
    before = tree(path)
    for settings in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=LOST):
            open_run(path, changed("train.lr", 1.0), **settings)
    assert tree(path) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "checkpoints" / "1").rename(path / "checkpoints" / "1.orbax-checkpoint-tmp")
    open_run(path, changed("train.lr", 1.0)).close()
    assert sorted(tree(path)) == [Path("config.json"), Path("environment.json")]


def test_a_run_remembers_that_it_saved_and_forgets_it_when_overwritten(tmp_path):
    path = make_run(tmp_path / "run")
    assert not (path / SAVED).exists()
    open_run(path, CONFIG, resume=True).close()
    assert (path / SAVED).exists()
    open_run(path, CONFIG, overwrite=True).close()
    assert not (path / SAVED).exists()


@pytest.mark.parametrize("content", ["thesis.tex", "config.json"])
def test_a_folder_of_other_things_is_never_touched(tmp_path, content):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.pt").write_text("not ours")
    (tmp_path / content).write_text("mine")
    before = tree(tmp_path)
    for settings in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=r"other things than a run .*; give another --workdir"):
            open_run(tmp_path, CONFIG, **settings)
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_a_run(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        open_run(tmp_path / "run", CONFIG, overwrite=True)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="choose one"):
        open_run(tmp_path / "run", CONFIG, resume=True, overwrite=True)


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_a_damaged_record_is_one_line(tmp_path, name):
    path = make_run(tmp_path / "run")
    (path / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name}: cannot be read .*; restore it, or start again"):
        open_run(path, CONFIG, resume=True)
    open_run(path, CONFIG, overwrite=True).close()


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path):
    with open_run(tmp_path / "run", CONFIG, writes=False) as run:
        run.start(0)
        run.log(1, {"loss": 0.5})
        run.log_image(1, "samples", np.zeros((4, 6, 3), np.uint8))
        run.write_json("facts.json", {})
    assert not (tmp_path / "run").exists()


def test_rows_beyond_the_restored_step_are_dropped(tmp_path):
    path = tmp_path / "run"
    with open_run(path, CONFIG) as run:
        (run.checkpoints / "3").mkdir(parents=True)
        run.start(0)
        for step in range(1, 6):
            run.log(step, {"loss": step / 10})
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with open_run(path, CONFIG, resume=True) as run:
        run.start(3)
        run.log(4, {"loss": float("nan")})
    rows = [{"step": step, "loss": step / 10} for step in (1, 2, 3)]
    assert read_metrics(path) == [*rows, {"step": 4, "loss": None}]


@pytest.mark.parametrize("row", [b"rubbish", b"null", b'{"step": "1"}', b"[" * 100_000])
def test_a_damaged_row_is_named_unless_it_is_the_last(tmp_path, row):
    path = make_run(tmp_path / "run")
    (path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + row + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 cannot be read"):
        read_metrics(path)
    (path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + row)
    assert read_metrics(path) == [{"step": 1}]


def read_events(path):
    """TensorBoard's records: length, checksum, event, checksum."""
    for file in sorted((path / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                yield event.step, value


def test_tensorboard_gets_numbers_and_pictures(tmp_path):
    with open_run(tmp_path / "run", CONFIG) as run:
        run.start(0)
        run.log(5, {"loss": 0.25, "valid_loss": 0.5})
        run.log_image(5, "samples", np.zeros((4, 6, 3), np.uint8))
    events = {value.tag: (step, value) for step, value in read_events(tmp_path / "run")}
    assert {tag: step for tag, (step, _) in events.items()} == {
        "loss": 5,
        "valid_loss": 5,
        "samples": 5,
    }
    assert events["loss"][1].simple_value == 0.25
    assert (events["samples"][1].image.height, events["samples"][1].image.width) == (4, 6)
