"""Diffusion, the baseline of the flow: the schedule of levels, the loss on the noise, and DDIM.

At level k = 0 .. 999, the image at one end and noise at the other, the state is
    x = sqrt(alpha_bar_k) x1 + sqrt(1 - alpha_bar_k) x0
of the image x1 and noise x0, and the network estimates x0. It is told the level as the time
k / 999, which it embeds as exactly k; this time runs from image to noise, against the flow's.
Images must lie in [-1, 1]: the schedules suppose it, and sampling clips to it.

Source: Ho et al. 2020 (DDPM); Song et al. 2021 (DDIM); Nichol and Dhariwal 2021 (cosine).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Array, Batch, Condition, Network, Params, normal_per_example
from motfm_jax.fields import choice, number
from motfm_jax.methods.method import Method, Solution, check_signed_range, refuse_options

LEVELS = 1000
# A table, since a compiler may divide by 999 in a way that rounds below the level.
TIMES = (np.arange(LEVELS) / (LEVELS - 1)).astype(np.float32)


def alpha_bar(schedule: str) -> np.ndarray:
    """Share of the image in the state's variance, at every level: [1000] float64, falling.

    Args:
      schedule: "linear" (Ho et al.: beta from 1e-4 to 0.02) or "cosine" (Nichol and Dhariwal:
        alpha_bar a squared cosine, no beta above 0.999).
    """
    if schedule == "linear":
        beta = np.linspace(1e-4, 0.02, LEVELS)
    elif schedule == "cosine":
        angle = (np.arange(LEVELS + 1) / LEVELS + 0.008) / 1.008 * np.pi / 2
        beta = np.minimum(1 - np.square(np.cos(angle[1:]) / np.cos(angle[:-1])), 0.999)
    else:
        raise ValueError(f"diffusion schedule {schedule!r}: use 'linear' or 'cosine'")
    return np.cumprod(1 - beta)


def add_noise(x0: Array, x1: Array, level: Array, schedule: str) -> Array:
    """State at a level.

    Args:
      x0: noise [B, *S, C].
      x1: image [B, *S, C] in [-1, 1].
      level: [B] int32 in 0 .. 999.
      schedule: see `alpha_bar`.

    Returns:
      [B, *S, C].

    Source: Ho et al. 2020, equation 4.
    """
    share = alpha_bar(schedule)
    signal, noise = (
        jnp.expand_dims(jnp.asarray(table, jnp.float32)[level], tuple(range(1, x1.ndim)))
        for table in (np.sqrt(share), np.sqrt(1 - share))
    )
    return signal * x1 + noise * x0


def loss(
    network: Network,
    params: Params,
    batch: Batch,
    condition: Condition,
    keys: Array,
    dropout_key: Array | None,
    schedule: str = "linear",
) -> Array:
    """Mean squared error of the estimated noise, per example; levels are uniform.

    Args:
      network, params: estimates the noise in a state.
      batch: images x1 in [-1, 1].
      condition: what the network is conditioned on.
      keys: [B], one per example; noise and level are drawn from it alone.
      dropout_key: None switches dropout off.
      schedule: see `alpha_bar`.

    Returns:
      [B] float32.

    Source: Ho et al. 2020, equation 14.
    """
    noise_keys, level_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x0 = normal_per_example(noise_keys, batch.image.shape[1:])
    level = jax.vmap(lambda key: jax.random.randint(key, (), 0, LEVELS))(level_keys)
    x = add_noise(x0, batch.image, level, schedule)
    t = jnp.asarray(TIMES)[level]
    predicted = network.apply(params, x, t, network.encode(params, condition), dropout_key)
    return jnp.mean(jnp.square(predicted - x0), axis=tuple(range(1, x0.ndim)))


class DDIM(NamedTuple):
    """How to go from noise to image.

    Attributes:
      steps: levels visited, 1 to 1000; each is one network call.
      eta: fresh noise, from 0 (DDIM: none) to 1 (ancestral; with 1000 steps and no clipping DDPM).
      schedule: the one of the training, see `alpha_bar`.
      spacing: which levels. "leading" is 0, s, 2s, .. with s = 1000 / steps, as Song et al.,
        MONAI and diffusers choose them: noise is taken for level 1000 - s, so that a single step
        is made at level 0 and hands back the noise. "trailing" is s - 1, 2s - 1, .., 999: it
        starts where the noise is, and is the fair choice for a few steps (Lin et al. 2024).
      clip: clip each estimate of the image to [-1, 1].
    """

    steps: int = 50
    eta: float = 0.0
    schedule: str = "linear"
    spacing: str = "leading"
    clip: bool = True

    name = "ddim"  # beside those of `ode.Solver`

    @property
    def num_steps(self) -> int:
        return self.steps

    @property
    def num_calls(self) -> int:
        return self.steps

    @property
    def draws_noise(self) -> bool:
        return self.eta > 0

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, **self._asdict()}


def check_ddim(ddim: DDIM) -> None:
    """Raises ValueError for a setting that cannot be."""
    alpha_bar(ddim.schedule)
    if not 1 <= ddim.steps <= LEVELS:
        raise ValueError(f"steps={ddim.steps}: DDIM visits 1 to {LEVELS} levels")
    if not 0 <= ddim.eta <= 1:
        raise ValueError(f"eta={ddim.eta}: give 0 (no fresh noise) to 1 (ancestral)")
    if ddim.spacing not in ("leading", "trailing"):
        raise ValueError(f"level spacing {ddim.spacing!r}: use 'leading' or 'trailing'")


class Steps(NamedTuple):
    """The numbers of each step, numpy [steps] (or one step's scalars); float32 but for `level`.

    With the estimate x1 = (x - noise * predicted) / signal, a step goes to
    image_weight * x1 + noise_weight * predicted + sigma * (fresh noise).
    """

    level: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    image_weight: np.ndarray
    noise_weight: np.ndarray
    sigma: np.ndarray


def ddim_steps(ddim: DDIM) -> Steps:
    """All steps from the noisiest level to the image itself, where alpha_bar is 1.

    Where x1 is clipped, the noise that a step keeps is still the predicted one. With eta = 1 and
    where nothing is clipped, a step between neighbouring levels is DDPM's.

    Raises:
      ValueError: see `check_ddim`.

    Source: Song et al. 2021, equations 12 and 16; Ho et al. 2020, equation 7.
    """
    check_ddim(ddim)
    if ddim.spacing == "leading":
        level = np.arange(ddim.steps)[::-1] * LEVELS // ddim.steps
    else:
        level = np.arange(ddim.steps, 0, -1) * LEVELS // ddim.steps - 1
    here = alpha_bar(ddim.schedule)[level]
    there = np.append(here[1:], 1.0)
    signal, noise = np.sqrt(here), np.sqrt(1 - here)
    sigma = ddim.eta * np.sqrt((1 - there) / (1 - here) * (1 - here / there))
    noise_weight = np.sqrt(1 - there - np.square(sigma))
    tables = (signal, noise, np.sqrt(there), noise_weight, sigma)
    return Steps(level.astype(np.int32), *(table.astype(np.float32) for table in tables))


def ddim_step(x: Array, predicted: Array, step: Any, clip: bool, fresh: Array | None) -> Array:
    """The state after one step.

    Args:
      x: [B, *S, C] at the step's level.
      predicted: the noise in it, as the network estimates it.
      step: `Steps` of scalars, of this step.
      clip: see `DDIM`.
      fresh: standard normal noise [B, *S, C]; None adds none.

    Returns:
      [B, *S, C] at the next level.
    """
    x1 = (x - step.noise * predicted) / step.signal
    x1 = jnp.clip(x1, -1, 1) if clip else x1
    x = step.image_weight * x1 + step.noise_weight * predicted
    return x if fresh is None else x + step.sigma * fresh


def sample(
    network: Network,
    params: Params,
    x0: Array,
    condition: Condition,
    ddim: DDIM,
    keys: Array | None = None,
    trajectory: bool = False,
) -> Solution:
    """Takes noise to images. The condition is encoded once, not once per network call.

    Args:
      network, params: estimates the noise in a state.
      x0: standard normal noise [B, *S, C] float32.
      condition: of the same batch.
      ddim: see `DDIM`.
      keys: [B], one per image; with eta above 0 fresh noise is drawn from it and the level alone,
        independent of an x0 drawn from the same key.
      trajectory: also return the states after each step.

    Raises:
      ValueError: see `check_ddim`; no keys with eta above 0.
    """
    table = ddim_steps(ddim)
    if ddim.draws_noise and keys is None:
        raise ValueError(f"eta={ddim.eta}: fresh noise needs keys, one per image")
    params = network.prepare(params)
    context = network.encode(params, condition)
    batch = x0.shape[0]

    def advance(state: tuple[Array, Array], step: Steps):
        x, calls = state
        t = jnp.full((batch,), jnp.asarray(TIMES)[step.level])
        predicted = network.apply(params, x, t, context, None)
        fresh = None
        if ddim.draws_noise and keys is not None:
            fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
            fresh = normal_per_example(fold(keys, step.level), x.shape[1:])
        x = ddim_step(x, predicted, step, ddim.clip, fresh)
        return (x, calls + 1), x if trajectory else None

    x0 = x0.astype(jnp.float32)
    start = (x0, jnp.zeros((batch,), jnp.int32))
    (x, calls), states = jax.lax.scan(advance, start, jax.tree.map(jnp.asarray, table))
    states = jnp.concatenate([x0[None], states]) if states is not None else None
    return Solution(x, calls, calls, states)


def _loss(settings, network, params, batch, condition, keys, dropout_key) -> Array:
    return loss(network, params, batch, condition, keys, dropout_key, settings.schedule)


def _solver(settings: Any, name: str, steps: int | None, options: Mapping[str, Any]) -> DDIM:
    options = dict(options)
    eta = options.pop("eta", settings.eta)
    spacing = options.pop("spacing", settings.spacing)
    why = (
        "the run is a diffusion (config.method='ddpm'), which ddim samples at any number of --steps"
    )
    refuse_options(options, why)
    if name not in ("", "ddim"):
        raise ValueError(f"--solver={name}: {why}; leave it out")
    ddim = DDIM(DDIM().steps if steps is None else steps, eta, settings.schedule, spacing)
    check_ddim(ddim)
    return ddim


METHOD = Method(
    section="diffusion",
    settings={
        "schedule": choice("linear", "cosine").fix(),  # of the 1,000 levels: Ho et al. | cosine
        "spacing": choice("leading", "trailing"),  # levels that DDIM visits, see `DDIM`
        "eta": number(0.0, 0, 1),  # fresh noise in sampling: 0 (DDIM) to 1 (ancestral)
    },
    loss=_loss,
    solver=_solver,
    sample=sample,
    check=lambda config: check_signed_range(config, "its schedules suppose"),
)
