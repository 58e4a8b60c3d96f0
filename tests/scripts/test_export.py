"""scripts/export.py as a user runs it, against scripts/sample.py on the same run."""

import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import jax
import jax.export
import numpy as np
import pytest

from motfm_jax import build, cli, runs
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.records import Facts
from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.sampling import generate
from motfm_jax.settings import CONDITIONS, default

SCRIPTS = Path(__file__).parents[2] / "scripts"
LABELS, CLASSES = ("background", "cavity", "myocardium"), ("2CH", "4CH")
SIZES = {2: (16, 8), 3: (8, 4, 4)}
NUM = 4  # images of the README's lines


def program(path):
    return jax.jit(jax.export.deserialize(path.read_bytes()).call)


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


class State(NamedTuple):
    """Of a training state, what sampling and export may look at."""

    params: dict[str, np.ndarray]
    ema: dict[str, np.ndarray]


def make_run(folder, dims, condition):
    """A run with one checkpoint, at step 7, of a tiny network with weights that all matter."""
    config = default()
    config.cond, config.data.size, config.data.source = condition, SIZES[dims], "pickle"
    levels = {
        2: dict(channels=(8, 8), attention=(False, True)),
        3: dict(channels=(8,), attention=(True,)),
    }
    config.model.update(
        dict(
            res_blocks=1,
            transformer_layers=1,
            head_dim=8,
            norm_groups=4,
            mask_embedding=4,
            **levels[dims],
        )
    )
    intensity = Intensity.fit(
        [np.array([[[0.0], [255.0]]], np.float32)], "minmax", "dataset", (-1, 1), (0, 100)
    )
    facts = Facts(SIZES[dims], 1, CLASSES, LABELS, intensity.to_json())
    shapes = jax.eval_shape(build.architecture(config, facts).init, jax.random.key(0))
    generator = np.random.default_rng(0)
    params, ema = (
        {
            name: (0.2 * generator.normal(size=leaf.shape) + name.endswith("scale")).astype(
                np.float32
            )
            for name, leaf in shapes.items()
        }
        for _ in range(2)
    )
    checkpoints = Checkpoints(folder / "checkpoints", config.to_dict(), facts.to_json())
    checkpoints.save(7, State(params, ema), valid_loss=1.0)
    checkpoints.wait()
    checkpoints.close()
    return ema


class Exported(NamedTuple):
    """An export, the images that sample.py makes of the same run, and what both were given."""

    out: Path
    images: np.ndarray
    mask: np.ndarray | None
    label: np.ndarray | None
    ema: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(dims, condition) -> Exported, made once."""
    made = {}

    def make(dims, condition):
        if (dims, condition) in made:
            return made[dims, condition]
        folder, size = tmp_path_factory.mktemp("export"), SIZES[dims]
        ema = make_run(folder / "run", dims, condition)
        # What the README's lines draw: a block of the last label, and the classes in turn.
        mask = np.zeros((NUM, *size), np.uint8)
        mask[(slice(None), *(slice(s // 4, s - s // 4) for s in size))] = len(LABELS) - 1
        label = np.arange(NUM, dtype=np.int32) % len(CLASSES)
        given = [f"--num={NUM}", f"--batch={NUM}"]
        if "mask" in condition:
            np.save(folder / "mask.npy", mask[0])
            given += ["--masks", str(folder / "mask.npy")]
        if "class" in condition:
            given += [f"--classes={','.join(CLASSES)}"]
        common = [f"--run={folder / 'run'}", "--solver=heun", "--steps=3"]
        script("sample")([*common, *given, f"--out={folder / 'samples'}"])
        script("export")([*common, f"--out={folder / 'out'}"])
        made[dims, condition] = Exported(
            folder / "out",
            np.load(folder / "samples" / "samples.npz")["images"],
            mask if "mask" in condition else None,
            label if "class" in condition else None,
            ema,
        )
        return made[dims, condition]

    return make


def assert_same_images(images, expected):
    assert images.shape == expected.shape and images.dtype == np.float32
    assert np.ptp(expected) > 100  # in the units of the data, 0 .. 255, and not blank
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4 * 255)


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("dims", SIZES)
def test_the_exported_sampler_makes_the_images_of_sample_py(exported, dims, condition):
    made = exported(dims, condition)
    start_noise = program(made.out / "noise.jax_export")
    sampler = program(made.out / "sampler.jax_export")
    weights = dict(np.load(made.out / "weights.npz"))
    for rows in (slice(0, NUM), slice(1, 2)):
        indices = np.arange(NUM, dtype=np.int32)[rows]
        noise = start_noise(np.uint32(0), indices)
        np.testing.assert_array_equal(noise, generate.start_noise(0, indices, noise.shape[1:]))
        conditions = [None if given is None else given[rows] for given in (made.mask, made.label)]
        assert_same_images(sampler(weights, noise, *conditions), made.images[rows])
    for name, array in made.ema.items():
        np.testing.assert_array_equal(weights[name], array)
    description = json.loads((made.out / "export.json").read_text())
    assert description["solver"] == "heun" and description["calls"] == 6
    assert description["condition"] == condition and description["training_step"] == 7
    assert json.loads((made.out / "config.json").read_text())["cond"] == condition
    assert Facts.from_json(json.loads((made.out / "facts.json").read_text())).classes == CLASSES


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """The interpreter of an environment with jax, numpy and flatbuffers alone."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    wanted = [f"jax=={jax.__version__}", "numpy", "flatbuffers"]
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", "--retries=2", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"pip could not install {' '.join(wanted)}: {reason}")
    for module in ("motfm_jax", "flax", "diffrax", "orbax"):
        found = subprocess.run(
            [python, "-I", "-c", f"import {module}"], capture_output=True, check=False
        )
        assert found.returncode, f"{module} is in the bare environment"
    return python


