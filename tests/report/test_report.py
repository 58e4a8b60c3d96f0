"""Plans, their stages and tables; and a whole small report as a user calls it."""

import csv
import dataclasses
import importlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny import ROOT, command

from motfm_jax import datasets, runs
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.io.folders import write_json
from motfm_jax.io.npz import write_npz
from motfm_jax.report import plan as plans
from motfm_jax.report import tables
from motfm_jax.report.html import parents
from motfm_jax.report.measure import read_real
from motfm_jax.report.measures import Measure
from motfm_jax.report.page import write_report
from motfm_jax.report.plan import SYSTEMS, Anatomy, Cell, Plan, cells
from motfm_jax.report.stages import (
    Stage,
    carry_out,
    is_done,
    marker,
    of_sampling,
    run_folder,
    sample_folder,
    stages,
)

ECHO = Anatomy(str(ROOT / "configs" / "phantom.py"), "size=debug", num=4)
SMALL = Plan("small", ECHO)


def test_every_system_of_the_papers_tables_has_its_cells():
    made = cells(SMALL, "echo")
    assert {cell.system for cell in made} == set(SYSTEMS)
    assert [cell.steps for cell in made if cell.system == "M-CM"] == [1, 10, 50]
    assert [cell.steps for cell in made if cell.system == "SPADE"] == [1]
    assert [(cell.steps, cell.spacing) for cell in made if cell.system == "D"] == [
        (steps, spacing) for spacing in ("leading", "trailing") for steps in (1, 10, 50)
    ]
    assert len({cell.name for cell in made}) == len(made)


def test_stages_come_after_what_they_need(tmp_path):
    listed = [stage.name for stage in stages(SMALL, tmp_path, 280)]
    assert len(set(listed)) == len(listed)
    assert listed.index("train echo/D") < listed.index("train echo/SD-M")
    assert listed.index("train echo/M-C") < listed.index("sample echo_test/M-C_10")
    assert listed.index("sample echo_train/M-M_10") < listed.index("downstream segment18")


