"""Which attention kernel is chosen, and why not the other."""

import jax.numpy as jnp
import pytest

from motfm_jax.nn.dispatch import Capabilities, resolve

CPU, TPU = Capabilities("cpu"), Capabilities("tpu")
V100, A100 = Capabilities("gpu", 7.0), Capabilities("gpu", 8.0)
RTX4090, H100 = Capabilities("gpu", 8.9), Capabilities("gpu", 9.0)
B200, RTX5090 = Capabilities("gpu", 10.0), Capabilities("gpu", 12.0)

FITS = [
    (A100, 32, jnp.bfloat16),
    (A100, 128, jnp.bfloat16),
    (A100, 8, jnp.float16),
    (H100, 96, jnp.bfloat16),
    (H100, 224, jnp.bfloat16),
    (H100, 256, jnp.float16),
    (RTX4090, 96, jnp.bfloat16),
    (B200, 128, jnp.bfloat16),
    (RTX5090, 128, jnp.bfloat16),
]
OBSTACLES = [
    (CPU, 32, jnp.bfloat16, "the device is a cpu"),
    (TPU, 32, jnp.bfloat16, "the device is a tpu"),
    (V100, 32, jnp.float16, "compute capability 7.0 is below 8.0"),
    (A100, 32, jnp.float32, "not float32"),
    (H100, 32, jnp.float32, "not float32"),
    (A100, 36, jnp.bfloat16, "36 is not a multiple of 8"),
    (A100, 136, jnp.bfloat16, "136 is above 128"),
    (A100, 224, jnp.bfloat16, "224 is above 128"),
    (RTX4090, 224, jnp.bfloat16, "224 is above 128"),
    (B200, 224, jnp.bfloat16, "224 is above 128"),
    (RTX5090, 256, jnp.bfloat16, "256 is above 128"),
    (H100, 264, jnp.bfloat16, "264 is above 256"),
    (H100, 480, jnp.bfloat16, "480 is above 256"),  # the original's head in 3-D
]


@pytest.mark.parametrize("device, head_dim, dtype", FITS)
def test_cudnn_where_it_can_run(device, head_dim, dtype):
    assert resolve("auto", device, head_dim, dtype).implementation == "cudnn"
    assert resolve("cudnn", device, head_dim, dtype) == ("cudnn", "requested")
    assert resolve("xla", device, head_dim, dtype) == ("xla", "requested")


@pytest.mark.parametrize("device, head_dim, dtype, reason", OBSTACLES)
def test_another_where_it_cannot_an_error_where_it_was_asked_for(device, head_dim, dtype, reason):
    choice = resolve("auto", device, head_dim, dtype)
    assert choice.implementation == "xla"
    assert reason in choice.reason
    with pytest.raises(ValueError, match=f"cannot run.*{reason}.*use auto or xla"):
        resolve("cudnn", device, head_dim, dtype)
    assert resolve("xla", device, head_dim, dtype).implementation == "xla"


def test_an_unknown_request_is_refused():
    with pytest.raises(ValueError, match="'flash': use auto, cudnn or xla"):
        resolve("flash", CPU, 32, jnp.float32)
