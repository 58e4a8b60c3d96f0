"""How scripts end: one clear line and exit code 2 for a user's mistake, never a traceback."""

import argparse
import errno
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from motfm_jax import datasets, settings
from motfm_jax.io import malloc

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
    "model.remat=True, or nothing else running on it"
)


def run(main: Callable[[Sequence[str]], int | None], end: Callable[[int], None] = sys.exit) -> None:
    """Calls main(arguments) and ends with what it returns; 2 after a mistake, said in a line; 130
    after Ctrl-C; 1 after a bug, with its traceback."""
    _open_streams()
    threading.excepthook, sys.unraisablehook = _say_of_thread, _say_of_callback
    malloc.keep_freed()
    try:
        code = main(sys.argv[1:]) or 0
    except (ValueError, OSError) as error:
        cure = _CURES.get(getattr(error, "errno", None), "")
        print(f"error: {error}{cure}", file=sys.stderr)
        code = 2
    except MemoryError as error:
        print(f"error: {str(error) or 'out of memory'}{_NO_HOST_MEMORY}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        code = 2 if str(error).startswith("RESOURCE_EXHAUSTED") else 1  # XLA's word for memory
        if code == 1:
            traceback.print_exc()
        else:
            print(f"error: {str(error).splitlines()[0]}{_NO_MEMORY}", file=sys.stderr)
    end(code)


def _open_streams() -> None:
    """Nothing in the place of standard streams that the caller closed: their numbers would be
    given to the next files opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "w" if number else "r", closefd=False)
            setattr(sys, name, stream)


def _say_of_thread(ended: threading.ExceptHookArgs) -> None:
    """A disk that ends a background thread, such as TensorBoard's, in a line."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)
        return
    print(f"WARNING: {ended.thread and ended.thread.name}: {ended.exc_value}", file=sys.stderr)


def _say_of_callback(ended: Any) -> None:
    """Nothing of writes that Orbax gave up, which end after its event loop has; a disk's in a line,
    as when TensorBoard's writer is closed at exit."""
    if isinstance(ended.exc_value, OSError):
        print(f"WARNING: {ended.exc_value}", file=sys.stderr)
    elif str(ended.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(ended)


class _Parser(argparse.ArgumentParser):
    """Refuses a value that is empty, as of a shell variable that is not set: as a path it would be
    the folder one is in."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        for before, argument in zip(["", *given], given):
            if not argument or re.fullmatch(r"--[\w-]+=", argument):
                raise ValueError(
                    f"{argument or before}: its value is empty; give one, or leave the flag out"
                )
        return super().parse_known_args(given, namespace)


def parser(description: str) -> argparse.ArgumentParser:
    """For a script's flags; its --help is the script's docstring and the flags.

    Args:
      description: the docstring.
    """
    return _Parser(
        allow_abbrev=False,
        usage=argparse.SUPPRESS,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse_config_flags(arguments: Sequence[str]) -> tuple[flags.FlagValues, ConfigDict]:
    """Parses --config=FILE.py:ARGUMENTS and --config.FIELD=VALUE beside the flags defined.

    With --resume and no --config, the config is the one saved in --workdir.

    Returns:
      all flags, and the config, checked and locked.

    Raises:
      ValueError: a flag or field that does not exist, a value of the wrong type, no config file.
    """
    values = flags.FLAGS
    saved = _saved_config(arguments)
    if saved is not None:
        try:  # it looks at the command line already here
            config_flags.DEFINE_config_dict("config", saved)
        except Exception as error:
            raise ValueError(_said(error)) from error
    elif "config" not in values:
        config_flags.DEFINE_config_file("config", help_string="configs/NAME.py[:ARGUMENTS]")
    if {"--help", "-h", "-help"} & set(arguments):
        print(sys.modules["__main__"].__doc__, values.main_module_help(), sep="\n")
        sys.exit(0)
    file = next((a.partition("=")[2] for a in arguments if a.startswith("--config=")), "")
    name = file.partition(":")[0]
    if name and not Path(name).is_file():
        raise ValueError(f"--config={file}: there is no file {name}; see configs/")
    # config_flags wants the file before the fields that change it.
    sys.argv[1:] = sorted(arguments, key=lambda argument: not argument.startswith("--config="))
    try:
        rest = values(sys.argv)[1:]
    except Exception as error:  # whatever a config file or a value makes the parser raise
        raise ValueError(_said(error)) from error
    if rest:
        raise ValueError(f"{rest[0]!r}: flags are given as --name=value; see --help")
    if values.config is None:
        workdir = values["workdir"].value if "workdir" in values else None
        if workdir and values["resume"].value:
            raise ValueError(
                f"--workdir={workdir}: there is no run to resume; give the folder of one, or "
                "--config to start"
            )
        raise ValueError(
            "--config is missing: give one of configs/, such as configs/phantom.py; only --resume "
            "of a --workdir that holds a run can do without"
        )
    settings.check(values.config)
    return values, values.config


def _saved_config(arguments: Sequence[str]) -> ConfigDict | None:
    """The config of the run to resume, where no config file is given and the run is there."""
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


def _said(error: Exception) -> str:
    """What the flag parser's exception says to a user, in one line."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    if "Traceback" in text:  # of a config file: its last exception says it
        text = re.split(r"\w+(?:Error|Exception): ", text)[-1]
    if isinstance(error, KeyError | AttributeError):
        plain = text.replace("\\n", ". ").replace("\\", "").replace("'", "")
        return f"no such config field: {plain}"
    return text
