"""Files with weights of the original: every layout, and damaged and hostile ones."""

import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from motfm_jax.interop.torch_weights import read_torch_weights, write_torch_weights

STATE = {
    "unet.conv_in.conv.weight": np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) / 7,
    "controlnet.controlnet_down_blocks.0.bias": np.ones(3, np.float32),
}


def assert_state(found, expected=STATE):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def without(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # what an import of it then meets


def crafted_safetensors(path, **tensors):
    """The format by hand: the header's length, the header, the bytes of (kind, shape, bytes)."""
    header, data = {}, b""
    for name, (kind, shape, values) in tensors.items():
        header[name] = {
            "dtype": kind,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    header = json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_safetensors_are_written_and_read_without_torch(tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason="needs safetensors: pip install -e '.[torch]'")
    without(monkeypatch, "torch")
    path = tmp_path / "weights.safetensors"
    strided = {name: np.asfortranarray(array) for name, array in STATE.items()}
    write_torch_weights(path, strided, {"model_args": {}}, 5)
    read = read_torch_weights(path)
    assert_state(dict(sorted(read.state.items(), reverse=True)))
    assert read[1:] == (None, None, "safetensors file")


def test_safetensors_of_every_float_become_float32(tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason="needs safetensors: pip install -e '.[torch]'")
    without(monkeypatch, "torch")
    values = np.array([0.5, -2, 3.140625], np.float32)  # exact in bfloat16
    half, double = values.astype(np.float16), values.astype(np.float64)
    bfloat = values.view(np.uint32).__rshift__(16).astype(np.uint16)
    path = crafted_safetensors(
        tmp_path / "weights.safetensors",
        **{
            "unet.a": ("BF16", [3], bfloat.tobytes()),
            "unet.b": ("F16", [3], half.tobytes()),
            "unet.c": ("F64", [3], double.tobytes()),
        },
    )
    state = read_torch_weights(path).state
    assert_state(dict(sorted(state.items())), dict.fromkeys(("unet.a", "unet.b", "unet.c"), values))
    path = crafted_safetensors(path, **{"unet.n": ("I64", [1], bytes(8))})
    with pytest.raises(ValueError, match=r"weights\.safetensors: .*unet\.n is I64"):
        read_torch_weights(path)


@pytest.mark.parametrize(
    "suffix, package", [(".ckpt", "torch"), (".pt", "torch"), (".safetensors", "safetensors.numpy")]
)
def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch, suffix, package):
    without(monkeypatch, package)
    without(monkeypatch, package.partition(".")[0])
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(
        ValueError, match=r"weights.*not installed; pip install 'motfm_jax\[torch\]'"
    ):
        write_torch_weights(path, STATE)
    path.touch()
    with pytest.raises(
        ValueError, match=r"weights.*not installed; pip install 'motfm_jax\[torch\]'"
    ):
        read_torch_weights(path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_torch_that_may_execute_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=(2, 9, 1)))
    (tmp_path / "weights.pt").touch()
    with pytest.raises(ValueError, match=r"may execute .*'torch>=2\.10'"):
        read_torch_weights(tmp_path / "weights.pt")


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.ckpt: no such file; give a \.ckpt"):
        read_torch_weights(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=r"a folder; give a \.ckpt"):
        read_torch_weights(tmp_path)
    with pytest.raises(ValueError, match=r"weights\.bin: use the suffix"):
        write_torch_weights(tmp_path / "weights.bin", STATE)
    assert not os.listdir(tmp_path)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[torch]'")


def tensors(torch, prefix=""):
    return {prefix + name: torch.tensor(array) for name, array in STATE.items()}


CONFIG = {"model_args": {"num_channels": [32, 64], "with_conditioning": True}, "lr": 1e-4}


@pytest.mark.torch
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.model."])
def test_state_dicts_are_read_whatever_wrapped_the_model(torch, tmp_path, prefix):
    path = tmp_path / "weights.pt"
    torch.save(tensors(torch, prefix), path, _use_new_zipfile_serialization=prefix != "module.")
    read = read_torch_weights(path)
    assert_state(read.state)
    assert read[1:] == (None, None, "PyTorch state dict")


