"""Exported models from a model hub, through huggingface_hub."""

import re
from pathlib import Path

PREFIX = "hub:"
FILES = ("export.json", "config.json", "facts.json", "weights.npz")  # none of them is code


def fetched(name: str | Path) -> Path:
    """The folder of hub:OWNER/NAME@REVISION, fetched once; of any other name the name.

    Args:
      name: REVISION is a commit, a tag or a branch. It has to be given, since what a name alone
        stands for may change.

    Raises:
      ValueError: no revision, huggingface_hub missing, or the hub does not have it.
    """
    if not str(name).startswith(PREFIX):
        return Path(name)
    parts = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)@([\w./-]+)", str(name))
    if parts is None:
        raise ValueError(
            f"{name}: hub:OWNER/NAME@REVISION needed, with a commit or a tag for REVISION"
        )
    try:
        import huggingface_hub  # optional
    except ImportError as error:
        raise ValueError(
            f"{name}: needs huggingface_hub, which is not installed; pip install 'motfm_jax[hub]'"
        ) from error
    try:
        return Path(
            huggingface_hub.snapshot_download(
                parts[1], revision=parts[2], allow_patterns=list(FILES)
            )
        )
    except (OSError, ValueError) as error:  # its own errors are OSErrors
        raise ValueError(f"{name}: cannot be fetched ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(filter(None, str(error).splitlines()), type(error).__name__)
