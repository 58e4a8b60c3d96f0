"""Compiled programs kept on disk, so that a second start does not compile again."""

import os
from pathlib import Path

import jax


def enable_compile_cache(folder: str | Path = "") -> Path:
    """Keeps every compiled program in a folder; call it before anything is compiled.

    Args:
      folder: "" for $JAX_COMPILATION_CACHE_DIR, else ~/.cache/motfm_jax/compiled.

    Returns:
      the folder used.
    """
    folder = Path(
        folder
        or os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or Path.home() / ".cache" / "motfm_jax" / "compiled")
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    return folder
