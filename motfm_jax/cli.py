"""The command line: `motfm COMMAND`, its flags, and how commands end.

A user's mistake ends in one line and exit code 2, Ctrl-C in 130, a bug in its traceback and 1.
"""

import argparse
import contextlib
import errno
import importlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from motfm_jax.io import xla_flags

COMMANDS = {
    "train": "train a model",
    "plan": "say how much memory a training needs",
    "sample": "generate images with a trained model",
    "app": "sample a run on a page in the browser",
    "evaluate": "score images, look for copies, measure restoration",
    "study": "ask readers to tell generated images from real ones",
    "downstream": "train classifiers or segmenters on generated images",
    "export": "write a compiled sampler that needs jax alone",
    "convert": "exchange weights with the PyTorch original",
    "prepare": "check, preview and convert data",
    "report": "run the paper's comparison",
}
_ROOM = "; make room, then call it again: what is complete is kept"
_NO_HOST_MEMORY = "; this machine has no memory left: see what else runs on it, then call it again"
_AGAIN = "; the disk or the network failed: what is complete is kept, call it again"
_CURES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: "; give a folder that can be written to",
    errno.EACCES: "; change its rights, or give another",
    errno.ENOMEM: _NO_HOST_MEMORY,
    errno.EIO: _AGAIN,
    errno.ESTALE: _AGAIN,
    errno.ETIMEDOUT: _AGAIN,
}
_NO_MEMORY = (
    "; the device has not enough memory left: a smaller train.batch_size or --batch, "
    "model.remat=auto, or nothing else running on it"
)


def main() -> None:
    """The command `motfm`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print("motfm COMMAND: generative models of medical images.\n")
        for command, summary in COMMANDS.items():
            print(f"  motfm {command:<11} {summary}")
        print("\nmotfm COMMAND --help lists the flags.")
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: motfm {name}: use one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [f"motfm {name}"]
    run(name)


def run(command: str | Callable[[Sequence[str]], int | None]) -> None:
    """Calls a command with the arguments of this process, and exits.

    Args:
      command: one of COMMANDS, or a function of the arguments.
    """
    _log_to_terminal()
    xla_flags.set_channels_last()
    sys.unraisablehook = _unraisable
    try:
        if isinstance(command, str):
            command = importlib.import_module(f"motfm_jax.commands.{command}").main
        code = command(sys.argv[1:]) or 0
    except (ValueError, OSError) as error:
        cure = _CURES.get(getattr(error, "errno", None), "")
        print(f"error: {error}{cure}", file=sys.stderr)
        code = 2
    except MemoryError as error:
        print(f"error: {str(error) or 'out of memory'}{_NO_HOST_MEMORY}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _leave(130)
    except Exception as error:
        code = 2 if str(error).startswith("RESOURCE_EXHAUSTED") else 1  # XLA's word for memory
        if code == 1:
            traceback.print_exc()
        else:
            print(f"error: {str(error).splitlines()[0]}{_NO_MEMORY}", file=sys.stderr)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """Ends the process as it is: Python's own end would wait for a compilation that Ctrl-C has cut
    short, which XLA carries on in the background."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _unraisable(ended: Any) -> None:
    """Leaves out what Orbax's background writes raise after a save has failed: the error line of
    the command tells it."""
    if str(ended.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(ended)


class _Terminal(logging.Handler):
    """Prints messages plainly, above a progress bar; warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        warns = record.levelno >= logging.WARNING
        stream = sys.stderr if warns else sys.stdout
        # A closed pipe or a full disk behind the stream does not end a training.
        with contextlib.suppress(OSError):
            tqdm.write(f"{record.levelname}: " * warns + record.getMessage(), file=stream)
            stream.flush()


def _log_to_terminal() -> None:
    logger = logging.getLogger("motfm_jax")
    logger.handlers[:] = [_Terminal()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def parser(description: str) -> argparse.ArgumentParser:
    """For a command's flags; its --help is the command's docstring and the flags.

    Args:
      description: the docstring.
    """
    return argparse.ArgumentParser(
        allow_abbrev=False,
        usage=argparse.SUPPRESS,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse_config_flags(
    arguments: Sequence[str], values: Any, usage: str, *, needs_data: bool = True
) -> Any:
    """Parses --config=FILE.py:ARGUMENTS and --config.FIELD=VALUE beside other flags.

    With --resume and no --config, the config is the one saved in --workdir.

    Args:
      arguments: of the command line.
      values: `absl.flags.FlagValues` with the other flags defined; receives their values.
      usage: printed by --help, before the flags.
      needs_data: the config must say where its data are.

    Returns:
      The config, checked and locked.

    Raises:
      ValueError: a flag or field that does not exist, a value of the wrong type, no config file.
    """
    from ml_collections import config_flags

    from motfm_jax import presets, settings

    if {"--help", "-h", "-help"} & set(arguments):
        listed = values.get_help(include_special_flags=False).partition(":\n")[2]
        print(usage, "options:", listed, sep="\n")
        sys.exit(0)
    arguments = [
        f"--config={presets.config_file(each.partition('=')[2])}"
        if each.startswith("--config=")
        else each
        for each in arguments
    ]
    # config_flags wants the file before the fields that change it.
    arguments.sort(key=lambda argument: not argument.startswith("--config="))
    command = [sys.argv[0], *arguments]
    saved = _saved_config(arguments)
    try:
        if saved is not None:
            config_flags.DEFINE_config_dict("config", saved, flag_values=values, sys_argv=command)
        else:
            config_flags.DEFINE_config_file(
                "config", flag_values=values, sys_argv=command, help_string="NAME[:ARGUMENTS]"
            )
        rest = values(command)[1:]
    except Exception as error:  # whatever a config file or a value makes the parser raise
        raise ValueError(_one_line(error)) from error
    if rest:
        raise ValueError(f"{rest[0]!r}: flags are given as --name=value; see --help")
    if values.config is None:
        if "resume" in values and values.workdir and values.resume:
            raise ValueError(
                f"--workdir={values.workdir}: there is no run to resume; give the folder of one, "
                "or --config to start"
            )
        raise ValueError(
            "--config is missing: give one, such as --config=phantom; only --resume of a --workdir "
            "that holds a run can do without"
        )
    (settings.check if needs_data else settings.check_network)(values.config)
    return values.config


def _saved_config(arguments: Sequence[str]) -> Any:
    """The config of the run to resume, where no config file is given and the run is there."""
    from motfm_jax import datasets, settings

    text = "\n".join(arguments)
    workdir = re.search(r"^--?workdir[=\n](.*)$", text, re.MULTILINE)
    resumes = re.search(r"^--?resume(=true|=1|)$", text, re.MULTILINE | re.IGNORECASE)
    if not (resumes and workdir) or re.search(r"^--?config[=\n]", text, re.MULTILINE):
        return None
    path = Path(workdir[1]) / "config.json"
    if not path.is_file():
        return None
    try:
        return datasets.distrust_cache(settings.from_json(json.loads(path.read_text())))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: cannot be used ({error}); restore it, or give --config"
        ) from error


def _one_line(error: Exception) -> str:
    """The flag parser's exception, in one line."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    if "Traceback" in text:  # of a config file: its last exception
        text = re.split(r"\w+(?:Error|Exception): ", text)[-1]
    if isinstance(error, KeyError | AttributeError):
        plain = text.replace("\\n", ". ").replace("\\", "").replace("'", "")
        return f"no such config field: {plain}"
    return text
