"""Rules between the sizes of a network: levels, groups, heads, and the images it takes."""

from collections.abc import Sequence
from typing import Any

from motfm_jax.fields import by_level
from motfm_jax.nn.front import Front


def check_sizes(model: Any, size: Sequence[int]) -> None:
    """Raises ValueError where the sizes of a network do not fit each other or the images.

    Args:
      model: the section of a config.
      size: of the images, S.
    """
    if len(size) not in (2, 3):
        raise ValueError(f"config.data.size={tuple(size)}: give (H, W) or (D, H, W)")
    if not all(isinstance(attends, bool) for attends in model.attention):
        raise ValueError(
            f"config.model.attention={tuple(model.attention)}: each entry is True or False"
        )
    levels = len(model.channels)
    if len(model.attention) != levels:
        raise ValueError(
            f"config.model.attention={tuple(model.attention)}: one flag for each of the "
            f"{levels} levels of config.model.channels"
        )
    for name in ("res_blocks", "head_dim"):
        if len(by_level(model[name], levels)) != levels:
            raise ValueError(
                f"config.model.{name}={model[name]}: one number, or one for each of the {levels} "
                "levels of config.model.channels"
            )
    front = Front(model.front, model.front_levels).halvings
    factor = 2 ** (front + levels - 1)
    if any(extent % factor for extent in size):
        nearest = tuple(max(1, (extent + factor // 2) // factor) * factor for extent in size)
        raise ValueError(
            f"config.data.size={tuple(size)}: {'a front and ' * bool(front)}"
            f"{levels} levels halve it {front + levels - 1} times, so each side must be a multiple "
            f"of {factor}; nearest: {nearest}"
        )
    # The middle always attends.
    attends_there = (*model.attention[:-1], True)
    head_dims = by_level(model.head_dim, levels)
    for width, attends, head_dim in zip(model.channels, attends_there, head_dims):
        if width % model.norm_groups:
            raise ValueError(
                f"config.model.channels={tuple(model.channels)}: {width} does not divide into "
                f"config.model.norm_groups={model.norm_groups} groups"
            )
        if attends and head_dim and width % head_dim:
            raise ValueError(
                f"config.model.head_dim={model.head_dim}: the {width} channels of a level (or "
                "the middle) that attends do not divide into such heads; 0 gives one head"
            )
