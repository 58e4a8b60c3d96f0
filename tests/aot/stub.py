"""Writes a libcuda.so.1 that has no device: enough of a driver for cuDNN to plan attention.

    python stub.py FOLDER_OF_LIBCUDNN FOLDER

Every function of the driver that cuDNN may look up is there and says "no device" (100), except
those that tell the version and load compiled kernels. Nothing is ever launched.
"""

import re
import subprocess
import sys
from pathlib import Path

NO_DEVICE = 100
NAME = re.compile(r"cu[A-Z][A-Za-z0-9]{3,}(_v[0-9]+)?(_ptsz|_ptds)?")
TOLD = ("cuDriverGetVersion", "cuGetErrorString", "cuGetErrorName")
HANDLES = (  # functions that return a handle through their first argument
    "cuLibraryLoadData",
    "cuLibraryGetKernel",
    "cuLibraryGetModule",
    "cuKernelGetFunction",
    "cuModuleLoadData",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
)
NOTHING = (
    "cuLibraryUnload",
    "cuModuleUnload",
    "cuKernelSetAttribute",
    "cuFuncSetAttribute",
    "cuKernelSetCacheConfig",
    "cuFuncSetCacheConfig",
)


def main(cudnn: Path, out: Path) -> None:
    named = set()
    for file in cudnn.glob("libcudnn*.so.9"):
        strings = subprocess.run(["strings", "-a", file], capture_output=True, text=True).stdout
        named |= {line for line in strings.splitlines() if NAME.fullmatch(line)}
    named -= {*TOLD, *HANDLES, *NOTHING}
    lines = [
        "int cuDriverGetVersion(int *version) { *version = 13000; return 0; }",
        'int cuGetErrorString(int code, const char **said) { *said = "no driver"; return 0; }',
        'int cuGetErrorName(int code, const char **said) { *said = "STUB"; return 0; }',
        *(f"int {name}(void **out) {{ *out = (void *)0x1000; return 0; }}" for name in HANDLES),
        *(f"int {name}(void) {{ return 0; }}" for name in NOTHING),
        *(f"int {name}(void) {{ return {NO_DEVICE}; }}" for name in sorted(named)),
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "stub.c").write_text("\n".join(lines) + "\n")
    target = out / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", target]
    subprocess.run([*command, out / "stub.c"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