@pytest.mark.slow
@pytest.mark.parametrize("dims, condition", [(2, c) for c in CONDITIONS] + [(3, "mask+class")])
def test_the_readmes_lines_run_with_jax_numpy_and_flatbuffers_alone(
    exported, bare_python, tmp_path, dims, condition
):
    made = exported(dims, condition)
    lines = (made.out / "README.txt").read_text().splitlines()
    first, last = (
        next(i for i, line in enumerate(lines) if line.startswith(f"    {start}"))
        for start in ("import pathlib", "np.save(")
    )
    typed = made.out / "typed.py"
    typed.write_text("\n".join(line.removeprefix("    ") for line in lines[first : last + 1]))
    subprocess.run(
        [bare_python, "-I", typed],
        cwd=tmp_path,
        check=True,
        env=os.environ | dict(JAX_PLATFORMS="cpu"),
    )
    assert_same_images(np.load(tmp_path / "images.npy"), made.images)


@pytest.mark.slow
def test_the_lines_of_the_documentation_run_there_too(exported, bare_python, tmp_path):
    made = exported(2, "mask+class")
    text = (SCRIPTS.parent / "docs/export.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    size = ", ".join(map(str, SIZES[2]))
    assert "(4, 64, 64)" in lines
    typed = tmp_path / "typed.py"
    typed.write_text(lines.replace("(4, 64, 64)", f"(4, {size})") + "np.save('images', images)\n")
    (tmp_path / "exported").symlink_to(made.out)
    subprocess.run(
        [bare_python, "-I", typed],
        cwd=tmp_path,
        check=True,
        env=os.environ | dict(JAX_PLATFORMS="cpu"),
    )
    expected = program(made.out / "sampler.jax_export")(
        dict(np.load(made.out / "weights.npz")),
        generate.start_noise(0, np.arange(4), (*SIZES[2], 1)),
        np.zeros((4, *SIZES[2]), np.uint8),
        np.zeros(4, np.int32),
    )
    assert_same_images(np.load(tmp_path / "images.npy"), expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, 2, "none")
    return folder


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--solver=adaptive"], "--solver=adaptive: an exported program makes a fixed number"),
        (["--solver=eular"], "solver 'eular': use one of euler, heun"),
        (["--steps=0"], "steps=0: a solver makes at least 1 step"),
        (["--checkpoint=3"], "no checkpoint 3; use last, best or one of 7"),
        (["--run={tmp}/nowhere"], "nowhere: "),
        (["--out={tmp}", "--overwrite"], "exists and is not an export"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(
    run, tmp_path, monkeypatch, capsys, flags, message
):
    (tmp_path / "mine.txt").write_text("precious")
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    command = ["export.py", f"--run={run}", f"--out={tmp_path / 'out'}", *flags]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.run(script("export"))
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_flow_from_degraded_images_is_refused(run, tmp_path, monkeypatch):
    load_run = runs.load_run

    def from_images(*arguments, **options):
        trained = load_run(*arguments, **options)
        trained.config.flow.source = "speckle"
        return trained

    monkeypatch.setattr(runs, "load_run", from_images)
    with pytest.raises(ValueError, match=r"flow.source='speckle'; only a sampler that starts"):
        script("export")([f"--run={run}", f"--out={tmp_path / 'out'}"])
