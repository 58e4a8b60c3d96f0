"""What programs find free, each in a process of its own: the settings hold for a whole one."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's malloc"),
    pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="left alone beside a GPU"),
]

LIBC = """
import ctypes, resource, sys
from motfm_jax.io import malloc
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
"""

# Allocates 64 MiB, writes to them and frees them, five times; prints the pages taken anew.
TOUCHES = (
    LIBC
    + """
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
)

# Leaves 64 holes of 1 MiB between as many blocks; prints how many the next 64 allocations fill,
# in MiB the resident memory before and after, and whether the blocks still hold what they held.
HOLES = (
    LIBC
    + """
malloc.keep_freed()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
def allocate(size):
    block = libc.malloc(size)
    ctypes.memset(block, 7, size)
    return block
blocks = [allocate(1 << 20) for _ in range(128)]
holes, kept = blocks[::2], blocks[1::2]
for block in holes:
    libc.free(block)
before = resident()
if sys.argv[1] == "retired":
    assert malloc.retire_holes() > 50 << 20
after = resident()
print(len({allocate(1 << 20) for _ in range(64)} & set(holes)), before, after,
      all(ctypes.string_at(block, 1 << 20) == bytes([7]) * (1 << 20) for block in kept))
"""
)

COMPILES = """
import jax, sys
from motfm_jax.io import malloc
malloc._LONG, retired = float(sys.argv[1]), []
malloc.retire_holes = lambda: retired.append(1)
malloc.keep_freed()
jax.jit(lambda x: x + 1)(1.0)
print(len(retired))
"""


def said(script: str, argument: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", script, argument], check=True, capture_output=True, text=True
    ).stdout.split()


def test_freed_memory_is_used_again():
    kept, returned = (int(said(TOUCHES, how)[0]) for how in ("kept", "returned"))
    assert kept < 100
    assert returned > kept, "or the test shows nothing"


def test_retired_holes_are_neither_searched_nor_resident():
    filled, before, after, same = said(HOLES, "retired")
    assert (filled, same) == ("0", "True")
    assert int(after) < int(before) - 50
    filled, *_ = said(HOLES, "left")
    assert int(filled) > 50, "or the test shows nothing"


def test_long_compilations_alone_retire_holes():
    assert int(said(COMPILES, "0")[0]) > 0
    assert said(COMPILES, "1000") == ["0"]
