"""Folders that cannot be written to: what is wanted is said in a line, what is there is kept, and
what only has to be read is read."""

import subprocess

import numpy as np
import pytest

from motfm_jax import cli, datasets, presets
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.settings import default
from motfm_jax.trainer import train


def tiny(cache):
    config = default()
    presets.apply(config, 2, "debug")
    config.data.update(dict(size=(16, 16), phantom_patients=10, cache=str(cache)))
    config.model.update(dict(channels=(8, 8), head_dim=8, norm_groups=4))
    config.train.update(dict(batch_size=4, steps=1))
    return config


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sample(monkeypatch, *flags):
    """The code that `motfm sample` exits with."""
    monkeypatch.setattr("sys.argv", ["motfm sample", *flags, "--num=2", "--steps=1"])
    with pytest.raises(SystemExit) as exit_:
        cli.run("sample")
    return exit_.value.code


@pytest.mark.nightly
def test_nothing_but_writing_fails_and_nothing_is_lost(small_disk, tmp_path, monkeypatch, capfd):
    run, cache = small_disk / "run", small_disk / "cache"
    train(tiny(cache), run)
    before = content(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    for workdir, resume in ((run, True), (small_disk / "new", False)):
        with pytest.raises(ValueError, match=r"cannot be written \(Read-only.*use another folder"):
            train(tiny(cache), workdir, resume=resume)
    assert len(datasets.data(tiny(cache)).train) > 4  # decoded before
    for folder in (cache, small_disk / "none"):
        other = tiny(folder)
        other.data.size = (32, 32)
        with pytest.raises(ValueError, match=r"(?i)read-only.*--config\.data\.cache, or MOTFM"):
            train(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match=r"Read-only.*JAX_COMPILATION_CACHE_DIR"):
        enable_compile_cache(small_disk / "compiled")

    capfd.readouterr()
    assert sample(monkeypatch, f"--run={run}", f"--out={small_disk / 'samples'}") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "Read-only" in line and line.endswith("use another folder")
    assert sample(monkeypatch, f"--run={run}", f"--out={tmp_path / 'samples'}") == 0
    with np.load(tmp_path / "samples" / "samples.npz") as made:
        assert made["images"].shape == (2, 16, 16, 1)
    assert content(small_disk) == before
