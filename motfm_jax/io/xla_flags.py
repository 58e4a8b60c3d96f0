"""Flags of XLA that the commands set on a machine with an NVIDIA GPU."""

import importlib.util
import logging
import mmap
import os
from pathlib import Path

# Without it XLA lays volumes out channels first, and cuDNN turns them around in every convolution.
FLAG = "xla_gpu_force_conv_nhwc"
PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")

logger = logging.getLogger(__name__)


def set_channels_last() -> None:
    """Has XLA compile 3-D convolutions channels last. Call it before JAX has its devices.

    Does nothing without a CUDA plugin, where $XLA_FLAGS has the flag, or where the installed XLA
    does not know it: an unknown flag would end the process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    plugins = [file for name in PLUGINS for file in _libraries(name, "xla_cuda_plugin.so")]
    if not plugins or FLAG in flags:
        return
    # Both read $XLA_FLAGS.
    if not all(_names(file) for file in (*plugins, *_libraries("jaxlib", "libjax_common.so"))):
        return
    os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}=true".strip()
    logger.info(f"XLA_FLAGS: --{FLAG}=true was added, for 3-D convolutions channels last")


def _libraries(package: str, name: str) -> list[Path]:
    """The library of an installed package; none where it is not installed."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # of the package above it
        return []
    folders = [] if spec is None else spec.submodule_search_locations or []
    return [file for folder in folders if (file := Path(folder) / name).is_file()]


def _names(library: Path) -> bool:
    """Whether a library holds the flag's name."""
    with (
        open(library, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(FLAG.encode()) >= 0
