"""The README and the pages of docs/: they build, and what they name exists."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        ast.parse(example)


def test_every_dated_result_is_in_the_index_and_the_navigation():
    results = {path.name for path in (ROOT / "docs/results").glob("20*.md")}
    index, site = (ROOT / "docs/results/index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    assert results and all(f"]({result})" in index for result in results)
    assert all(f"results/{result}" in site for result in results)
