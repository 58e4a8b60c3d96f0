"""Records revision, packages, devices and command of a program."""

import contextlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "diffrax",
    "grain",
    "numpy",
    "nibabel",
    "ml_collections",
)


def environment() -> dict[str, Any]:
    """Git revision, packages, devices and command of this process."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "revision": _git_revision(),
        "packages": versions,
        "python": platform.python_version(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "command": sys.argv,
    }


def _git_revision() -> str | None:
    """The commit of the source, "+changes" where files differ from it; None outside git."""
    git = ("git", "-C", str(Path(__file__).resolve().parent))
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
