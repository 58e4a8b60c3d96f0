"""The README and the pages of docs/: they build, and what they name exists."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from motfm_jax import settings
from motfm_jax.core import Batch, Condition, Network
from motfm_jax.data import SOURCES
from motfm_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
GUIDE = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *GUIDE]


def name(path):
    return path.stem


def test_the_site_builds_without_warnings(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/api/index.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_named_files_exist(page):
    text = page.read_text()
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)}
    links = {link for link in links if link and ":" not in link}
    named = set(
        re.findall(r"(?:scripts|docs|configs|motfm_jax|tests)/[\w/-]+\.(?:py|sh|md|png)", text)
    )
    missing = {link for link in links if not (page.parent / link).exists()}
    missing |= {file for file in named if not (ROOT / file).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_parse(page):
    for example in examples(page):
        ast.parse(example)


def examples(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.fixture
def added():
    """What the design page's examples define; the tables lose it again after the test."""
    names = {}
    for example in examples(ROOT / "docs/design.md"):
        exec(example, names)
    yield names
    del METHODS["robust"], SOURCES["arrays"]


def test_the_method_of_the_design_page_has_settings_and_a_loss(added):
    config = settings.default()
    config.method = "robust"
    config.robust.power = 2.0
    settings.check(config)
    network = Network(lambda params, condition: None, lambda params, x, t, *rest: 0 * x)
    image = np.zeros((3, 8, 8, 1), np.float32)
    batch = Batch(image, None, None, np.ones(3, bool), np.arange(3))
    keys = jax.random.split(jax.random.key(0), 3)
    loss = METHODS["robust"].loss(config.robust, network, {}, batch, Condition(), keys, None)
    assert loss.shape == (3,)
    np.testing.assert_allclose(loss, 1, atol=0.5)  # the mean square of normal noise


def test_the_source_of_the_design_page_reads_its_folder(added, tmp_path):
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train/a.npy", np.ones((8, 8)))
    config = settings.default()
    config.data.source, config.data.root = "arrays", str(tmp_path)
    settings.check(config)
    source = SOURCES["arrays"].from_config(config.data, "train")
    assert len(source) == 1 and source[0].image.shape == (8, 8)


def test_the_metric_of_the_design_page_measures_a_ramp(added):
    ramp = np.arange(8.0)[None, :, None, None] * np.ones((2, 8, 8, 1))
    assert (added["sharpness"](ramp) == 1).all()


def test_every_dated_result_is_in_the_index_and_the_navigation():
    results = {path.name for path in (ROOT / "docs/results").glob("20*.md")}
    index, site = (ROOT / "docs/results/index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    assert results and all(f"]({result})" in index for result in results)
    assert all(f"results/{result}" in site for result in results)
