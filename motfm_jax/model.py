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
from motfm_jax.methods.guidance import GUIDE, with_guide


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
      guide: a name of the weights that guide it, see `guided_by`; "" without.
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
    guide: str = ""
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
          ValueError: a setting that cannot be, or that the run's method does not take; guidance
            of a run that was never trained without its condition, and has no guide.
        """
        settings = self.config[self.method.section]
        chosen = {key: option for key, option in options.items() if option is not None}
        if self.guide:
            chosen["guide"] = self.guide
        solver = self.method.solver(settings, name, steps, chosen)
        if getattr(solver, "guidance", None) and not (
            self.guide or self.config.train.drop_condition
        ):
            raise ValueError(
                f"--guidance={solver.guidance.weight:g}: {self.run} was not trained without its "
                "condition (config.train.drop_condition); leave it out, or give --guide=RUN"
            )
        return solver

    def guided_by(self, guide: "Bundle") -> "Bundle":
        """The same model with a weaker one as its guide, see `methods.guidance`.

        Args:
          guide: of the same data and conditions, such as an early checkpoint or a smaller network.

        Raises:
          ValueError: one of other data, conditions or another kind of method.
        """
        theirs = _comparable(guide)
        for name, mine in _comparable(self).items():
            if theirs[name] != mine:
                raise ValueError(
                    f"--guide={guide.run}: its {name} is {theirs[name]}, {mine} needed: give a "
                    "flow with the same data and conditions"
                )
        return dataclasses.replace(
            self,
            network=with_guide(self.network, guide.network),
            params=self.params | {GUIDE + name: leaf for name, leaf in guide.params.items()},
            guide=f"{guide.checkpoint_hash} at step {guide.step}",
        )

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


def _comparable(model: Bundle) -> dict[str, Any]:
    """What a model and its guide must have in common, by name."""
    names = ("size", "channels", "classes", "mask_labels", "label_values", "intensity")
    return {
        "method": "flow" if model.method.starts_from_images else model.config.method,
        "condition": model.cond,
        "mask encoding": model.config.data.mask_encoding,
        "config.data.generate": model.config.data.generate,
        "config.flow.source": model.config.flow.source,
        **{name: getattr(model.facts, name) for name in names},
    }


def _array(values: Any) -> Array | None:
    return None if values is None else jnp.asarray(values)
