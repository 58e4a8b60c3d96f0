"""The notebooks of docs/notebooks: committed as run, small, and they run from scratch."""

import ast
import json
import re
from pathlib import Path

import pytest

import motfm_jax

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))


def name(path):
    return path.stem


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_committed_as_run_and_uses_public_names(path):
    assert path.stat().st_size < 300_000
    for number, cell in enumerate(code_cells(path), start=1):
        source = "".join(cell["source"])
        ast.parse(source)
        assert cell["execution_count"] == number
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        assert set(re.findall(r"\bmotfm\.(\w+)", source)) <= set(motfm_jax.__all__)


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_runs_from_scratch(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
