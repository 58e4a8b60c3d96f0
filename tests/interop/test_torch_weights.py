"""Weights of the PyTorch original: their names and layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motfm_jax.interop.torch_weights import from_torch, to_torch
from motfm_jax.nn.control import velocity_network
from motfm_jax.nn.dispatch import Choice
from motfm_jax.nn.unet import UNetSettings

# dims, classes, mask channels
VARIANTS = [(2, 3, 2), (3, 0, 0)]
VARIANTS += [
    pytest.param(each, marks=pytest.mark.nightly)
    for each in [(2, 0, 0), (2, 3, 0), (2, 0, 1), (3, 3, 1)]
]
CHANNELS, ATTENTION, BLOCKS = (4, 8, 12), (False, True, True), 2


@functools.cache
def parameter_shapes(dims, num_classes, mask_channels):
    """Every kind of block; widths that no two axes of a kernel need share."""
    settings = UNetSettings(
        dims=dims,
        image_channels=1,
        channels=CHANNELS,
        res_blocks=BLOCKS,
        attention=ATTENTION,
        head_dim=0,
        num_classes=num_classes,
        transformer_layers=2,
        norm_groups=2,
        floor_time=True,
        dropout=0.0,
        dtype=jnp.float32,
        remat="none",
        choose_attention=lambda head_dim: Choice("xla", "test"),
    )
    _, init = velocity_network(settings, mask_channels)
    return jax.eval_shape(init, jax.random.key(0))


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request):
    return request.param, parameter_shapes(*request.param)


def random_params(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.random(leaf.shape, np.float32) for name, leaf in shapes.items()}


@pytest.mark.slow
def test_parameters_come_back_bit_for_bit_from_the_originals_names(variant):
    _, shapes = variant
    params = random_params(shapes)
    state = to_torch(params)
    assert len(state) == len(params)
    assert all(array.flags.c_contiguous for array in state.values())
    again = from_torch(state, shapes, "file")
    assert list(again) == list(params)
    for name, leaf in params.items():
        np.testing.assert_array_equal(again[name], leaf, strict=True)
        assert again[name].flags.c_contiguous


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("unet/encoder/conv_in/kernel", "unet.conv_in.conv.weight"),
        ("unet/encoder/time_embed/linear2/bias", "unet.time_embed.2.bias"),
        (
            "unet/encoder/down_blocks/1/resnets/0/skip_connection/kernel",
            "unet.down_blocks.1.resnets.0.skip_connection.conv.weight",
        ),
        (
            "unet/encoder/down_blocks/0/resampler/norm1/scale",
            "unet.down_blocks.0.downsampler.norm1.weight",
        ),
        ("unet/up_blocks/0/resampler/conv2/bias", "unet.up_blocks.0.upsampler.conv2.conv.bias"),
        (
            "unet/encoder/middle_block/attention/transformer_blocks/1/attn2/to_out/kernel",
            "unet.middle_block.attention.transformer_blocks.1.attn2.to_out.0.weight",
        ),
        (
            "unet/up_blocks/1/attentions/2/transformer_blocks/0/ff/linear1/kernel",
            "unet.up_blocks.1.attentions.2.transformer_blocks.0.ff.linear1.weight",
        ),
        ("unet/norm_out/scale", "unet.out.0.weight"),
        ("unet/conv_out/kernel", "unet.out.2.conv.weight"),
        (
            "controlnet/encoder/down_blocks/1/attentions/0/proj_in/kernel",
            "controlnet.down_blocks.1.attentions.0.proj_in.conv.weight",
        ),
        (
            "controlnet/mask_embedding/conv_out/bias",
            "controlnet.controlnet_cond_embedding.conv_out.conv.bias",
        ),
        ("controlnet/skip_convs/0/kernel", "controlnet.controlnet_down_blocks.0.weight"),
        ("controlnet/skip_convs/8/kernel", "controlnet.controlnet_down_blocks.8.conv.weight"),
        ("controlnet/middle_conv/bias", "controlnet.controlnet_mid_block.conv.bias"),
    ],
)
def test_names_of_the_original(ours, theirs):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert list(to_torch({ours: values})) == [theirs]
    assert ours in parameter_shapes(2, 3, 2)


def test_kernels_change_their_axes_and_nothing_else_does():
    kernel = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)
    dense = np.arange(12, dtype=np.float32).reshape(3, 4)
    state = to_torch(
        {
            "unet/encoder/conv_in/kernel": kernel,
            "unet/encoder/time_embed/linear1/kernel": dense,
            "unet/norm_out/scale": dense[0],
        }
    )
    conv, linear, norm = state.values()
    assert conv.shape == (6, 5, 2, 3, 4) and linear.shape == (4, 3)
    assert conv[5, 4, 1, 0, 3] == kernel[1, 0, 3, 4, 5]
    assert conv[2, 1, 0, 2, 1] == kernel[0, 2, 1, 1, 2]
    assert linear[3, 1] == dense[1, 3]
    np.testing.assert_array_equal(norm, dense[0])


def test_what_is_missing_extra_or_misshapen_is_named_at_once():
    shapes = parameter_shapes(2, 0, 0)
    state = to_torch(random_params(shapes))
    del state["unet.out.0.bias"]
    state["unet.class_embedding.weight"] = np.zeros((3, 4))
    state["unet.conv_in.conv.weight"] = state["unet.conv_in.conv.weight"].transpose(1, 0, 2, 3)
    with pytest.raises(ValueError) as caught:
        from_torch(state, shapes, "some.ckpt")
    message = str(caught.value)
    assert message.startswith("some.ckpt: ") and "\n" not in message
    for problem in (
        "unet.out.0.bias missing",
        "unet.class_embedding.weight extra",
        "unet.conv_in.conv.weight is (1, 4, 3, 3), needs (4, 1, 3, 3)",
        f"(3 differences from the {len(shapes)} ",
    ):
        assert problem in message


def test_a_network_of_another_kind_is_told_in_ten_names_and_a_count():
    without, masked = parameter_shapes(2, 0, 0), parameter_shapes(2, 0, 1)
    more = len(masked) - len(without) - 10
    for have, need, word in ((without, masked, "missing"), (masked, without, "extra")):
        with pytest.raises(ValueError, match=f"controlnet.*; and {more} more") as caught:
            from_torch(to_torch(random_params(have)), need, "file")
        assert str(caught.value).count(word) == 10


@pytest.mark.parametrize("name", ["resnet/conv1/kernel", "unet/conv_out/embedding", "kernel"])
def test_parameters_of_another_network_have_no_name_in_the_original(name):
    with pytest.raises(ValueError, match=f"parameter {name}: .*velocity"):
        to_torch({name: np.zeros((1, 1))})


@pytest.mark.torch
def test_every_name_and_shape_is_that_of_monai(variant):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[torch]'")
    nets = pytest.importorskip(
        "generative.networks.nets", reason="needs MONAI: pip install monai monai-generative==0.2.3"
    )
    (dims, num_classes, mask_channels), shapes = variant
    common = dict(
        spatial_dims=dims,
        in_channels=1,
        num_channels=CHANNELS,
        num_res_blocks=BLOCKS,
        attention_levels=ATTENTION,
        num_head_channels=CHANNELS,
        norm_num_groups=2,
        resblock_updown=True,
        with_conditioning=num_classes > 0,
        cross_attention_dim=num_classes or None,
        transformer_num_layers=2,
    )
    model = torch.nn.ModuleDict({"unet": nets.DiffusionModelUNet(out_channels=1, **common)})
    if mask_channels:
        model["controlnet"] = nets.ControlNet(
            conditioning_embedding_in_channels=mask_channels,
            conditioning_embedding_num_channels=(16,),
            **common,
        )
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    params = random_params(shapes)
    state = to_torch(params)
    assert {name: array.shape for name, array in state.items()} == theirs
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=True)
    again = from_torch(
        {name: tensor.numpy() for name, tensor in model.state_dict().items()}, shapes, "model"
    )
    for name, leaf in params.items():
        np.testing.assert_array_equal(again[name], leaf)
