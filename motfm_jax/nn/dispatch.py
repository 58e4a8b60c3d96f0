"""Which attention kernel a network uses on a device."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

Implementation = Literal["cudnn", "xla"]


class Capabilities(NamedTuple):
    """What the device can do.

    Attributes:
      platform: "cpu", "gpu", or "any" for a program that must run on both.
      compute_capability: of a CUDA device, for instance 9.0 (Hopper); 0 for other devices.
    """

    platform: str
    compute_capability: float = 0.0


class Choice(NamedTuple):
    """An implementation of attention and the reason for choosing it."""

    implementation: Implementation  # of `jax.nn.dot_product_attention`
    reason: str


def _obstacle(capabilities: Capabilities, head_dim: int, dtype) -> str:
    """Why cuDNN's flash attention cannot run here; empty when it can."""
    if capabilities.platform != "gpu":
        return f"the device is a {capabilities.platform}"
    if capabilities.compute_capability < 8.0:
        return f"compute capability {capabilities.compute_capability} is below 8.0"
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
        return f"it takes bfloat16 or float16, not {jnp.dtype(dtype)}"
    if head_dim % 8:
        return f"head dimension {head_dim} is not a multiple of 8"
    # cuDNN's backward pass takes larger heads on Hopper alone, not on Blackwell (10.0 and 12.0).
    largest = 256 if 9.0 <= capabilities.compute_capability < 10.0 else 128
    if head_dim > largest:
        return f"head dimension {head_dim} is above {largest}, the most this device takes"
    return ""


def resolve(request: str, capabilities: Capabilities, head_dim: int, dtype) -> Choice:
    """Chooses the kernel for one attention site.

    Args:
      request: "auto" (cuDNN's flash attention if it can run, else XLA's), "cudnn" or "xla".
      capabilities: of the device the program is compiled for.
      head_dim: channels a head.
      dtype: of queries, keys and values.

    Raises:
      ValueError: "cudnn" was requested and cannot run, or the request is unknown.
    """
    if request not in ("auto", "cudnn", "xla"):
        raise ValueError(f"attention implementation {request!r}: use auto, cudnn or xla")
    if request == "xla":
        return Choice("xla", "requested")
    obstacle = _obstacle(capabilities, head_dim, dtype)
    if not obstacle:
        return Choice("cudnn", "requested" if request == "cudnn" else "flash attention fits")
    if request == "cudnn":
        raise ValueError(
            f"attention implementation 'cudnn' cannot run: {obstacle}; use auto or xla, or change "
            "model.head_dim or train.dtype"
        )
    return Choice("xla", f"no cuDNN flash attention: {obstacle}")
