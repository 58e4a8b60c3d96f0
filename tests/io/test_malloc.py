"""Freed memory is kept, in a process of its own: the settings hold for a whole process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Allocates 64 MiB, writes to them and frees them, five times; prints the page faults of four.
TOUCHES = """
import ctypes, resource, sys
from motfm_jax.io import malloc
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "kept":
    malloc.keep_freed()
def touch():
    block = libc.malloc(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's malloc")
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="left alone beside a GPU")
def test_freed_memory_is_used_again():
    kept, returned = (
        int(subprocess.check_output([sys.executable, "-c", TOUCHES, how]))
        for how in ("kept", "returned")
    )
    assert kept < 100
    assert returned > kept, "or the test shows nothing"
