"""What `pip wheel .` packs, and that the configs are found in it by name."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.nightly
def test_a_wheel_holds_the_package_and_the_configs_and_works_outside_the_checkout(tmp_path):
    tree = tmp_path / "tree"
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, tree]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("motfm_jax-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    expected = {f"motfm_jax/{name}" for name in tracked if name.startswith("configs/")}
    expected |= {name for name in tracked if name.startswith("motfm_jax/")}
    installed = {path for path in expected if (tmp_path / "installed" / path).is_file()}
    assert installed == expected
    code = "from motfm_jax import presets; print(presets.read_config('phantom:size=debug').method)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "flow\n", done.stderr
