"""motfm export, against motfm sample on the same run."""

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
from tiny import FACTS, ONE_LEVEL, ROOT, command, make_config, save_run

from motfm_jax import cli
from motfm_jax.data.facts import Facts
from motfm_jax.io.checkpoints import restore_weights
from motfm_jax.sampling import generate
from motfm_jax.settings import CONDITIONS

SIZES = {2: (16, 8), 3: (8, 4, 4)}
NUM = 4  # images of the README's lines


def program(path):
    return jax.jit(jax.export.deserialize(path.read_bytes()).call)


def make_run(folder, dims, condition):
    config = make_config(
        dims,
        cond=condition,
        data__size=SIZES[dims],
        **ONE_LEVEL,
    )
    facts = Facts(SIZES[dims], 1, FACTS.classes, FACTS.mask_labels, FACTS.intensity)
    return save_run(folder, config, facts)


class Exported(NamedTuple):
    """An export, the images that sampling makes of the same run, and what both were given."""

    run: Path
    out: Path
    images: np.ndarray
    mask: np.ndarray | None
    label: np.ndarray | None


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(dims, condition) -> Exported, made once."""
    made = {}

    def make(dims, condition):
        if (dims, condition) in made:
            return made[dims, condition]
        folder, size = tmp_path_factory.mktemp("export"), SIZES[dims]
        run = make_run(folder / "run", dims, condition)
        # What the README's lines draw: a block of the last label, and the classes in turn.
        mask = np.zeros((NUM, *size), np.uint8)
        mask[(slice(None), *(slice(s // 4, s - s // 4) for s in size))] = len(FACTS.mask_labels) - 1
        label = np.arange(NUM, dtype=np.int32) % len(FACTS.classes)
        flags = [f"--num={NUM}", f"--batch={NUM}"]
        if "mask" in condition:
            np.save(folder / "mask.npy", mask[0])
            flags += ["--masks", str(folder / "mask.npy")]
        if "class" in condition:
            flags += [f"--classes={','.join(FACTS.classes)}"]
        common = [f"--run={run}", "--solver=heun", "--steps=3"]
        command("sample")([*common, *flags, f"--out={folder / 'samples'}"])
        command("export")([*common, f"--out={folder / 'out'}"])
        made[dims, condition] = Exported(
            run,
            folder / "out",
            np.load(folder / "samples" / "samples.npz")["images"],
            mask if "mask" in condition else None,
            label if "class" in condition else None,
        )
        return made[dims, condition]

    return make


def assert_same_images(images, expected):
    assert images.shape == expected.shape and images.dtype == np.float32
    assert np.ptp(expected) > 100  # in the units of the data, 0 .. 255, and not blank
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4 * 255)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dims, condition",
    [
        pytest.param(
            dims,
            condition,
            marks=[pytest.mark.nightly] * ((dims, condition) != (2, "mask+class")),
        )
        for dims in SIZES
        for condition in CONDITIONS
    ],
)
def test_the_exported_sampler_makes_the_images_of_sample(exported, dims, condition):
    made = exported(dims, condition)
    start_noise = program(made.out / "noise.jax_export")
    sampler = program(made.out / "sampler.jax_export")
    weights = dict(np.load(made.out / "weights.npz"))
    for rows in (slice(0, NUM), slice(1, 2)):
        indices = np.arange(NUM, dtype=np.int32)[rows]
        noise = start_noise(np.uint32(0), indices)
        np.testing.assert_array_equal(noise, generate.start_noise(0, indices, noise.shape[1:]))
        conditions = [None if rest is None else rest[rows] for rest in (made.mask, made.label)]
        assert_same_images(sampler(weights, noise, *conditions), made.images[rows])
    for name, array in restore_weights(made.run).params.items():
        np.testing.assert_array_equal(weights[name], array)
    description = json.loads((made.out / "export.json").read_text())
    assert description["solver"] == "heun" and description["calls"] == 6
    assert description["condition"] == condition and description["training_step"] == 7
    assert json.loads((made.out / "config.json").read_text())["cond"] == condition
    facts = Facts.from_json(json.loads((made.out / "facts.json").read_text()))
    assert facts.classes == FACTS.classes


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


def run_bare(python, lines, cwd):
    typed = cwd / "typed.py"
    typed.write_text(lines)
    environment = os.environ | dict(JAX_PLATFORMS="cpu")
    subprocess.run([python, "-I", typed], cwd=cwd, check=True, env=environment)
    return np.load(cwd / "images.npy")


@pytest.mark.nightly
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
    typed = "\n".join(line.removeprefix("    ") for line in lines[first : last + 1])
    # The lines find the export beside themselves.
    for path in made.out.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert_same_images(run_bare(bare_python, typed, tmp_path), made.images)


@pytest.mark.nightly
def test_the_lines_of_the_documentation_run_there_too(exported, bare_python, tmp_path):
    made = exported(2, "mask+class")
    text = (ROOT / "docs" / "export.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    size = ", ".join(map(str, SIZES[2]))
    assert "(4, 64, 64)" in lines
    (tmp_path / "exported").symlink_to(made.out)
    images = run_bare(
        bare_python,
        lines.replace("(4, 64, 64)", f"(4, {size})") + "np.save('images', images)\n",
        tmp_path,
    )
    expected = program(made.out / "sampler.jax_export")(
        dict(np.load(made.out / "weights.npz")),
        generate.start_noise(0, np.arange(4), (*SIZES[2], 1)),
        np.zeros((4, *SIZES[2]), np.uint8),
        np.zeros(4, np.int32),
    )
    assert_same_images(images, expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), 2, "none")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--solver=adaptive"], "--solver=adaptive: an exported program makes a fixed number"),
        (["--out={tmp}", "--overwrite"], "exists and is not an export"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(
    run, tmp_path, monkeypatch, capsys, flags, message
):
    (tmp_path / "mine.txt").write_text("precious")
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    flags = [f"--run={run}", f"--out={tmp_path / 'out'}", *flags]
    monkeypatch.setattr(sys, "argv", ["motfm export", *flags])
    with pytest.raises(SystemExit) as stopped:
        cli.run("export")
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_flow_from_degraded_images_is_refused(tmp_path):
    run = save_run(tmp_path / "run", make_config(cond="none", flow__source="speckle"))
    with pytest.raises(ValueError, match=r"flow.source='speckle'; only a sampler that starts"):
        command("export")([f"--run={run}", f"--out={tmp_path / 'out'}"])
