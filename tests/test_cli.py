"""How commands begin and end."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motfm_jax import cli
from motfm_jax.settings import assign, default


@pytest.fixture(autouse=True)
def _the_logger_is_left_as_it_was(monkeypatch):
    logger = logging.getLogger("motfm_jax")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    level = logger.level
    yield
    logger.setLevel(level)


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["motfm", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def ending(error):
    """The exit code of a command that raises."""

    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    return stopped.value.code


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("--num=0: at least 1 image"), "--num=0: at least 1 image"),
        (MemoryError("Unable to allocate 3 GiB"), "Unable to allocate 3 GiB; this machine has no"),
        (MemoryError(), "out of memory; this machine has no"),
        (OSError(errno.ENOMEM, "no room", "a"), "no room: 'a'; this machine has no"),
        (OSError(errno.ENOSPC, "No space left", "a"), "No space left: 'a'; make room"),
        (RuntimeError("RESOURCE_EXHAUSTED: no memory\nmore"), "no memory; the device has not"),
    ],
)
def test_a_users_mistake_and_want_of_room_are_one_line_and_code_2(capsys, error, message):
    assert ending(error) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_bug_shows_its_traceback_and_an_interrupt_none(capsys, monkeypatch):
    assert ending(TypeError("oops")) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr("os._exit", sys.exit)
    assert ending(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


COMPILES = """
import jax, jax.numpy as jnp
from motfm_jax import cli

def main(arguments):
    def long(x):
        for number in range(400):
            x = jnp.sin(x @ x) + jnp.cumsum(x * number, axis=0).sort(axis=1)
        return x

    lowered = jax.jit(long).lower(jnp.ones((64, 64)))
    print("compiling", flush=True)
    lowered.compile()
    print("compiled")

cli.run(main)
"""


@pytest.mark.nightly
def test_ctrl_c_while_xla_compiles_ends_within_seconds():
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILES],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        cwd=Path(__file__).parents[1],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "compiling\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=5) == ("", "interrupted\n")
    finally:
        process.kill()
    assert process.returncode == 130


def test_motfm_lists_its_commands_and_knows_no_others(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert all(f"motfm {name}" in out for name in cli.COMMANDS)
    assert run(monkeypatch, "trian") == 2
    assert "error: motfm trian: use one of train, plan" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(cli.COMMANDS.keys() - {"convert"}))
def test_every_command_describes_itself(monkeypatch, capsys, name):
    assert run(monkeypatch, name, "--help") == 0
    out = capsys.readouterr().out
    assert f"motfm {name}" in out
    if name == "train":
        assert "--workdir: run directory to write" in out


def test_messages_of_the_library_are_printed_and_warnings_apart(capsys):
    def main(arguments):
        logger = logging.getLogger("motfm_jax.anywhere")
        logger.info("4 images")
        logger.warning("an odd image")

    with pytest.raises(SystemExit):
        cli.run(main)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("4 images\n", "WARNING: an odd image\n")


DEBUG = "--config=phantom:size=debug"


def test_flags_change_fields_of_the_config_file(parse):
    parsed = parse(
        "--config.train.lr=1",
        DEBUG,
        "--config.data.size=(64,48)",
        "--config.model.remat=norms",
        "--config.data.label_map=((2,1),)",
        "--config.cond=none",
        "--config.model.res_blocks=2",
        "--config.model.head_dim=(8,16)",
    )
    assert (parsed.model.res_blocks, parsed.model.head_dim) == (2, (8, 16))
    assert (parsed.train.lr, parsed.model.remat, parsed.cond) == (1.0, "norms", "none")
    assert (parsed.data.size, parsed.data.label_map) == ((64, 48), ((2, 1),))
    assert parsed.model.channels == (16, 32), "from the preset"
    assert parsed.is_locked


@pytest.mark.parametrize(
    "text, channel", [("T1w,FLAIR", "T1w,FLAIR"), ('("T1w","FLAIR")', ("T1w", "FLAIR"))]
)
def test_channels_are_named_by_a_text_or_a_tuple(parse, text, channel):
    assert parse(DEBUG, f"--config.data.channel={text}").data.channel == channel
    config = default()
    config.data.channel = channel  # as a config file does
    assign(config, {"data.channel": list(channel) if type(channel) is tuple else channel})
    assert config.data.channel == channel


def test_a_resumed_run_needs_no_config_file(parse, tmp_path):
    config = default()
    config.train.lr, config.data.cache = 0.5, str(tmp_path / "elsewhere")
    (tmp_path / "config.json").write_text(config.to_json())
    parsed = parse(f"--workdir={tmp_path}", "--resume", "--config.train.steps=7")
    assert (parsed.train.lr, parsed.train.steps) == (0.5, 7)
    assert parsed.data.cache == "", "a run does not choose where this machine writes"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: cannot be used .*or give --config"):
        parse(f"--workdir={tmp_path}", "--resume")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((DEBUG, "--config.train.lrr=1"), "Did you mean .?lr"),
        ((DEBUG, "--config.trian.lr=1"), "Did you mean .?train"),
        ((DEBUG, "--config.train.lr=fast"), "--config.train.lr=fast"),
        ((DEBUG, "--config.data.size=(64"), "config.data.size=.*whole numbers"),
        ((DEBUG, "--config.train.lr=nan"), "config.train.lr=nan"),
        ((DEBUG, "--config.model.res_blocks=two"), "res_blocks='two': give a whole number"),
        ((DEBUG, "--config.data.channel=(1,2)"), r"data.channel=\(1, 2\): give a name, or several"),
        ((DEBUG, "debug"), "'debug': flags are given as --name=value"),
        (("--config=phantm",), "there is no file phantm; .* a built-in config: brain, camus"),
        (("--config=phantom:cond=msk",), "cond=msk: use one of none, class, mask"),
        (("--cofig=phantom",), "cofig.*Did you mean: config"),
        ((), "--config is missing"),
        (("--workdir=nowhere", "--resume"), "there is no run to resume"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(parse, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(*arguments)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
