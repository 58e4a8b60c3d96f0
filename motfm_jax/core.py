"""Types shared by all modules: batches, conditions, and a network as plain functions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = dict[str, Any]  # arrays by name, flat: "unet/down/0/blocks/1/conv1/kernel" -> array
Context = Any  # what Network.encode returns: any pytree of arrays

Progress = Callable[[str, int, int], None]  # (what is done, how many are done, of how many)


class Batch(NamedTuple):
    """Examples as the input pipeline yields them (numpy) and the training step receives them.

    Attributes:
      image: [B, *S, C] float32, scaled to the config's intensity range.
      mask: [B, *S] uint8 labels, or None when the data has none.
      label: [B] int32 class indices, or None.
      valid: [B] bool; False for the rows that pad a last batch.
      index: [B] int32, the row's position in the global batch (training) or in the split
        (evaluation); random draws are folded from it.
      source: [B, *S, C] float32, the image a flow starts from instead of noise, or None.
      augment: [B, A] float32, the numbers of each example's augmentation, where the network is told
        of it (see `data.augment.Changed`); else None.
    """

    image: Array
    mask: Array | None
    label: Array | None
    valid: Array
    index: Array
    source: Array | None = None
    augment: Array | None = None


class Condition(NamedTuple):
    """What a network is conditioned on. Both None: unconditional.

    Attributes:
      mask: [B, *S, C] float32, one-hot or scalar as the config specifies.
      label: [B, K] float32 one-hot classes.
      augment: [B, A] float32, see `Batch`; None is an example as it is: all zeros.
    """

    mask: Array | None = None
    label: Array | None = None
    augment: Array | None = None


class Network(NamedTuple):
    """A velocity field v(x, t, condition) in two pure functions.

    Attributes:
      encode: (params, Condition) -> Context. All work that depends on neither x nor t; done
        once per sample.
      apply: (params, x [B, *S, C], t [B], Context, dropout key or None) -> [B, *S, C] float32. That
        of a flow map takes s [B] too, the time it goes to: then it is the mean velocity on the way
        from t to s.
      guide: a weaker Network of the same states and conditions, that guidance leads away from, or
        None; see `methods.guidance.with_guide`.
      prepare: params -> params that give the same values and less work at each of many calls, such
        as weights already in the type that layers compute in.
    """

    encode: Callable[[Params, Condition], Context]
    apply: Callable[..., Array]
    guide: Any = None
    prepare: Callable[[Params], Params] = lambda params: params


class Adversaries(NamedTuple):
    """A generator and the discriminators it is trained against, with one dict of parameters.

    Attributes:
      generator: `encode` gives the map [B, *S, M] that both are conditioned on; `apply` takes noise
        to images in one call, whatever the time.
      discriminate: (params, image [B, *S, C], map) -> for each discriminator the results of its
        layers; the last is its verdict, [B, *S', 1].
      perceive: image in [-1, 1] -> features of the layers of a pretrained network, for a perceptual
        loss; None without one.
    """

    generator: Network
    discriminate: Callable[[Params, Array, Array], list[list[Array]]]
    perceive: Callable[[Array], list[Array]] | None = None


def encode_mask(mask: Array, num_labels: int, encoding: str, values: Sequence[int] = ()) -> Array:
    """Integer mask to network input.

    Args:
      mask: [B, *S] labels in 0 .. num_labels - 1.
      num_labels: number of labels, background included.
      encoding: "onehot" (one channel a label) or "scalar" (one channel, value / largest value:
        the original's min-max).
      values: the files' value of each label; () where it is the label.

    Returns:
      [B, *S, num_labels] or [B, *S, 1], float32.
    """
    if encoding == "onehot":
        return jax.nn.one_hot(mask, num_labels, dtype=jnp.float32)
    if encoding == "scalar":
        largest = max(*values, 1) if values else max(num_labels - 1, 1)
        numbers = jnp.asarray(values, jnp.float32)[mask] if values else mask.astype(jnp.float32)
        return numbers[..., None] / largest
    raise ValueError(f"mask encoding {encoding!r}: use 'onehot' or 'scalar'")


def drop_condition(condition: Condition, rows: Array | None = None) -> Condition:
    """The condition without its class and mask, as networks are trained to see none.

    No class is a one-hot vector of zeros. No mask is zero everywhere as well, where one-hot masks
    have a one, in the background too. A scalar mask is 0 in the background, so none is -1.

    Args:
      condition: of B examples.
      rows: which of them, bool [B]; None for all.
    """
    mask, label = condition.mask, condition.label
    if mask is not None:
        mask = jnp.full_like(mask, -1 if mask.shape[-1] == 1 else 0)
    nothing = condition._replace(mask=mask, label=None if label is None else 0 * label)
    if rows is None:
        return nothing

    def choose(none: Array, some: Array) -> Array:
        return jnp.where(jnp.expand_dims(rows, tuple(range(1, some.ndim))), none, some)

    return jax.tree.map(choose, nothing, condition)


def fold_keys(key: Array, indices: Array) -> Array:
    """One key per example: [B] keys, each folded from its index, so that no draw depends on the
    batch's size or its devices."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def normal_per_example(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, one key an example: keys [B] -> [B, *shape] float32."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
