"""Foreign YAML: what is no config is refused in a line, and nothing in it is executed."""

import pytest

from motfm_jax.io.foreign_config import read_yaml


@pytest.mark.parametrize("text, said", [
    ("model_args: [1, 2", "is not YAML"),
    ("- 1", "has no model_args"),
    ("model_args: 3", "has no model_args"),
    ("train_args: {lr: 1}", "has no model_args"),
    ("", "has no model_args"),
])  # fmt: skip
def test_what_is_no_config_is_refused(tmp_path, text, said):
    path = tmp_path / "original.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"original.yaml: {said}"):
        read_yaml(path)


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\x80\x04\xff")
    with pytest.raises(ValueError, match="is not YAML"):
        read_yaml(path)


def test_a_tag_that_calls_python_is_refused(tmp_path):
    path, touched = tmp_path / "hostile.yaml", tmp_path / "touched"
    path.write_text(f"model_args: !!python/object/apply:os.system ['touch {touched}']")
    with pytest.raises(ValueError, match="is not YAML"):
        read_yaml(path)
    assert not touched.exists()
