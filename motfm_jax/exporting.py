"""A trained run as a program: see `io.export` for what is written."""

from pathlib import Path
from typing import Any

from motfm_jax import build, runs
from motfm_jax.io.export import Sampler, check_destination, write_export
from motfm_jax.nn.dispatch import Capabilities


def export_run(
    run: Path,
    out: Path,
    *,
    which: str | int = "best",
    solver: str = "",
    steps: int | None = None,
    dtype: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes weights, and a compiled sampler for CPU and CUDA that needs jax alone.

    Args:
      run: run directory.
      out: folder to write.
      which: checkpoint: "best", "last" or a step.
      solver, steps: see `Bundle.solver`.
      dtype: of convolutions and products, "float32" or "bfloat16"; "" for the run's, float32 where
        that is auto.
      overwrite: replace an export at `out`.

    Returns:
      What was exported: solver, steps, calls, dtype, checkpoint, training_step, condition.

    Raises:
      ValueError: a solver whose number of network calls varies, a model that starts from images,
        or a destination that is taken.
    """
    check_destination(out, overwrite)
    model = runs.load_run(run, which, attention="xla")
    if model.starts_from_images:
        raise ValueError(
            f"{run}: config.flow.source={model.config.flow.source!r}; only a sampler that starts "
            "from noise can be exported"
        )
    chosen = model.solver(solver, steps)
    if chosen.draws_noise:  # the program takes noise and no key
        chosen = model.solver(solver, steps, eta=0.0)
    if chosen.num_calls is None:
        raise ValueError(
            f"--solver={chosen.name}: an exported program makes a fixed number of network calls; "
            "use euler, heun, midpoint, rk4, tsit5 or dopri5 with --steps"
        )
    config = model.config.to_dict()
    if dtype:
        model.config.train.dtype = dtype
    # Built for no device in particular: XLA attention, and float32 unless a type is named.
    built = build.architecture(model.config, model.facts, Capabilities("any"), attention="xla")

    def sample(params, x0, mask, label):
        condition = built.condition(mask, label)
        solution = model.method.sample(built.network, params, x0, condition, chosen, None, False)
        return model.intensity.invert(solution.x)

    settings = dict(
        solver=chosen.name,
        steps=chosen.num_steps,
        calls=chosen.num_calls,
        dtype=built.dtype.__name__,
        checkpoint=model.checkpoint_hash,
        training_step=model.step,
    )
    sampler = Sampler(sample, model.params, model.cond, config, model.facts.to_json())
    write_export(out, sampler, settings, overwrite)
    return settings | {"condition": model.cond}
