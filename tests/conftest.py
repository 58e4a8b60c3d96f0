"""Settings every test runs under, and the folder of real data."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# Set before JAX is imported, and inherited by the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers share a GPU

# Of a slow machine, or of few examples, they say nothing about the tests.
UNCHECKED = (HealthCheck.too_slow, HealthCheck.filter_too_much)
settings.register_profile(
    "motfm", deadline=None, derandomize=True, max_examples=30, suppress_health_check=UNCHECKED
)
settings.register_profile(  # --hypothesis-profile
    "thorough", deadline=None, max_examples=1000, suppress_health_check=UNCHECKED
)
settings.load_profile("motfm")

# Tests of numbers compile as users do. The others ask nothing that depends on XLA's optimisations,
# and most of their time is compiling.
OPTIMISED = ("features", "metrics", "nn", "parity", "properties")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests marked nightly too")


def pytest_configure(config):
    if "jax" in sys.modules:
        raise pytest.UsageError("a pytest plugin imported JAX before its test settings were made")
    # Compiled programs are shared by the workers and kept for the next run.
    cache = config.cache.mkdir("jax") if hasattr(config, "cache") else tempfile.mkdtemp()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))


def pytest_collection_modifyitems(config, items):
    if not config.option.all and "nightly" not in config.option.markexpr:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import jax

        if jax.default_backend() != "gpu":
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA device, or JAX_PLATFORMS=cpu"))


@pytest.fixture(scope="session", autouse=True)
def _decoded_data_in_a_temporary_folder(tmp_path_factory):
    """Decoded data go to a folder of this session that its workers share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTFM_CACHE", str(folder / "decoded"))
        yield


@pytest.fixture(scope="module", autouse=True)
def _most_tests_are_compiled_quickly(request):
    """Without XLA's optimisations, here and in the processes that a test starts."""
    quick = request.path.relative_to(Path(__file__).parent).parts[0] not in OPTIMISED
    if quick or "jax" in sys.modules:
        import jax

        if jax.config.read("jax_disable_most_optimizations") != quick:
            jax.clear_caches()  # programs compiled either way do not meet
            jax.config.update("jax_disable_most_optimizations", quick)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(quick)))
        yield


@pytest.fixture(autouse=True)
def _memory_maps_stay_few():
    """Forgets compiled programs in time: each keeps hundreds of memory maps, Linux allows a process
    65,530, and XLA crashes at the next."""
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 12 MiB of its own."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here (it takes root on Linux)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def browser():
    """Chromium; WebGL is computed on the CPU."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not installed")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def serious():
    """What axe-core finds serious or critical on a page: {rule: elements}."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")

    def serious(page):
        return {
            fault["id"]: [node["html"] for node in fault["nodes"]]
            for fault in axe.Axe().run(page).response["violations"]
            if fault["impact"] in ("serious", "critical")
        }

    return serious


@pytest.fixture(scope="session")
def motfm_data() -> Path:
    """The folder of real data that MOTFM_DATA names; skips where it names none."""
    root = os.environ.get("MOTFM_DATA")
    if not root:
        pytest.skip("MOTFM_DATA is unset: it names the folder of real data")
    folder = Path(root)
    if not folder.is_dir():
        pytest.fail(f"MOTFM_DATA={root} is no folder", pytrace=False)
    return folder


@pytest.fixture
def parse(monkeypatch):
    """The config of the flags of `motfm train`, parsed in the project's folder."""
    from absl import flags

    from motfm_jax import cli

    def parse(*arguments):
        values = flags.FlagValues()
        flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
        flags.DEFINE_bool("resume", False, "continue", flag_values=values)
        monkeypatch.setattr(sys, "argv", ["motfm train", *arguments])
        return cli.parse_config_flags(arguments, values, "")

    monkeypatch.chdir(Path(__file__).parents[1])
    return parse
