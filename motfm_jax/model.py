"""A trained model as one value: what sampling and evaluation take."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Array, Condition, Network
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.methods import METHODS, Method


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """Weights with everything needed to sample from them.

    Attributes:
      network: what is sampled: the velocity field, the estimate of the noise, or the generator.
      params: float32 by name; the moving average of the weights where the run keeps one.
      condition: (mask [B, *S] labels or [B, *S, C] floats or None, label [B] or None) -> Condition.
      facts: of the training data: size, channels, class names, mask labels, intensities.
      config: of the run, resolved.
      run: where the weights come from: the run directory, for sidecars and messages.
      checkpoint_hash: of the weights' names, shapes and values.
      step: of training, of the checkpoint.
      samplers: the programs compiled so far, see `sampling.generate.make_sampler`.
    """

    network: Network
    params: dict[str, np.ndarray]
    condition: Callable[[Array | None, Array | None], Condition]
    facts: Facts
    config: Any
    run: str
    checkpoint_hash: str
    step: int
    samplers: dict[Any, Callable] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def method(self) -> Method:
        return METHODS[self.config.method]

    @property
    def cond(self) -> str:
        """What images are conditioned on: none | class | mask | mask+class."""
        return self.config.cond

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the network makes: (*S, C), with a label map (*S, C + L)."""
        return (*self.facts.size, self.facts.network_channels)

    @property
    def intensity(self) -> Intensity:
        """The scaling between images in the units of the data and the network's."""
        return Intensity.from_json(self.facts.intensity)

    @property
    def mask_channels(self) -> int:
        """Channels of a mask as the network takes it."""
        return 1 if self.config.data.mask_encoding == "scalar" else len(self.facts.mask_labels)

    @property
    def starts_from_images(self) -> bool:
        """Whether images start from others (config.flow.source) instead of noise."""
        return self.method.starts_from_images and self.config.flow.source != "noise"

    def solver(self, name: str = "", steps: int | None = None, **options: Any) -> Any:
        """How to sample, see `Method.solver`; what is None takes the run's default.

        Raises:
          ValueError: a setting that cannot be, or that the run's method does not take.
        """
        settings = self.config[self.method.section]
        chosen = {key: option for key, option in options.items() if option is not None}
        return self.method.solver(settings, name, steps, chosen)

    def velocity(
        self, x: Array, t: Array, mask: Array | None = None, label: Array | None = None
    ) -> Array:
        """The network's output, in the network's units.

        Args:
          x: states [B, *S, C]; noise at t = 0, images at t = 1 (of a flow).
          t: times in [0, 1], [B].
          mask: [B, *S] labels, where the model takes masks.
          label: [B] class indices, where the model takes classes.

        Returns:
          [B, *S, C] float32: of a flow dx/dt, of a diffusion the noise in x.
        """
        x, t, mask, label = (_array(values) for values in (x, t, mask, label))
        return self._velocity(self.params, x, t, mask, label)

    @functools.cached_property
    def _velocity(self) -> Callable[..., Array]:
        def velocity(params, x, t, mask, label):
            context = self.network.encode(params, self.condition(mask, label))
            return self.network.apply(params, x, t, context, None)

        return jax.jit(velocity)


def _array(values: Any) -> Array | None:
    return None if values is None else jnp.asarray(values)
