"""Flow matching on straight paths: the path, the distribution of times, the loss, and sampling.

Source: Yazdani et al. 2025 (MOTFM), section 2; Lipman et al. 2023; Liu et al. 2023.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from motfm_jax.core import Array, Batch, Condition, Context, Network, Params, normal_per_example
from motfm_jax.fields import Field, are_numbers, choice, number, positive
from motfm_jax.methods.guidance import Guidance, check_guidance, guided
from motfm_jax.methods.method import Method, Solution, refuse_options
from motfm_jax.methods.ode import Solver, check_solver, integrate

SHORTEST_WAY = 0.05  # of the path, that an estimate of the image is divided by


def linear_path(x0: Array, x1: Array, t: Array) -> tuple[Array, Array]:
    """Point and velocity on the straight path from noise to image.

    Args:
      x0: noise [B, *S, C].
      x1: image [B, *S, C], in the intensity range of the config.
      t: time in [0, 1], [B].

    Returns:
      x_t = (1 - t) x0 + t x1 and the velocity x1 - x0, both [B, *S, C].

    Source: Yazdani et al. 2025, section 2.1.
    """
    t = jnp.expand_dims(t, tuple(range(1, x1.ndim)))
    return (1 - t) * x0 + t * x1, x1 - x0


class Times(NamedTuple):
    """How training times are distributed.

    Attributes:
      distribution: "uniform" (the paper) or "logit_normal": the sigmoid of a normal, with more
        weight on a part of the path (Esser et al. 2024, section 3.1).
      mean, std: of that normal. A mean below 0 moves the weight towards noise (t = 0).
      uniform: share of the examples whose time is uniform all the same, so that both ends of the
        path are trained.
    """

    distribution: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    uniform: float = 0.0


UNIFORM = Times()


def draw_times(
    keys: Array, distribution: str, mean: float = 0.0, std: float = 1.0, uniform: float = 0.0
) -> Array:
    """Training times in (0, 1), one key an example: keys [B] -> [B]; see `Times`."""
    if distribution == "uniform":
        return jax.vmap(jax.random.uniform)(keys)
    if distribution != "logit_normal":
        raise ValueError(f"time distribution {distribution!r}: use 'uniform' or 'logit_normal'")
    times = jax.nn.sigmoid(mean + std * jax.vmap(jax.random.normal)(keys))
    if not uniform:
        return times
    # Two numbers of a key of their own: whether the time is uniform, and which.
    chosen, level = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (2,)))(
        keys
    ).T
    return jnp.where(chosen < uniform, level, times)


def velocity_of_image(network: Network) -> Network:
    """The velocity field of a network that estimates the image at the end of the path.

    It is v = (image - x_t) / max(1 - t, 0.05), so that a loss of the velocity weighs errors of the
    image by 1 / (1 - t)^2, at most 400.

    Source: Li and He 2025 (JiT), section 4.
    """

    def apply(params: Params, x: Array, t: Array, context: Context, *rest: Any) -> Array:
        left = jnp.maximum(1 - t, SHORTEST_WAY)
        image = network.apply(params, x, t, context, *rest)
        return (image - x) / jnp.expand_dims(left, tuple(range(1, x.ndim)))

    return network._replace(apply=apply)


def draw_start(batch: Batch, keys: Array) -> tuple[Array, Array, Array]:
    """What the paths of a batch start from: its sources, or noise.

    Args:
      batch: of B examples.
      keys: [B], one per example.

    Returns:
      x0 [B, *S, C]; the keys of noise, and those left for times, [B] each.
    """
    noise_keys, time_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x0 = batch.source
    if x0 is None:
        x0 = normal_per_example(noise_keys, batch.image.shape[1:])
    return x0, noise_keys, time_keys


def loss(
    network: Network,
    params: Params,
    batch: Batch,
    condition: Condition,
    keys: Array,
    dropout_key: Array | None,
    times: Times = UNIFORM,
) -> Array:
    """Mean squared error of the velocity, per example.

    Args:
      network, params: the velocity field.
      batch: images x1 and, where it has them, the sources x0 that are degraded or of another
        modality; else x0 is noise.
      condition: what the field is conditioned on.
      keys: [B], one per example; noise and time are drawn from it alone.
      dropout_key: None switches dropout off.
      times: their distribution.

    Returns:
      [B] float32.
    """
    x0, _, time_keys = draw_start(batch, keys)
    t = draw_times(time_keys, *times)
    x_t, velocity = linear_path(x0, batch.image, t)
    predicted = network.apply(params, x_t, t, network.encode(params, condition), dropout_key)
    return jnp.mean(jnp.square(predicted - velocity), axis=tuple(range(1, velocity.ndim)))


def sample(
    network: Network,
    params: Params,
    x0: Array,
    condition: Condition,
    solver: Solver,
    trajectory: bool = False,
) -> Solution:
    """Transports x0 to images. The condition is encoded once, not once per network call.

    Args:
      network, params: the velocity field.
      x0: noise, or sources as in `loss`, [B, *S, C] float32.
      condition: of the same batch.
      solver: see `ode.Solver`; its guidance needs a network that was trained without its
        condition too, or one with a guide.
      trajectory: also return the states after each step.
    """
    if solver.guidance:
        network = guided(network, solver.guidance)
    params = network.prepare(params)
    context = network.encode(params, condition)

    def velocity(t, x, context):
        return network.apply(params, x, t, context, None)

    return integrate(velocity, x0.astype(jnp.float32), context, solver, trajectory)


def _loss(settings, network, params, batch, condition, keys, dropout_key) -> Array:
    return loss(network, params, batch, condition, keys, dropout_key, _times(settings))


def _times(settings: Any) -> Times:
    return Times(
        settings.time_distribution, settings.time_mean, settings.time_std, settings.time_uniform
    )


def _sample(network, params, x0, condition, solver, keys, trajectory) -> Solution:
    return sample(network, params, x0, condition, solver, trajectory)


def _solver(settings: Any, name: str, steps: int | None, options: Mapping[str, Any]) -> Solver:
    name, options = name or "euler", dict(options)
    shift, guidance = options.pop("shift", None), _guidance(options)
    tolerances = {key: options.pop(key) for key in ("rtol", "atol") if key in options}
    refuse_options(options, "the run learned a flow, without such a choice")
    if name == "ddim":
        raise ValueError(
            "--solver=ddim: the run learned a flow, which euler, heun and the other solvers "
            "sample; leave it out"
        )
    if name == "adaptive" and steps is not None:
        raise ValueError(
            f"--steps={steps} with --solver=adaptive: it chooses its own steps; leave --steps out "
            "and set --rtol and --atol"
        )
    if name != "adaptive" and tolerances:
        raise ValueError(
            f"--rtol, --atol with --solver={name}: only adaptive takes tolerances; set --steps"
        )
    if name == "adaptive" and shift not in (None, 1):
        raise ValueError(
            f"--shift={shift} with --solver=adaptive: it chooses its own steps; leave --shift out"
        )
    if shift is None:  # a flow map has none of its own
        shift = 1.0 if name == "adaptive" else settings.get("shift", 1.0)
    chosen = {**tolerances, **({} if steps is None else {"steps": steps})}
    solver = Solver(name, **chosen, shift=float(shift), guidance=guidance)
    check_solver(solver)
    return solver


def _guidance(options: dict[str, Any]) -> Guidance | None:
    """Takes guidance out of the options; None without, and where its weight of 1 does nothing."""
    weight, interval = options.pop("guidance", None), options.pop("guidance_interval", None)
    guide = options.pop("guide", "")
    if weight is None and (interval or guide):
        raise ValueError(
            f"--{'guide' if guide else 'guidance-interval'} without --guidance: give the weight "
            "too, such as --guidance=2"
        )
    if weight is None:
        return None
    low, high = interval or (0, 1)
    guidance = Guidance(float(weight), (float(low), float(high)), guide)
    check_guidance(guidance)
    return None if weight == 1 else guidance


def _check(config: Any) -> None:
    flow, data = config.flow, config.data
    if config.train.drop_condition and config.cond == "none":
        raise ValueError(
            f"config.train.drop_condition={config.train.drop_condition} with config.cond='none': "
            "there is nothing to drop; set it to 0, or give a condition"
        )
    if flow.time_distribution == "uniform" and _times(flow) != UNIFORM:
        raise ValueError(
            f"config.flow.time_mean={flow.time_mean}, time_std={flow.time_std}, time_uniform="
            f"{flow.time_uniform} with time_distribution='uniform': they shape logit-normal times; "
            "use time_distribution logit_normal"
        )
    if flow.source == "speckle":
        needed = are_numbers(flow.speckle_power, count=2, above=0)
        if needed or flow.speckle_power[0] > flow.speckle_power[1]:
            raise ValueError(
                f"config.flow.speckle_power={tuple(flow.speckle_power)}: "
                f"{needed or 'the least, then the greatest'}"
            )
        if not data.intensity.window and data.intensity.mode not in ("minmax", "percentile"):
            raise ValueError(
                f"config.data.intensity.mode={data.intensity.mode!r} with config.flow.source="
                "'speckle': speckle grows with the distance from black, which only minmax and "
                "percentile send to a known value; use one of them"
            )
    if flow.source == "channel":
        has_column = data.source == "folder" and not flow.source_channel  # of its table
        if not has_column and flow.source_channel.lower() in ("", str(data.channel).lower()):
            raise ValueError(
                f"config.flow.source_channel={flow.source_channel!r}, config.data.channel="
                f"{data.channel!r}: give two different names of dataset.json's modality, the first "
                "of the images to start from, the second of those to make"
            )
        if data.augment.gamma:
            raise ValueError(
                f"config.data.augment.gamma={data.augment.gamma} with config.flow.source="
                "'channel': it would change the contrast that is to be learned; set it to 0"
            )


METHOD = Method(
    section="flow",
    settings={
        "time_distribution": choice("uniform", "logit_normal"),  # of training, see `Times`
        "time_mean": number(0.0, -10, 10),  # of the logit: below 0 towards noise
        "time_std": positive(1.0),
        "time_uniform": number(0.0, 0, 1),  # share of examples with uniform times
        "prediction": choice("velocity", "image").fix(),  # what the network's output is
        "shift": positive(1.0),  # of sampling without --shift, see `ode.step_times`
        # noise | speckle (denoising: the image with speckle) | channel (decathlon: image to image,
        # from source_channel to data.channel)
        "source": choice("noise", "speckle", "channel").fix(),
        "speckle_power": Field((0.02, 0.2)),  # least and greatest mean square over the image's
        "source_channel": Field(""),  # name in dataset.json's "modality"
    },
    loss=_loss,
    solver=_solver,
    sample=_sample,
    check=_check,
    starts_from_images=True,
)
