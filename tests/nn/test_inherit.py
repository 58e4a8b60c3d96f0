"""What a network takes of another one, entry by entry."""

import jax
import numpy as np
import pytest
from networks import make_settings

from motfm_jax.nn.control import velocity_network
from motfm_jax.nn.inherit import inherit
from motfm_jax.nn.spade import SpadeSettings, spade_networks

THEIRS = {"image": ("T1w",), "mask": ("background", "cavity"), "class": ("A", "B", "C")}
OURS = {
    "image": ("FLAIR", "T1w"),
    "mask": ("background", "lesion", "cavity"),
    "class": ("D", "C", "A", "E"),
}
NONE = {"image": ("T1w",), "mask": (), "class": ()}


def drawn(init, seed):
    """Numbers for each parameter, all different."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(leaf.shape, np.float32) for name, leaf in shapes.items()}


def unet(names, seed):
    settings = make_settings(
        channels=(8,),
        attention=(True,),
        image_channels=len(names["image"]),
        num_classes=len(names["class"]),
    )
    return drawn(velocity_network(settings, len(names["mask"]))[1], seed)


def spade(names, seed):
    settings = SpadeSettings(
        2, len(names["image"]), len(names["mask"]), len(names["class"]), (4, 8), (1, 1), 5, 4, 1
    )
    return drawn(spade_networks(settings)[1], seed)


@pytest.mark.parametrize("network", [unet, spade])
def test_a_network_of_the_same_data_takes_everything(network):
    parent, fresh = network(THEIRS, 0), network(THEIRS, 1)
    result = inherit(parent, fresh, THEIRS, THEIRS)
    assert sorted(result.names["taken"]) == sorted(fresh)
    for name, leaf in parent.items():
        np.testing.assert_array_equal(result.params[name], leaf)


def test_entries_of_the_same_name_are_taken_and_the_others_begin_anew():
    parent, fresh = unet(THEIRS, 0), unet(OURS, 1)
    result = inherit(parent, fresh, THEIRS, OURS)
    made = result.params
    for name in made:  # ours <- theirs, along the axis that differs
        if "attn2/to_k" in name or "attn2/to_v" in name:
            taken, axis = {1: 2, 2: 0}, 0
        elif name.endswith("encoder/conv_in/kernel"):
            taken, axis = {1: 0}, 2
        elif name.startswith("unet/conv_out/"):
            taken, axis = {1: 0}, -1
        elif name.endswith("mask_embedding/conv_in/kernel"):
            taken, axis = {0: 0, 2: 1}, 2
        else:
            np.testing.assert_array_equal(made[name], parent[name], err_msg=name)
            continue
        assert name in result.names["in_part"]
        expected = np.moveaxis(fresh[name].copy(), axis, 0)
        for ours, theirs in taken.items():
            expected[ours] = np.moveaxis(parent[name], axis, 0)[theirs]
        np.testing.assert_array_equal(np.moveaxis(made[name], axis, 0), expected, err_msg=name)
    assert result.names["anew"] == result.names["left"] == []


def test_a_spade_network_keeps_its_noise_and_the_labels_it_knows():
    theirs, ours = THEIRS | {"class": ()}, OURS | {"image": ("T1w",)}
    parent, fresh = spade(theirs, 0), spade(ours, 1)
    made = inherit(parent, fresh, theirs, ours).params
    for name, before in (
        ("generator/conv_in/kernel", 4),  # 2 x 2 places of noise
        ("discriminator/0/conv_in/kernel", 1),
        ("generator/levels/0/0/norm1/shared/kernel", 0),
    ):
        expected = fresh[name].copy()
        expected[:, :, :before] = parent[name][:, :, :before]
        expected[:, :, before] = parent[name][:, :, before]
        expected[:, :, before + 2] = parent[name][:, :, before + 1]
        np.testing.assert_array_equal(made[name], expected, err_msg=name)


def test_a_new_mask_unet_starts_as_a_copy_and_an_old_one_is_left():
    plain, masked = unet(NONE, 0), unet(THEIRS | {"class": ()}, 1)
    ours = THEIRS | {"class": ()}
    result = inherit(plain, masked, NONE, ours)
    name = "encoder/down_blocks/0/resnets/0/conv1/kernel"
    for part in ("unet", "controlnet"):
        np.testing.assert_array_equal(result.params[f"{part}/{name}"], plain[f"unet/{name}"])
    assert "controlnet/middle_conv/kernel" in result.names["anew"]
    back = inherit(masked, plain, ours, NONE)
    assert all(name.startswith("controlnet/") for name in back.names["left"])
    assert sorted(back.names["taken"]) == sorted(plain)


def test_a_parameter_of_another_width_begins_anew():
    parent, fresh = unet(THEIRS, 0), unet(THEIRS, 1)
    for name in ("unet/norm_out/scale", "controlnet/mask_embedding/conv_in/kernel"):
        parent[name] = parent[name][..., :3]
    result = inherit(parent, fresh, THEIRS, THEIRS)
    assert len(result.names["anew"]) == 2
    for name in result.names["anew"]:
        np.testing.assert_array_equal(result.params[name], fresh[name])
