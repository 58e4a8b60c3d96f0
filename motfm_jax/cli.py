"""How scripts end: one clear line and exit code 2 for a user's mistake, never a traceback."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from motfm_jax import config as configs


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Calls main(arguments) and exits: 0, 2 after a ValueError, 130 after Ctrl-C."""
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def parse_config_flags(arguments: Sequence[str]) -> tuple[flags.FlagValues, ConfigDict]:
    """Parses --config=FILE.py:ARGUMENTS and --config.FIELD=VALUE beside the flags defined.

    Returns:
      all flags, and the config, checked and locked.

    Raises:
      ValueError: a flag or field that does not exist, a value of the wrong type, no config file.
    """
    values = flags.FLAGS
    if "config" not in values:
        config_flags.DEFINE_config_file("config", help_string="configs/NAME.py[:ARGUMENTS]")
    file = next((a.partition("=")[2] for a in arguments if a.startswith(("--config=",))), "")
    name = file.partition(":")[0]
    if name and not Path(name).is_file():
        raise ValueError(f"--config={file}: there is no file {name}; see configs/")
    try:
        rest = values([sys.argv[0], *arguments])[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(" ".join(str(error.args[0] if error.args else error).split())) from error
    if rest:
        raise ValueError(f"{rest[0]!r}: flags are given as --name=value; see --help")
    if values.config is None:
        raise ValueError("--config is missing: give one of configs/, such as configs/phantom.py")
    configs.check(values.config)
    return values, values.config
