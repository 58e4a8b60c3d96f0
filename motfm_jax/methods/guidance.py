"""Guidance: a velocity pushed away from that of a weaker network.

v = weak + weight (own - weak), where the weak velocity is that of the same network without its
condition (Ho and Salimans 2022) or that of another network (autoguidance, Karras et al. 2024); only
at times in an interval (Kynkaanniemi et al. 2024).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from motfm_jax.core import Array, Condition, Context, Network, Params, drop_condition

GUIDE = "guide/"  # before the names of a guiding network's parameters
ROUNDING = 1e-4  # of times at the ends of an interval


class Guidance(NamedTuple):
    """How strongly, when, and away from what.

    Attributes:
      weight: 1 is the network's own velocity, above 1 further away from the weak one.
      interval: the first and the last time, 0 noise and 1 image, at which it applies.
      guide: the weights of the guiding network, by a name; "" for the network's own, without its
        condition.
    """

    weight: float
    interval: tuple[float, float] = (0.0, 1.0)
    guide: str = ""

    @property
    def always(self) -> bool:
        return self.interval == (0.0, 1.0)

    def applies(self, t: Any) -> Any:
        """Whether it does at these times, numpy or jax."""
        low, high = self.interval
        return (t > low - ROUNDING) & (t < high + ROUNDING)

    def settings(self) -> dict[str, Any]:
        """What a record of the samples holds, JSON-able."""
        settings = {"weight": self.weight, "interval": list(self.interval)}
        return settings | ({"guide": self.guide} if self.guide else {})


def check_guidance(guidance: Guidance) -> None:
    """Raises ValueError for a weight or an interval that cannot be."""
    low, high = guidance.interval
    if not 0 <= guidance.weight < float("inf"):
        raise ValueError(f"guidance={guidance.weight}: give a number of 0 or more; 1 is none")
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"guidance interval ({low}, {high}): give two times, 0 <= first < second <= 1, such as "
            "0.1,0.8; 0 is noise"
        )


def guided(network: Network, guidance: Guidance) -> Network:
    """The guided velocity field of one; outside the interval it calls the network alone.

    Args:
      network: a velocity field; with `Network.guide`, that is the weak one.
      guidance: see `Guidance`. Where it is not `always`, the examples of a batch have one time.
    """
    guide = network.guide
    if guide is None:
        guide = network._replace(
            encode=lambda params, condition: network.encode(params, drop_condition(condition))
        )
    pair = _Pair(network, guide, guidance)
    return Network(pair.encode, pair.apply, prepare=network.prepare)


def with_guide(network: Network, guide: Network) -> Network:
    """A network with another as its guide, whose parameters are GUIDE + name among its own."""

    def encode(params: Params, condition: Condition) -> Context:
        return guide.encode(_guides(params), condition)

    def apply(params: Params, *inputs: Any) -> Array:
        return guide.apply(_guides(params), *inputs)

    return network._replace(guide=Network(encode, apply))


def _guides(params: Params) -> Params:
    return {
        name.removeprefix(GUIDE): leaf for name, leaf in params.items() if name.startswith(GUIDE)
    }


class _Pair(NamedTuple):
    network: Network
    guide: Network
    guidance: Guidance

    def encode(self, params: Params, condition: Condition) -> Context:
        return self.network.encode(params, condition), self.guide.encode(params, condition)

    def apply(self, params: Params, x: Array, t: Array, context: Context, key: Any) -> Array:
        own = self.network.apply(params, x, t, context[0], key)
        if self.guidance.always:
            return self.pushed(own, params, x, t, context[1])
        return jax.lax.cond(
            self.guidance.applies(t[0]),
            lambda: self.pushed(own, params, x, t, context[1]),
            lambda: own,
        )

    def pushed(self, own: Array, params: Params, x: Array, t: Array, context: Context) -> Array:
        weak = self.guide.apply(params, x, t, context, None)
        return weak + jnp.float32(self.guidance.weight) * (own - weak)