@pytest.mark.torch
def test_prefixes_of_a_part_are_taken_off_and_a_bare_unet_gets_one(torch, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"model.unet._orig_mod.out.0.bias": torch.ones(2)}, path)
    assert list(read_torch_weights(path).state) == ["unet.out.0.bias"]
    torch.save({"module.out.0.bias": torch.ones(2), "conv_in.conv.bias": torch.ones(2)}, path)
    assert list(read_torch_weights(path).state) == ["unet.out.0.bias", "unet.conv_in.conv.bias"]
    torch.save({"model.unet.out.0.bias": torch.ones(2), "unet.out.0.bias": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"unet\.out\.0\.bias occurs twice"):
        read_torch_weights(path)


@pytest.mark.torch
def test_checkpoints_of_lightning_and_of_the_older_original(torch, tmp_path):
    path = tmp_path / "last.ckpt"
    lightning = {
        "state_dict": tensors(torch, "model."),
        "epoch": 12,
        "global_step": 1600,
        "hyper_parameters": {**CONFIG, "tuple": (1, 2), "type": torch.float32},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    }
    torch.save(lightning, path)
    read = read_torch_weights(path)
    assert_state(read.state)
    assert read.config == {**CONFIG, "tuple": [1, 2], "type": "torch.float32"}
    assert (read.step, read.origin) == (1600, "Lightning checkpoint, epoch 12, step 1600")
    torch.save({**lightning, "hyper_parameters": {"config": CONFIG}}, path)
    assert read_torch_weights(path).config == CONFIG
    older = {"model_state_dict": tensors(torch), "config": CONFIG, "epoch": 3}
    torch.save(older, tmp_path / "checkpoint.pth")
    read = read_torch_weights(tmp_path / "checkpoint.pth")
    assert_state(read.state)
    assert read[1:] == (CONFIG, None, "checkpoint of the original, epoch 3")


@pytest.mark.torch
def test_tensors_of_every_float_become_float32(torch, tmp_path):
    path = tmp_path / "weights.pt"
    kinds = ("bfloat16", "float16", "float64", "float32")
    values = np.array([0.5, -2, 3.140625], np.float32)
    torch.save(
        {
            f"unet.{kind}": torch.nn.Parameter(torch.tensor(values, dtype=getattr(torch, kind)))
            for kind in kinds
        },
        path,
    )
    assert_state(read_torch_weights(path).state, {f"unet.{kind}": values for kind in kinds})


@pytest.mark.torch
def test_entries_that_are_no_weights_are_named(torch, tmp_path):
    path = tmp_path / "weights.pt"
    other = {
        "unet.step": 3,
        "unet.count": torch.arange(2),
        "unet.sparse": torch.eye(2).to_sparse(),
        "unet.meta": torch.zeros(2, device="meta"),
        **{f"unet.{n}": "text" for n in range(9)},
    }
    torch.save({"state_dict": {**tensors(torch), **other}}, path)
    with pytest.raises(ValueError) as caught:
        read_torch_weights(path)
    for part in (
        "unet.step is int",
        "unet.count is torch.int64",
        "sparse_coo",
        "meta",
        "; and 3 more",
    ):
        assert part in str(caught.value)
    for contents, message in (([1], "holds a list"), (torch.ones(1), "holds a Tensor")):
        torch.save(contents, path)
        with pytest.raises(ValueError, match=rf"weights\.pt: {message}, a state dict"):
            read_torch_weights(path)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["whole", "weights", "config", "beside"])
def test_a_hostile_checkpoint_executes_nothing(torch, tmp_path, where, zipped):
    ran, path = tmp_path / "ran", tmp_path / "hostile.ckpt"
    hostile = Calls(os.system, f"touch {ran}")
    contents = {"state_dict": tensors(torch, "model."), "hyper_parameters": {**CONFIG}}
    if where == "whole":
        contents = hostile
    elif where == "weights":
        contents["state_dict"]["model.unet.x"] = hostile
    elif where == "config":
        contents["hyper_parameters"]["a"] = [{"b": (1, [hostile])}]
    else:
        contents["callbacks"] = {"EarlyStopping": hostile}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"hostile\.ckpt: it refers to posix.system;") as caught:
        read_torch_weights(path)
    assert "which executes the file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not ran.exists()
    torch.load(path, weights_only=False)  # trusted, it does something
    assert ran.exists()


@pytest.mark.torch
def test_damaged_files_and_other_archives_are_one_line(torch, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": tensors(torch)}, path)
    whole = path.read_bytes()
    broken = [whole[:length] for length in range(0, len(whole), 301)]
    broken += [b"hello", pickle.dumps({"a": 1}), whole[:-30] + bytes(30)]
    scripted = tmp_path / "scripted.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(scripted))
    broken.append(scripted.read_bytes())
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    broken.append((tmp_path / "other.zip").read_bytes())
    for data in broken:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"weights\.pt: cannot be read as weights") as caught:
            read_torch_weights(path)
        assert "\n" not in str(caught.value)
    path = path.with_suffix(".safetensors")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"weights\.safetensors: cannot be read as weights"):
        read_torch_weights(path)


@pytest.mark.torch
@pytest.mark.parametrize(
    "suffix, config, step", [(".ckpt", CONFIG, 7), (".pt", None, None), (".pth", None, None)]
)
def test_what_is_written_reads_as_the_same(torch, tmp_path, suffix, config, step):
    path = tmp_path / f"weights{suffix}"
    path.write_text("an older file")
    write_torch_weights(path, STATE, CONFIG, 7)
    read = read_torch_weights(path)
    assert_state(read.state)
    assert (read.config, read.step) == (config, step)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.torch
def test_a_failed_write_leaves_the_older_file(torch, tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    path.write_text("an older file")

    def fill_the_disk(contents, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space"):
        write_torch_weights(path, STATE)
    assert path.read_text() == "an older file" and os.listdir(tmp_path) == [path.name]


@pytest.mark.torch
def test_lightning_loads_and_trains_on_from_what_is_written(torch, tmp_path):
    lightning = pytest.importorskip("lightning", reason="needs Lightning: pip install lightning")

    class Module(lightning.LightningModule):
        """As the original's: the config is an argument, the network is `model`."""

        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)
            self.model = torch.nn.ModuleDict({"unet": torch.nn.Linear(2, 1, bias=False)})

        def training_step(self, batch, index):
            return self.model["unet"](batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    path, weight = tmp_path / "weights.ckpt", np.array([[1.0, 2.0]], np.float32)
    write_torch_weights(path, {"unet.weight": weight}, {"lr": 0.5}, 7)
    module = Module.load_from_checkpoint(path, weights_only=True)
    assert dict(module.hparams) == {"lr": 0.5}
    np.testing.assert_array_equal(module.model["unet"].weight.detach(), weight)
    trainer = lightning.Trainer(
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    batch = torch.utils.data.DataLoader(torch.tensor([[1.0, 0.0]]))
    module = Module({"lr": 0.5})
    trainer.fit(module, batch, ckpt_path=path)
    np.testing.assert_array_equal(module.model["unet"].weight.detach(), [[0, 2]])
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    read = read_torch_weights(tmp_path / "again.ckpt")
    assert_state(read.state, {"unet.weight": np.array([[0, 2]], np.float32)})
    assert (read.config, read.step) == ({"lr": 0.5}, 1)
