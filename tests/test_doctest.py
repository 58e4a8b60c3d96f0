"""The examples in docstrings."""

import doctest
import importlib

import pytest
from tiny import ROOT

FILES = [path for path in (ROOT / "motfm_jax").rglob("*.py") if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: path.stem)
def test_docstring_examples(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = path.relative_to(ROOT).with_suffix("").parts
    result = doctest.testmod(importlib.import_module(".".join(parts)))
    assert result.attempted and not result.failed
