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

    Raises:
      ValueError: it cannot be created.
    """
    folder = Path(
        folder
        or os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or Path.home() / ".cache" / "motfm_jax" / "compiled"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder}: compiled programs cannot be saved here ({error.strerror}); set "
            "JAX_COMPILATION_CACHE_DIR to a folder that can be written to"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    return folder
