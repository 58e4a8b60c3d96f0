"""When the commands add a flag of XLA: stand-ins for the plugins of CUDA."""

import os
import sys

import pytest

from motfm_jax.io import xla_flags


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Installs a plugin whose library holds the text."""

    def install(text):
        folder = tmp_path / "jax_plugins" / "xla_cuda13"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "xla_cuda_plugin.so").write_bytes(b"\0" * 100 + text + b"\0")
        monkeypatch.syspath_prepend(tmp_path)

    for name in [name for name in sys.modules if name.startswith("jax_plugins")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    return install


def flags():
    xla_flags.set_channels_last()
    return os.environ["XLA_FLAGS"]


def test_without_a_plugin_nothing_is_set(plugin):
    assert flags() == "--xla_mine=1"


def test_the_flag_is_added_once_to_the_users_own(plugin, caplog):
    caplog.set_level("INFO", "motfm_jax")
    plugin(xla_flags.FLAG.encode())
    assert flags() == "--xla_mine=1 --xla_gpu_force_conv_nhwc=true"
    assert flags() == "--xla_mine=1 --xla_gpu_force_conv_nhwc=true"
    assert len(caplog.records) == 1


def test_a_flag_that_the_plugin_does_not_know_is_not_set(plugin):
    plugin(b"xla_gpu_other")
    assert flags() == "--xla_mine=1"


def test_what_the_user_set_stays(plugin, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_force_conv_nhwc=false")
    plugin(xla_flags.FLAG.encode())
    assert flags() == "--xla_gpu_force_conv_nhwc=false"
