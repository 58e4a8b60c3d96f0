"""Settings of glibc's malloc for XLA's programs on a CPU.

XLA allocates a program's memory at each call and frees it after. By default glibc returns large
blocks to the system, which hands them out page by page again; kept, they are searched for. What a
compilation leaves, thousands of holes between what stays, made that search an eighth of a training
step (perf: `_int_malloc`), so the holes are retired after each.

Only the main thread's heap holds blocks beyond 64 MB, so programs run there: JAX may not hand them
to a thread of its own.
"""

import ctypes
from pathlib import Path
from typing import Any

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_COMPILED = "/jax/core/compile/backend_compile_duration"
_LONG = 1.0  # seconds of a compilation that leaves holes worth retiring
_LARGEST_HOLE, _SMALLEST_HOLE = 1 << 30, 1 << 16  # bytes


def keep_freed() -> None:
    """Keeps what is freed for the next program, and retires holes after each long compilation.

    To be called once, before JAX has its devices. Does nothing without glibc or beside an NVIDIA
    driver: there the programs run on the GPU.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, _ = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    if Path("/proc/driver/nvidia").exists():
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
    jax.config.update("jax_cpu_enable_async_dispatch", False)

    def after(event: str, seconds: float, **_: Any) -> None:
        if event == _COMPILED and seconds > _LONG:
            retire_holes()

    jax.monitoring.register_event_duration_secs_listener(after)


def retire_holes() -> int:
    """Returns free memory to the system, then takes every hole below the end of the heap out of
    use, untouched: addresses are lost to the process, memory is not.

    Returns:
      bytes of addresses retired.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    libc.malloc_trim(0)
    end, size, retired = libc.sbrk(0), _LARGEST_HOLE, 0
    while size >= _SMALLEST_HOLE:
        block = libc.malloc(size)
        if block is not None and block + size <= end:
            retired += size
        else:
            libc.free(block)
            size //= 2
    return retired
