"""The energy score: how well generated images are distributed like the one real image of their
condition, without a discriminator.

Source: Gneiting and Raftery 2007, section 4.3; as the loss of a generator Bouchacourt et al. 2016
(DISCO nets) and Shen and Meinshausen 2024 (engression).
"""

import jax
import jax.numpy as jnp

from motfm_jax.core import Array

SCALES = 4  # the image, and halved three times
SIDE = 3  # pixels of a patch along each axis
SMOOTHING = 1e-6  # added to squared distances, whose root has no derivative at 0


def local_energy_score(first: Array, second: Array, real: Array) -> Array:
    """Energy score of two generated images against the real one, over all patches: [B] float32.

    A patch P is a vector of 3 pixels along each axis, at full resolution and on block means. Its
    score is (|P1 - P| + |P2 - P|) / 2 - |P1 - P2| / 2. In expectation it is least where generated
    patches have the distribution of the real ones at their place, given the condition: blurred
    patches, and patches that noise does not change, score worse.

    Args:
      first, second: of the same condition and independent noise, [B, *S, C].
      real: an image of that condition, in the same units.
    """
    total: Array = jnp.zeros(real.shape[0])
    scales = 1
    for scale in range(SCALES):
        if scale and min(first.shape[1:-1]) < 2 * SIDE:
            break
        if scale:
            first, second, real = (_mean(image, 2, 2) for image in (first, second, real))
            scales += 1
        score = (_distance(first, real) + _distance(second, real) - _distance(first, second)) / 2
        total = total + score.mean(axis=tuple(range(1, score.ndim)))
    return total / scales


def _distance(one: Array, other: Array) -> Array:
    """Root mean square difference of the patches at each place: [B, *S', 1]."""
    squared = jnp.square(one - other).mean(axis=-1, keepdims=True)
    return jnp.sqrt(_mean(squared, SIDE, 1) + SMOOTHING)


def _mean(images: Array, side: int, stride: int) -> Array:
    """Means of windows of `side` pixels along each axis; none reaches over the edge."""
    dims = images.ndim - 2
    window = (1, *(side,) * dims, 1)
    sums = jax.lax.reduce_window(
        images, 0.0, jax.lax.add, window, (1, *(stride,) * dims, 1), "VALID"
    )
    return sums / side**dims
