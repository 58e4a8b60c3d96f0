"""Foreign YAML: what is no config is refused in a line, and nothing in it is executed."""

import pytest

from motfm_jax.interop.foreign_config import read_yaml


@pytest.mark.parametrize(
    "text, said",
    [
        ("model_args: [1, 2", "is not YAML"),
        ("- 1", "has no model_args"),
        ("model_args: 3", "has no model_args"),
        ("train_args: {lr: 1}", "has no model_args"),
        ("", "has no model_args"),
        ("model_args: {a: !!bool maybe}", "is not YAML"),
        ("model_args: {a: !!timestamp never}", "is not YAML"),
        ("model_args: {a: 2001-99-99}", "is not YAML"),
        ("model_args: " + "[" * 1000, "is not YAML"),
    ],
)
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


def test_a_few_aliases_are_read_and_many_which_may_make_gigabytes_are_refused(tmp_path):
    path = tmp_path / "aliases.yaml"
    path.write_text("model_args: {a: &a [1, 2], b: *a, c: *a}")
    assert read_yaml(path)["model_args"]["c"] == [1, 2]
    doubled = "\n".join(f"x{i + 1}: &x{i + 1} [*x{i}, *x{i}]" for i in range(40))
    path.write_text(f"x0: &x0 [1]\n{doubled}\nmodel_args: {{a: *x40}}")
    with pytest.raises(ValueError, match=r"aliases\.yaml: 81 aliases .*, at most 24 are read"):
        read_yaml(path)
