"""Denoising measured with velocity fields whose result is known."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from toy import constant_network, make_bundle

from motfm_jax.core import Network
from motfm_jax.evaluation.restoration import STRIPS, Task, restore
from motfm_jax.sampling.conditions import Conditions

REAL = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 16, 16, 1)).astype(np.float32)
SOURCES = {"power 0.1": REAL - 0.125, "power 0.4": REAL - 0.25}


def measure(out, network, real=REAL, sources=SOURCES, **options):
    model = make_bundle(network, size=(16, 16), flow__source="speckle")
    task = Task(sources, real, Conditions(len(real)), (-1.0, 1.0))
    options = {"steps": [1, 4], "settings": {"run": "a"}, "batch": 2, **options}
    return restore(out, model, task, **options)


def test_a_still_flow_gives_the_sources_and_a_perfect_one_the_images(tmp_path):
    rows = measure(tmp_path / "still", constant_network(0.0))
    assert [(row["source"], row["steps"]) for row in rows] == [
        (name, steps) for name in SOURCES for steps in (0, 1, 4)
    ]
    for first in (0, 3):
        for row in rows[first + 1 : first + 3]:
            for name in ("psnr", "snr", "ssim"):
                assert row[name] == pytest.approx(rows[first][name], rel=1e-6)
    assert rows[0]["psnr"] == pytest.approx(10 * np.log10(4 / 0.125**2), rel=1e-5)
    power = np.mean((REAL + 1.0) ** 2, axis=(1, 2, 3))
    assert rows[0]["snr"] == pytest.approx(np.mean(10 * np.log10(power / 0.125**2)), rel=1e-4)
    rows = measure(tmp_path / "moved", constant_network(0.125))
    assert min(rows[1]["psnr"], rows[2]["psnr"]) > 100
    assert rows[1]["ssim"] == pytest.approx(1)
    assert rows[3]["psnr"] < rows[4]["psnr"] < 30


def test_ssim_is_that_of_grey_levels(tmp_path):
    """(2 a b + c) / (a^2 + b^2 + c) of flat images, where 0.0 is 127.5 of 255."""
    flat = np.zeros_like(REAL)
    rows = measure(tmp_path, constant_network(0.0), real=flat, sources={"darker": flat - 0.5})
    a, b, c = 127.5, 63.75, (0.01 * 255) ** 2
    assert rows[0]["ssim"] == pytest.approx((2 * a * b + c) / (a**2 + b**2 + c), rel=1e-5)


def test_images_are_clipped_as_a_display_does(tmp_path):
    rows = measure(tmp_path, constant_network(3.0), real=np.ones_like(REAL), sources={"far": REAL})
    assert rows[1]["psnr"] is None


def test_it_writes_tables_and_pictures_and_does_nothing_twice(tmp_path):
    rows = measure(tmp_path, constant_network(0.1))
    table = (tmp_path / "restoration.md").read_text()
    assert "| power 0.4 | 4 |" in table and "over 5 images" in table
    assert len((tmp_path / "restoration.csv").read_text().splitlines()) == 7
    for name in ("comparison.png", "strip.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5
    solved, drawn = [], (tmp_path / "strip.png").stat().st_mtime_ns
    again = measure(tmp_path, constant_network(0.1), progress=lambda *done: solved.append(done))
    assert again == rows and not solved
    assert (tmp_path / "strip.png").stat().st_mtime_ns == drawn
    saved = json.loads((tmp_path / "restoration.json").read_text())
    saved["rows"] = saved["rows"][:4]
    (tmp_path / "restoration.json").write_text(json.dumps(saved))
    resumed = measure(
        tmp_path, constant_network(0.1), progress=lambda *done: solved.append(done[0])
    )
    assert set(solved) == {"power 0.4, steps 1: images", "power 0.4, steps 4: images"}
    assert [row["psnr"] for row in resumed] == [row["psnr"] for row in rows]


def test_the_picture_is_solved_by_the_programs_that_were_measured(tmp_path):
    batches = set()

    def velocity(params, x, t, context, key):
        batches.add(len(x))
        return jnp.zeros_like(x)

    real = np.tile(REAL, (4, 1, 1, 1))  # measured in batches of 10
    measure(
        tmp_path,
        Network(lambda params, condition: None, velocity),
        real=real,
        sources={"power 0.1": real},
        batch=0,
    )
    assert batches == {10, STRIPS}


def test_measurements_of_other_settings_are_kept(tmp_path):
    measure(tmp_path, constant_network(0.0))
    with pytest.raises(ValueError, match=r"other settings .*run was"):
        measure(tmp_path, constant_network(0.0), settings={"run": "b"})
    measure(tmp_path, constant_network(0.0), settings={"run": "b"}, overwrite=True)
