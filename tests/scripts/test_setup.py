"""scripts/setup.sh with stand-ins for pip, nvidia-smi and sleep: what it installs, and when."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Notes what pip is asked for and imports no JAX; everything else is this interpreter.
PYTHON = f"""#!/bin/bash
case "$1 $2 $3" in
    "-m pip install") shift 2; echo "$@" >>pip_calls; exec {sys.executable} -c "$PIP" ;;
    "-m pip --version" | "- "*) ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def repository(tmp_path):
    """A folder with setup.sh, lists of requirements and a .venv of the stand-ins."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "setup.sh", tmp_path / "scripts")
    for name in (
        "requirements.txt",
        "requirements-cuda12.txt",
        "requirements-cuda13.txt",
        "pyproject.toml",
    ):
        (tmp_path / name).write_text("jax\n")
    write_program(tmp_path / ".venv/bin/python", PYTHON)
    write_program(tmp_path / "bin/sleep", "#!/bin/bash\n")
    write_program(tmp_path / "bin/nvidia-smi", "#!/bin/bash\nexit 9\n")
    return tmp_path


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def set_up(repository, *arguments, **environment):
    """Runs setup.sh; returns the process and the pip commands of this run."""
    calls = repository / "pip_calls"
    calls.unlink(missing_ok=True)
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MOTFM_JAX")}
    done = subprocess.run(
        ["bash", repository / "scripts/setup.sh", *arguments],
        env=inherited | {"PATH": f"{repository}/bin:{os.environ['PATH']}", "PIP": ""} | environment,
        capture_output=True,
        text=True,
        cwd="/",
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    "answer, requirements",
    [
        ("580.159.04, 9.0", "requirements-cuda13.txt"),
        ("580.159.04, 7.0", "requirements-cuda12.txt"),  # CUDA 13 dropped Volta
        ("535.54, 8.0", "requirements-cuda12.txt"),
        ("470.82, 8.0", "requirements.txt"),
        ("Failed to initialize NVML", "requirements.txt"),
    ],
)
def test_the_driver_chooses_the_wheels(repository, answer, requirements):
    write_program(repository / "bin/nvidia-smi", f"#!/bin/bash\necho '{answer}'\n")
    done, calls = set_up(repository)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 1
    assert f"-r {requirements} -e ." in calls[0]


def test_an_environment_variable_chooses_the_wheels(repository):
    _, calls = set_up(repository, MOTFM_JAX="cuda12")
    assert "-r requirements-cuda12.txt" in calls[0]
    done, calls = set_up(repository, MOTFM_JAX="cuda11")
    assert done.returncode == 1
    assert "MOTFM_JAX=cuda11: use cpu, cuda12 or cuda13" in done.stderr
    assert not calls


def test_installs_again_only_when_something_changed(repository):
    def num_installs(*arguments):
        done, calls = set_up(repository, *arguments)
        assert done.returncode == 0, done.stderr
        return len(calls)

    assert num_installs() == 1
    assert num_installs() == 0
    assert num_installs("test") == 1
    assert num_installs("test") == 0
    assert num_installs() == 0  # the test tools do no harm
    (repository / "requirements.txt").write_text("jax\nnumpy\n")
    assert num_installs() == 1


def test_a_failed_installation_is_tried_again_and_explained(repository):
    pip = "print('ERROR: no jax at https://packages.example.org/simple'); raise SystemExit(1)"
    done, calls = set_up(repository, PIP=pip)
    assert done.returncode == 1
    assert len(calls) == 3
    assert "ERROR: no jax at ..." in done.stderr
    assert "needs a network connection" in done.stderr
    assert "example.org" not in done.stderr + done.stdout
    done, calls = set_up(repository)  # nothing says that it was done
    assert done.returncode == 0
    assert len(calls) == 1


def test_an_old_python_is_refused(repository):
    write_program(repository / "bin/old", "#!/bin/bash\n[[ $1 == -c ]] && exit 1\necho Python 3.9")
    shutil.rmtree(repository / ".venv")
    done, calls = set_up(repository, PYTHON="old")
    assert done.returncode == 1
    assert "no Python 3.11 or newer among: old" in done.stderr
    assert "Python 3.9" in done.stderr
    assert not calls


def test_a_shim_without_its_python_is_quoted_by_its_first_line(repository):
    says = "pyenv: python3.13: command not found\n\nNote: see 'pyenv help global'"
    write_program(repository / "bin/python3.13", f'#!/bin/bash\necho "{says}" >&2\nexit 127\n')
    done, _ = set_up(repository, PYTHON="python3.13")
    assert done.returncode == 1
    assert "the first says: pyenv: python3.13: command not found\n" in done.stderr
    assert "help global" not in done.stderr


def test_a_python_without_ensurepip_says_what_to_install(repository):
    write_program(
        repository / "bin/debian",
        "#!/bin/bash\n[[ $2 == *ensurepip* ]] && exit 1\necho Python 3.11.2",
    )
    shutil.rmtree(repository / ".venv")
    done, _ = set_up(repository, PYTHON="debian")
    assert done.returncode == 1
    assert "sudo apt install python3-venv" in done.stderr
    assert not (repository / ".venv").exists()
