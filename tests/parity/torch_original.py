"""The PyTorch original: MONAI's networks joined as MOTFM joins them, its loss and its sampler.

Needs torch and monai-generative 0.2.3. Arrays are as PyTorch has them, [B, C, *S].

Source: Yazdani et al. 2025 (MOTFM) and its public code's use of MONAI generative.
"""

import dataclasses
import json
from importlib.metadata import version

import numpy as np
import torch
from generative.networks.nets import ControlNet, DiffusionModelUNet

# One time a row, both ends included; none lets t * 999 round to another integer in float32.
TIMES = (0.0, 0.1234, 0.5, 0.987, 1.0)
LOSS_TIMES = (0.3, 0.8765)
PACKAGES = ("torch", "monai", "monai-generative", "numpy")


@dataclasses.dataclass(frozen=True)
class Structure:
    """What the original's config decides about its network.

    Attributes:
      dims: 2 or 3 spatial axes.
      channels: features of each level, the finest first.
      res_blocks: residual blocks of every level, or of each.
      attention: for each level, whether its blocks attend.
      norm_groups: groups of the group normalisation.
      num_classes: width of the class token; 0 without class conditioning.
      transformer_layers: blocks of each transformer, with class conditioning.
      mask_channels: channels of the mask; 0 without a mask.
      mask_width: of the first convolution the mask passes.
      head_dim: channels of an attention head at each level; () for one head a level.
    """

    dims: int
    channels: tuple[int, ...]
    res_blocks: int | tuple[int, ...]
    attention: tuple[bool, ...]
    norm_groups: int
    num_classes: int = 0
    transformer_layers: int = 1
    mask_channels: int = 0
    mask_width: int = 16
    head_dim: tuple[int, ...] = ()


class Original(torch.nn.Module):
    """UNet, and with masks the ControlNet whose outputs are added to the UNet's skips."""

    def __init__(self, structure: Structure):
        super().__init__()
        common = dict(
            spatial_dims=structure.dims,
            in_channels=1,
            num_channels=structure.channels,
            num_res_blocks=structure.res_blocks,
            attention_levels=structure.attention,
            norm_num_groups=structure.norm_groups,
            norm_eps=1e-6,
            resblock_updown=True,
            num_head_channels=structure.head_dim or structure.channels,
            with_conditioning=structure.num_classes > 0,
            cross_attention_dim=structure.num_classes or None,
            transformer_num_layers=structure.transformer_layers,
            use_flash_attention=False,
        )
        self.unet = DiffusionModelUNet(out_channels=1, **common)
        self.controlnet = None
        if structure.mask_channels:
            self.controlnet = ControlNet(
                conditioning_embedding_in_channels=structure.mask_channels,
                conditioning_embedding_num_channels=(structure.mask_width,),
                **common,
            )

    def forward(self, x, t, mask=None, label=None):
        """Velocity [B, 1, *S] at x [B, 1, *S], t [B], mask [B, C, *S], label [B, K]."""
        level = torch.floor(t * 999).long()
        context = None if label is None else label[:, None]
        if self.controlnet is None:
            return self.unet(x, level, context=context)
        skips, middle = self.controlnet(x, level, mask, context=context)
        return self.unet(
            x,
            level,
            context=context,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
        )


def randomise(network: torch.nn.Module, rng: np.random.Generator) -> None:
    """Gives every parameter random values, those that training starts at zero included.

    The scale keeps features of order one from layer to layer; but first convolutions are smaller,
    so that the epsilon of the normalisation after them counts, and queries and keys larger, so
    that attention prefers some positions. Values are rounded to float16, so that a file of half the
    size holds them exactly.
    """
    for name, parameter in network.named_parameters():
        draw = rng.standard_normal(tuple(parameter.shape), dtype=np.float32)
        if parameter.ndim > 1:
            draw /= np.float32(np.sqrt(parameter[0].numel()))
            if "conv_in." in name or "proj_in." in name:
                draw *= np.float32(0.3)
            if "to_q." in name or "to_k." in name:
                draw *= np.float32(2)
        else:
            draw = np.float32(0.2) * draw + np.float32(name.endswith("weight"))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(draw.astype(np.float16)))


def euler(network, x, steps: int, **condition) -> torch.Tensor:
    """States of `steps` Euler steps from t = 0 to 1: [steps + 1, B, 1, *S]."""
    states = [x]
    for step in range(steps):
        t = torch.full((len(x),), step / steps)
        states.append(states[-1] + network(states[-1], t, **condition) / steps)
    return torch.stack(states)


def flow_loss(network, x0, x1, t, **condition) -> torch.Tensor:
    """Mean squared error of the velocity on the straight path from noise x0 to image x1."""
    along = t.reshape(-1, *[1] * (x1.ndim - 1))
    x_t = (1 - along) * x0 + along * x1
    return (network(x_t, t, **condition) - (x1 - x0)).square().mean()


def record(structure: Structure, size: tuple[int, ...], seed: int, steps: int = 10) -> dict:
    """Everything that can be compared, as numpy arrays by name.

    Args:
      structure: of the network.
      size: of the images, S.
      seed: of parameters and inputs.
      steps: of the Euler solve.

    Returns:
      structure, versions, shapes (of the parameters, by name): JSON.
      state, gradient: parameters and the loss's gradients one after the other, in the order of
        `shapes`; 0 for a parameter that the original never uses.
      x, t, mask, label -> velocity: a batch with another time in every row.
      x0, x1, loss_t -> loss, trajectory: of the first rows' conditions.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Original(structure)
    randomise(network, rng)
    rows, pairs = len(TIMES), len(LOSS_TIMES)
    draw = lambda *shape: torch.from_numpy(  # noqa: E731
        rng.standard_normal(shape, dtype=np.float32).astype(np.float16).astype(np.float32)
    )
    inputs = {"x": draw(rows, 1, *size), "t": torch.tensor(TIMES)}
    condition = {}
    # Any numbers will do: one-hot classes would leave the weights of absent classes untested.
    if structure.mask_channels:
        condition["mask"] = draw(rows, structure.mask_channels, *size)
    if structure.num_classes:
        condition["label"] = draw(rows, structure.num_classes)
    pair = {"x0": draw(pairs, 1, *size), "x1": draw(pairs, 1, *size)}
    first = {name: value[:pairs] for name, value in condition.items()}
    loss_t = torch.tensor(LOSS_TIMES)

    with torch.no_grad():
        outputs = {
            "velocity": network(**inputs, **condition),
            "trajectory": euler(network, pair["x0"], steps, **first),
        }
    loss = flow_loss(network, **pair, t=loss_t, **first)
    loss.backward()
    tensors = inputs | condition | pair | outputs | {"loss_t": loss_t, "loss": loss}
    parameters = dict(network.named_parameters())
    gradients = (
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in parameters.values()
    )
    tensors["state"] = torch.cat([parameter.flatten() for parameter in parameters.values()])
    tensors["gradient"] = torch.cat([gradient.flatten() for gradient in gradients])
    facts = {
        "structure": dataclasses.asdict(structure),
        "shapes": {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        "versions": {name: version(name) for name in PACKAGES},
    }
    return {
        **{name: np.array(json.dumps(fact)) for name, fact in facts.items()},
        **{name: tensor.detach().numpy() for name, tensor in tensors.items()},
    }