def test_downstream_networks_get_as_many_generated_images_as_there_are_real_ones(tmp_path):
    made = {stage.name: stage.arguments for stage in stages(SMALL, tmp_path, 280)}
    assert {"--num=280", "--split=train", "--steps=10"} <= set(made["sample echo_train/M-C_10"])
    assert "--num=4" in made["sample echo_test/M-C_10"]


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(echo=dataclasses.replace(ECHO, systems=("D", "X"))), "has 'X'; use D, M"),
        (dict(echo=dataclasses.replace(ECHO, systems=("SD-M",))), "needs 'D' too"),
        (dict(echo=dataclasses.replace(ECHO, config="none.py")), "there is no file"),
        (dict(echo=dataclasses.replace(ECHO, num=1)), "two images or more"),
        (dict(reference="train"), "use valid or test"),
        (dict(steps=()), "whole numbers from 1"),
        (dict(spacings=("linear",)), "leading or trailing"),
        (dict(depths=(34,)), "use 18 or 50"),
        (dict(repeats=0), "at least 1"),
        (dict(echo=dataclasses.replace(ECHO, of_method={"flowmap": {}})), "has 'flowmap'; use"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plans.check(dataclasses.replace(SMALL, **changes))


def test_a_stage_is_carried_out_once_and_never_mixed_up_with_another(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("motfm_jax.report.stages._call", lambda command: called.append(command))
    stage = Stage("train a/b", "train", ("--workdir=run",))
    assert not is_done(tmp_path, stage)
    carry_out(tmp_path, [stage])
    carry_out(tmp_path, [stage])
    assert is_done(tmp_path, stage)
    assert called == [[sys.executable, "-m", "motfm_jax", "train", "--workdir=run"]]
    with pytest.raises(ValueError, match="done, by another call"):
        carry_out(tmp_path, [stage._replace(arguments=("elsewhere",))])
    quoted = Stage("downstream a", "downstream", ("D(50)=x",))
    write_json(marker(tmp_path, quoted), {"command": "motfm downstream D(50)=x", "seconds": 1.0})
    assert is_done(tmp_path, quoted), "as earlier versions wrote it, without quotes"


def test_a_stage_that_fails_is_not_done(tmp_path):
    stage = Stage("fail", "no_command", ())
    with pytest.raises(ValueError, match="'fail' ended with exit code 2"):
        carry_out(tmp_path, [stage])
    assert not is_done(tmp_path, stage)


def test_the_commands_take_the_arguments_of_every_stage(tmp_path, parse):
    plan = plans.read_plan(str(Path(__file__).with_name("tiny_plan.py")), {})
    for stage in stages(plan, tmp_path, 280):
        if stage.command == "train":
            parse(*(each for each in stage.arguments if each != "--overwrite"))
        else:
            importlib.import_module(f"motfm_jax.commands.{stage.command}").flags(stage.arguments)


def row(system, steps, spacing="", **measures):
    return {"system": system, "steps": steps, "spacing": spacing, **measures}


def test_the_best_of_each_conditioning_is_stressed_and_what_was_not_run_is_said():
    plan = dataclasses.replace(SMALL, steps=(1, 10))
    rows = [
        row("real", None, a=0.5),
        row("D", 1, "leading", a=9.0),
        row("D", 10, "leading", a=3.0),
        row("M", 1, a=4.0),
        row("M", 10, a=2.0),
        row("SPADE", 1, a=7.0),
    ]
    table = tables.generation(
        "caption",
        plan,
        "echo",
        rows,
        ("D", "M", "M-C", "SPADE"),
        [Measure("A ↓", "a", True), Measure("B", "b", None)],
    )
    assert {tuple(row) for row in table.rows} == {("", "A ↓ 1", "A ↓ 10")}
    assert [list(row.values()) for row in table.rows] == [
        ["D (leading)", 9.0, 3.0],
        ["M", 4.0, 2.0],
        ["M-C", "not run", "not run"],
        ["SPADE", 7.0, ""],
        ["real against real", 0.5, ""],
    ]
    assert table.best == {(1, "A ↓ 10"), (3, "A ↓ 1")}
    assert "| M | 4 | **2** |" in table.markdown()
    assert "<b>2</b></a></td>" in table.html()


def test_a_flow_and_its_map_are_trained_several_times_with_seeds_of_their_own(tmp_path):
    settings = {"flow_map": {"train.steps": 3}}
    echo = dataclasses.replace(ECHO, systems=("D", "M", "F"), of_method=settings)
    plan = dataclasses.replace(SMALL, echo=echo, repeats=2, seed=5, steps=(1,), depths=())
    made = {stage.name: stage.arguments for stage in stages(plan, tmp_path, 280)}
    assert [name for name in made if name.startswith("train")][:-1] == [
        "train echo/D",
        "train echo/M",
        "train echo/M_repeat1",
        "train echo/F",
        "train echo/F_repeat1",
    ]
    again = made["train echo/F_repeat1"]
    teacher = f"--config.train.teacher={run_folder(tmp_path, 'echo', 'M', 1)}"
    assert {"--config.seed=6", "--config.train.steps=3", teacher} <= set(again)
    assert "--config.train.steps=3" not in made["train echo/M"]
    assert "--seed=6" in made["sample echo_test/F_1_repeat1"]


def test_several_trainings_are_one_row_with_mean_and_spread():
    rows = [row("M", 1, repeat=repeat, a=value) for repeat, value in enumerate((1.0, 2.0, 3.0))]
    rows.append(row("D", 1, repeat=0, a=4.0, a_interval=[3.0, 5.0]))
    measures = [Measure("A ↓", "a", True)]
    table = tables.generation(
        "", dataclasses.replace(SMALL, steps=(1,)), "echo", rows, ("M", "D"), measures
    )
    assert "| M | **2 ± 1** |" in table.markdown()
    assert "| D | 4 [3, 5] |" in table.markdown()


def test_a_table_of_nothing_measured_says_so():
    table = tables.generation(
        "caption",
        SMALL,
        "echo",
        [row("M", 1), row("M", 10)],
        ("M", "D"),
        [Measure("a", "a", True), Measure("b", "b", True)],
    )
    assert "| M | n/a | n/a | not run |" in table.markdown()
    assert "| D | not run | not run | not run |" in table.markdown()


def test_table_3_holds_mean_and_spread_and_says_what_was_not_trained():
    plan = dataclasses.replace(SMALL, seeds=2)
    trained = [
        dict(trained_on="real", seed=seed, accuracy=value, macro_f1=None)
        for seed, value in enumerate((0.8, 0.9))
    ]
    table = tables.downstream_table(plan, {("classify", 18): trained}, 200)
    first, second, *_ = table.rows
    assert (first["model"], first["trained on"], first["F1 ↑"]) == ("ResNet18", "real", None)
    assert first["ACC ↑"] == pytest.approx(0.85)
    assert first["ACC ↑_std"] == pytest.approx(0.005**0.5)
    assert list(second.values())[:3] == ["ResNet18", "D-C(50)", "not run"]
    assert {row["trained on"] for row in table.rows} >= {"M-M(10)", "real + M-M(10)"}
    assert "| ResNet18 | real | 0.85 ± 0.071 | n/a |" in table.markdown()


OLD_FACTS = SimpleNamespace(bounds=None, channel_names=(), affine=None)  # as of a run of 0.1.0


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A page without a training: the real images, and a set that is 20 grey levels brighter; and of
    volumes, the real ones alone."""
    rng = np.random.default_rng(0)
    images = rng.integers(20, 200, (30, 16, 16, 1)).astype(np.uint8)
    volumes = rng.integers(20, 200, (4, 8, 8, 8, 1)).astype(np.uint8)
    real = {
        name: Arrays(pixels, None, None, [{"name": f"{name}{n}"} for n in range(len(pixels))])
        for name, pixels in (("echo", images), ("brain", volumes))
    }
    intensity = Intensity("minmax", "dataset", (-1.0, 1.0), (0.5, 99.5), 0.0, 255.0)

    def load_run(path):
        return SimpleNamespace(intensity=intensity, facts=OLD_FACTS, anatomy=path.parent.name)

    monkeypatch.setattr(runs, "load_run", load_run)
    monkeypatch.setattr(datasets, "of_run", lambda model, split: real[model.anatomy])
    monkeypatch.setenv("MOTFM_CACHE", str(tmp_path / "cache"))
    echo = dataclasses.replace(ECHO, systems=("M",))
    brain = dataclasses.replace(echo, arguments="anatomy=brain,size=debug")
    plan = dataclasses.replace(SMALL, echo=echo, brain=brain, steps=(1, 2), depths=())
    sets = cells(plan, "echo") + cells(plan, "brain")
    for cell in sets:
        folder = sample_folder(tmp_path, cell, plan.reference)
        made = real[cell.anatomy].images[:25].astype(np.float32) + (20 if cell.steps == 2 else 0)
        write_npz(folder / "samples.npz", images=made)
        (folder / "samples.json").write_text(json.dumps({"seconds_per_image": 0.1, "calls": 1}))
    done = [
        Stage(f"train {name}/M", "train", (f"--config=<{name}>",)) for name in ("brain", "echo")
    ]
    done += [
        Stage(of_sampling(cell, plan.reference), "sample", (f"--steps={cell.steps}",))
        for cell in sets[:-1]
    ]
    for stage in done:
        write_json(marker(tmp_path, stage), {"seconds": 3})
    return write_report(plan, tmp_path, done)


def test_sets_that_are_there_are_measured_and_drawn(report, tmp_path):
    (kept,) = (tmp_path / "measured").glob("echo_*.json")
    floor, same, brighter = json.loads(kept.read_text())["rows"]
    assert floor["system"] == "real" and same["ssim"] == pytest.approx(1, abs=1e-4)
    assert same["share_closer"] == 0 and brighter["share_closer"] == 0
    assert brighter["density_w1"] == pytest.approx(20, rel=0.1)
    for name in ("figure2_echo", "figure3"):
        assert f'src="{name}.png"' in report.read_text()
        with Image.open(report.parent / f"{name}.png") as picture:
            assert min(picture.size) > 50


@pytest.mark.slow
def test_the_page_in_a_browser_sorts_explains_and_can_be_read_by_all(report, browser, serious):
    page = browser.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.goto(report.as_uri())
    table = page.locator("table").first
    column = table.get_by_role("columnheader", name="intensity W1 ↓ 1")
    names = table.locator("tbody th")
    column.get_by_role("button").click()
    assert column.get_attribute("aria-sort") == "ascending"
    rising = names.all_inner_texts()
    column.get_by_role("button").click()
    falling = names.all_inner_texts()
    assert rising[:2] == ["M", "real against real"] == falling[1::-1]
    assert sorted(rising) == sorted(falling) and len(rising) > 2  # those not run come last
    assert "grey levels; 1 step" in column.locator("abbr").get_attribute("title")
    page.get_by_role("link", name="M", exact=True).first.click()
    assert page.locator(":target").inner_text().endswith("motfm train --config=<echo>")
    table.locator("td a[title$='grey levels; 2 steps']").click()
    assert page.locator(":target").inner_text().endswith("motfm sample --steps=2")
    # a stage that is not done has no command to lead to
    assert page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')]"
        ".every((link) => document.getElementById(link.hash.slice(1)))"
    )
    figure = page.locator("figure a").first
    width = figure.locator("img").bounding_box()["width"]
    figure.click()
    assert page.locator("dialog img").bounding_box()["width"] > max(width, 1200)
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    if page.locator("#volumes").count():  # ipyniivue is installed
        page.locator("#volumes summary").click()
        page.locator("#turning canvas[aria-label='Volume M(2): drag to turn']").wait_for()
    assert not serious(page) and not faults
    assert all(url.startswith(("file:", "blob:", "data:")) for url in asked)
    page.close()


@pytest.mark.parametrize("reference, held_out", [(19, 26), (20, 20)])
def test_copies_are_judged_by_all_that_was_held_out_where_the_reference_is_small(
    tmp_path, monkeypatch, reference, held_out
):
    numbers = {"train": 3, "test": reference, "valid": 7}
    images = np.arange(30 * 64, dtype=np.uint8).reshape(30, 8, 8, 1)
    monkeypatch.setattr(
        datasets,
        "of_run",
        lambda model, split: Arrays(
            images[: numbers[split]],
            None,
            None,
            [{"name": f"{split}{index}"} for index in range(30)],
        ),
    )
    intensity = Intensity("minmax", "dataset", (-1.0, 1.0), (0.5, 99.5), 0.0, 255.0)
    model = SimpleNamespace(intensity=intensity, facts=OLD_FACTS)
    monkeypatch.setattr(runs, "load_run", lambda path: model)
    folder = sample_folder(tmp_path, Cell("echo", "M", 1), "test")
    folder.mkdir(parents=True)
    (folder / "samples.json").touch()
    real = read_real(SMALL, tmp_path, "echo")
    assert (len(real.reference), len(real.held_out)) == (reference, held_out)


def test_a_network_that_began_with_another_runs_weights_names_it(tmp_path):
    run = run_folder(tmp_path, "echo", "M-CM")
    run.mkdir(parents=True)
    (run / "parent.json").write_text(json.dumps({"run": "a<b", "step": 70}))
    began = "<p>echo/M-CM began with the weights of a&lt;b, step 70.</p>"
    assert parents(SMALL, tmp_path) == began


def test_names_of_cells():
    assert Cell("echo", "D", 10, "trailing").name == "D_10_trailing"
    assert Cell("echo", "M", 10).name == "M_10"


@pytest.mark.nightly
def test_a_small_report_is_complete_and_not_made_twice(tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "scripts/report.py",
        "--plan=tests/report/tiny_plan.py",
        f"--out={out}",
    ]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    report = out / "report"
    page = (report / "index.html").read_text()
    assert "Tiny &amp; complete" in page and "Nothing was learned." in page
    for name in ("figure2_echo", "figure2_brain", "figure3"):
        assert f'src="{name}.png"' in page
        with Image.open(report / f"{name}.png") as picture:
            assert min(picture.size) > 50
    for source in ("../denoised/strip.png", "../denoised/comparison.png"):
        assert f'src="{source}"' in page and (report / source).is_file()
    with open(report / "table1.csv") as file:
        rows = list(csv.reader(file))
    assert [each[0] for each in rows[1:]] == [
        "D (trailing)",
        "M",
        "D-C",
        "M-C",
        "SPADE",
        "D-M",
        "SD-M (trailing)",
        "M-M",
        "D-CM",
        "M-CM",
        "real against real",
    ]
    assert float(rows[4][1]) > 0 and rows[2][1] == "not run"
    for name in ("table2", "table3", "times_echo", "copies_brain", "denoising"):
        assert (report / f"{name}.md").is_file() and (report / f"{name}.csv").is_file()
    markers = {path: path.stat().st_mtime_ns for path in (out / "stages").iterdir()}
    (kept,) = (out / "measured").glob("echo_*.json")
    measured = json.loads(kept.read_text())["rows"]
    # Real images, five systems, and the second trainings of M-C and M-M.
    assert len(measured) == 1 + 5 + 2
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (out / "stages").iterdir()} == markers
    listed = subprocess.run(
        [*command, "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "to do" not in listed and listed.count("done") >= len(markers)

    # What is not there yet is marked, and the rest is shown.
    for folder in ("measured", "samples/echo_test/SPADE_1", "samples/brain_test", "denoised"):
        shutil.rmtree(out / folder)
    (out / "stages" / "sample_echo_test_SPADE_1.json").unlink()
    partly = subprocess.run(
        [*command, "--so-far"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert partly.returncode == 0, partly.stderr
    with open(report / "table1.csv") as file:
        now = {row[0]: row for row in csv.reader(file)}
    assert now["SPADE"][1] == "not run" and now["M-M"] == rows[8]
    assert "Table 2" not in (report / "index.html").read_text()


@pytest.mark.parametrize(
    "plan, message",
    [
        ("none.py", "there is no file none.py; give one, or a built-in"),
        (str(ROOT / "configs" / "camus.py"), "defines no PLAN"),
    ],
)
def test_a_plan_that_is_not_there_is_named(tmp_path, plan, message):
    with pytest.raises(ValueError, match=message):
        command("report")([f"--plan={plan}", f"--out={tmp_path}", "--list"])


@pytest.mark.parametrize("name", ["phantom", "camus", "camus32", "camus64"])
def test_the_plans_that_come_along_can_be_carried_out(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    scope = {}
    exec((ROOT / "configs" / "report" / f"{name}.py").read_text(), scope)
    plan = scope["PLAN"]
    plans.check(plan)
    assert set(plan.echo.systems) == set(SYSTEMS)
    for stage in stages(plan, Path("report"), 4):  # a shell takes what the page shows
        assert shlex.split(stage.command_line()) == ["motfm", stage.command, *stage.arguments]
