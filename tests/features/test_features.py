"""The feature networks agree with the reference implementations under the same drawn weights."""

import importlib.util
import itertools
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from motfm_jax.features import weights
from motfm_jax.features.clip import ClipImageTower, ClipSettings
from motfm_jax.features.layers import resize, resize_matrix
from motfm_jax.features.vgg import VGG19
from motfm_jax.io.torch_files import save_safetensors
from motfm_jax.nn.functional import functional

GOLDEN = Path(__file__).parents[1] / "golden" / "features"
SMALL_CLIP = ClipSettings(side=28, patch=7, width=32, layers=2, heads=4, hidden=48, projection=24)


def reference():
    spec = importlib.util.spec_from_file_location("features_golden", GOLDEN / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Drawn(dict):
    """A state dict that draws what it is asked for, of the shapes our network needs."""

    def __init__(self, published, wanted):
        super().__init__()
        for layer in {name.rpartition("/")[0] for name in wanted}:
            self._fill(
                published,
                layer,
                {
                    name.rpartition("/")[2]: shape
                    for name, shape in wanted.items()
                    if name.rpartition("/")[0] == layer
                },
            )

    def _fill(self, published, layer, kinds):
        draw, prefix = reference().draw, published.name(layer)
        for kind, shape in kinds.items():
            if kind == "kernel":
                bare = prefix == "fc" or not published.norm
                name = prefix + ("" if bare else published.convolution) + ".weight"
                self[name] = draw(name, (shape[-1], shape[-2], *shape[:-2]))
                norm = () if bare else ("weight", "bias", "running_mean", "running_var")
                for part in norm:
                    name = f"{prefix}{published.norm}.{part}"
                    self[name] = draw(name, (shape[-1],))
                if bare and "bias" in kinds and "patch_embedding" not in prefix:
                    self[f"{prefix}.bias"] = draw(f"{prefix}.bias", kinds["bias"])
            elif kind == "scale":
                for name in (f"{prefix}.weight", f"{prefix}.bias"):
                    self[name] = draw(name, shape)
            elif kind in published.alone:
                name = published.alone[kind]
                self[name] = draw(name, shape)


def drawn_params(published):
    wanted = weights.shapes(published.make)
    return weights.translate(published, Drawn(published, wanted), wanted)


def compare(name, made, rtol=1e-4):
    with np.load(GOLDEN / f"{name}.npz") as stored:
        for layer in made:
            wanted = stored[layer]
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(made[layer], wanted, rtol=0, atol=rtol * scale)
            assert wanted.std() > 1e-3 * scale


@pytest.mark.nightly
@pytest.mark.parametrize("name, shape", [("inception", (2, 40, 56, 1)), ("r3d", (2, 8, 24, 20, 1))])
def test_a_network_sees_what_the_reference_sees(name, shape):
    params = drawn_params(weights.NETWORKS[name])
    made = jax.jit(weights.network(name))(params, reference().images(*shape))
    compare(name, made)


def test_the_image_tower_of_clip_sees_what_the_reference_sees():
    published = weights.NETWORKS["clip"]
    make = lambda: ClipImageTower(SMALL_CLIP)  # noqa: E731
    wanted = weights.shapes(make)
    params = weights.translate(published, Drawn(published, wanted), wanted)
    module, _ = functional(lambda draws: make())
    compare("clip", jax.jit(lambda x: module(params)(x))(reference().images(2, 40, 56, 1)))


def look_by_vgg(*shape):
    seen = jax.jit(weights.network("vgg"))(
        drawn_params(weights.NETWORKS["vgg"]), reference().images(*shape, 1)
    )
    return {layer: np.asarray(rows)[..., ::8] for layer, rows in seen.items()}


def test_vgg_sees_what_the_reference_sees():
    made = look_by_vgg(2, 36, 21)  # odd sides leave a row out where they are halved
    assert list(made) == ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
    assert made["relu5_1"].shape == (2, 2, 1, 64)
    compare("vgg", made)


@pytest.mark.torch
def test_vgg_sees_what_torchvision_sees(monkeypatch):
    pytest.importorskip("torch", reason="compares with PyTorch: install torch and torchvision")
    # Compiled operators, which this network doesn't use and torchvision's wheel may lack.
    monkeypatch.setitem(sys.modules, "torchvision._meta_registrations", types.ModuleType("unused"))
    vgg = pytest.importorskip("torchvision.models.vgg", reason="compares with torchvision")
    made, wanted = look_by_vgg(1, 64, 48), reference().vgg_layers(vgg, 1, 64, 48)
    for layer, rows in wanted.items():
        np.testing.assert_allclose(made[layer], rows, rtol=0, atol=1e-4 * np.abs(rows).max())


@pytest.mark.parametrize("shape", [(1, 16, 16, 16, 1), (1, 15, 64, 1)])
def test_vgg_refuses_volumes_and_images_it_would_halve_away(shape):
    with pytest.raises(ValueError, match="2-D images of 16 pixels"):
        jax.eval_shape(lambda x: VGG19()(x), np.zeros(shape, np.float32))


def test_resizing_is_that_of_the_reference():
    images = reference().images(2, 40, 56, 1)
    with np.load(GOLDEN / "clip.npz") as stored:
        np.testing.assert_allclose(
            resize(images, 28, cubic=True), stored["resized"][..., :1], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("cubic", [False, True])
def test_resizing_keeps_constants_and_leaves_the_same_size_alone(cubic):
    np.testing.assert_allclose(resize_matrix(7, 19, cubic).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(resize_matrix(9, 9, cubic), np.eye(9), atol=1e-6)


def test_published_sizes():
    """Of the numbers of parameters that the publications and model cards give."""

    def count(name):
        shapes = weights.shapes(weights.NETWORKS[name].make)
        return sum(int(np.prod(shape)) for shape in shapes.values())

    # Of torchvision's 33,371,472 the last layer's 400 classes and the normalisations' second
    # vector are not there.
    norms = 64 + 2 * (2 * 64 + 2 * 128 + 2 * 256 + 2 * 512) + 128 + 256 + 512
    assert count("r3d") == 33_371_472 - (512 * 400 + 400) - norms
    # Of torchvision's VGG19 the convolutions conv1_1 to conv5_1, biases with them.
    widths = [3, *[64] * 2, *[128] * 2, *[256] * 4, *[512] * 5]
    assert count("vgg") == sum(9 * a * b + b for a, b in itertools.pairwise(widths))
    assert count("clip") == 304_293_888 + 1024  # its patch embedding has no bias


def test_weights_are_stored_and_damage_is_noticed(tmp_path):
    params = {"fc/kernel": np.ones((2, 3), np.float32)}
    path = weights.write(tmp_path, "inception", params, "abc")
    read, source = weights.read(tmp_path, "inception")
    np.testing.assert_array_equal(read["fc/kernel"], params["fc/kernel"])
    assert source == "abc"
    data = bytearray(path.read_bytes())
    data[data.index(params["fc/kernel"].tobytes())] ^= 1
    for damaged in (bytes(data), bytes(data[:50])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            weights.read(tmp_path, "inception")
    with pytest.raises(ValueError, match="no weights of clip; download"):
        weights.read(tmp_path, "clip")


def test_only_the_published_file_is_taken(tmp_path):
    other = tmp_path / "other.safetensors"
    save_safetensors(other, {"fc.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(ValueError, match="begins with 6726825d"):
        weights.convert("inception", other, tmp_path)
    with pytest.raises(ValueError, match="no such file; inception needs"):
        weights.convert("inception", tmp_path / "none.pth", tmp_path)
    with pytest.raises(ValueError, match=r"vgg19-dcbb9e9d\.pth .* begins with dcbb9e9d"):
        weights.convert("vgg", other, tmp_path)


def test_a_published_file_is_converted_whole(tmp_path, monkeypatch):
    """The right hash is let through, a missing array is named."""
    published = weights.NETWORKS["clip"]._replace(
        make=lambda: ClipImageTower(SMALL_CLIP), sha256=""
    )
    wanted = weights.shapes(published.make)
    state = Drawn(published, wanted)
    source = tmp_path / "clip.safetensors"
    save_safetensors(source, state)
    monkeypatch.setitem(weights.NETWORKS, "small", published)
    weights.convert("small", source, tmp_path)
    read, _ = weights.read(tmp_path, "small")
    assert {name: leaf.shape for name, leaf in read.items()} == wanted
    state.pop("visual_projection.weight")
    save_safetensors(source, state)
    with pytest.raises(ValueError, match=r"visual_projection\.weight is missing"):
        weights.convert("small", source, tmp_path)
