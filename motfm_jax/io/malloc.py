"""Settings of glibc's malloc for XLA's programs on a CPU.

XLA allocates a program's memory at each call and frees it after. By default glibc returns large
blocks to the system, which hands them out again page by page.
"""

import ctypes
from pathlib import Path

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed() -> None:
    """Keeps freed memory for the next program. Call it once, before JAX has its devices.

    Does nothing without glibc, or beside an NVIDIA driver: there the programs run on the GPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if Path("/proc/driver/nvidia").exists():
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
    # Only the main thread's heap holds blocks beyond 64 MB, so programs have to run there.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
