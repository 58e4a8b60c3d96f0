"""The parts of a generative method: settings, loss, solver, sampler."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import optax

from motfm_jax.core import Array, Batch, Condition, Network, Params
from motfm_jax.fields import Field

TEACHER = "teacher/"  # before the names of the teacher's parameters, see `Method.distils`


class Solver(Protocol):
    """How images are sampled: a NamedTuple of numbers, such as `ode.Solver`.

    Attributes:
      name: for messages and records.
      num_steps: steps of every image; None where each image takes as many as it needs.
      num_calls: NFE, the network calls of every image; None likewise.
      draws_noise: whether sampling draws fresh noise on the way.
    """

    @property
    def name(self) -> str: ...

    @property
    def num_steps(self) -> int | None: ...

    @property
    def num_calls(self) -> int | None: ...

    @property
    def draws_noise(self) -> bool: ...

    def settings(self) -> dict[str, Any]:
        """What a record of the samples holds, JSON-able."""
        ...


class Solution(NamedTuple):
    """A solved batch.

    Attributes:
      x: [B, *S, C], the images.
      steps: [B] int32, solver steps made; those of `adaptive` are counted, rejected ones too.
      calls: [B] int32, NFE of each image.
      trajectory: [steps + 1, B, *S, C] from noise to image, or None.
    """

    x: Array
    steps: Array
    calls: Array
    trajectory: Array | None = None


class Loss(Protocol):
    """Loss of each example: [B] float32.

    Every draw comes from `keys`, one an example. `settings` is the method's section of the config;
    `network` is what the method's network builder made; dropout_key None switches dropout off.
    """

    def __call__(
        self,
        settings: Any,
        network: Any,
        params: Params,
        batch: Batch,
        condition: Condition,
        keys: Array,
        dropout_key: Array | None,
        /,
    ) -> Array: ...


class Sample(Protocol):
    """What images start from [B, *S, C] -> images, by a solver that the method made.

    `network` has the functions `encode` and `apply`; keys [B] are given where the solver draws
    noise; trajectory asks for the states on the way.
    """

    def __call__(
        self,
        network: Network,
        params: Params,
        x0: Array,
        condition: Condition,
        solver: Any,
        keys: Array | None,
        trajectory: bool,
        /,
    ) -> Solution: ...


class Method(NamedTuple):
    """What is learned and how it is sampled; `motfm_jax.methods.METHODS` lists them by name.

    Attributes:
      section: of the config that holds its settings.
      settings: the fields of that section.
      loss: see `Loss`.
      solver: (settings, name or "", steps or None, other options by name) -> what `sample` takes.
        Raises ValueError for an option that the method does not take.
      sample: see `Sample`.
      network: what `loss` gets: "velocity" (the UNet, with a mask UNet where there are masks),
        "adversaries" (a SPADE generator and its discriminators), or a function of
        `build.Blueprint` that returns a `build.Parts`.
      check: raises ValueError where the config's other fields do not suit the method.
      optimizer: (settings, learning rate by update, largest gradient norm) -> the update rule;
        None for the one that config.train describes. It sees a pytree of long arrays, such as
        "unet/kernels", in the place of parameters (`training.state.Packed`).
      ranks: whether its validation loss ranks checkpoints.
      starts_from_images: whether it may start from images instead of noise (config.flow.source).
      distils: whether it starts from the weights of a flow (config.train.teacher), which its loss
        finds by TEACHER + name: they stay fixed and do not take part in sampling.
    """

    section: str
    settings: Mapping[str, Field]
    loss: Loss
    solver: Callable[[Any, str, int | None, Mapping[str, Any]], Solver]
    sample: Sample
    network: str | Callable[[Any], Any] = "velocity"
    check: Callable[[Any], None] = lambda config: None
    optimizer: Callable[[Any, Callable[[Any], Any], float], optax.GradientTransformation] | None = (
        None
    )
    ranks: bool = True
    starts_from_images: bool = False
    distils: bool = False


def refuse_options(options: Mapping[str, Any], why: str) -> None:
    """Raises ValueError where there are options that a solver does not take."""
    if options:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise ValueError(f"{flags}: {why}; leave {'them' if len(options) > 1 else 'it'} out")


def check_signed_range(config: Any, why: str) -> None:
    """Raises ValueError where images do not lie in [-1, 1]."""
    intensity = config.data.intensity
    is_bounded = intensity.window or intensity.mode in ("minmax", "percentile")
    if not is_bounded or tuple(intensity.range) != (-1, 1):
        raise ValueError(
            f"config.data.intensity.mode={intensity.mode!r}, range={tuple(intensity.range)} with "
            f"config.method={config.method!r}: {why} images in [-1, 1]; use minmax or percentile "
            "and range (-1, 1)"
        )
