"""One request for images, from weights to a folder of outputs."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.core import Array, Condition, Network, Params
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.records import Facts
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.methods.diffusion import DDIM
from motfm_jax.methods.solve import Solver
from motfm_jax.sampling import generate, outputs
from motfm_jax.sampling.conditions import Conditions

TRAJECTORY_IMAGES = 8


class Request(NamedTuple):
    """How to generate and what to write.

    Attributes:
      solver: of the run's method.
      seed: 0 to 2^32 - 1; image i starts from noise folded from (seed, i), unless given noise.
      batch: images a solve; 0 for `generate.default_batch`.
      trajectory: also write the way of the first TRAJECTORY_IMAGES images.
      nifti: also one NIfTI an image; None: for volumes.
      pickle: also the original's layout.
      raw: leave the images as the network gives them, the intensity scaling not undone.
    """

    solver: Solver
    seed: int = 0
    batch: int = 0
    trajectory: bool = False
    nifti: bool | None = None
    pickle: bool = False
    raw: bool = False


class Checkpoint(NamedTuple):
    """Where weights come from: run directory, content hash, training step."""

    run: str
    hash: str
    step: int


def sample_to_folder(
    out: Path,
    request: Request,
    conditions: Conditions,
    *,
    network: Network,
    params: Params,
    condition: Callable[[Array | None, Array | None], Condition],
    kind: str,
    facts: Facts,
    intensity: Intensity | None,
    checkpoint: Checkpoint,
    noise: np.ndarray | None = None,
    overwrite: bool = False,
    progress: generate.Progress | None = None,
) -> dict[str, Any]:
    """Generates images and writes them; goes on where an interrupted call stopped.

    Args:
      out: see `outputs.claim`.
      request: how, and what to write.
      conditions: of the N images.
      network, params: see `generate.make_sampler`.
      condition: see `generate.make_sampler`.
      kind: what the network is conditioned on: none | class | mask | mask+class.
      facts, intensity: of the training data; an intensity that is not known (None) needs
        request.raw.
      checkpoint: where params come from.
      noise: [at least N, *S, C] float32, image i starts from row i; None for noise of the seed.
      overwrite: see `outputs.claim`.
      progress: called after each batch.

    Returns:
      The sidecar.

    Raises:
      ValueError: a seed, noise or batch that cannot be, an output folder that cannot be had, or
        images that are not finite.
    """
    out, solver, shape = Path(out), request.solver, (*facts.size, facts.channels)
    if noise is not None:
        noise = noise[: len(conditions)]
        if noise.shape != (len(conditions), *shape):
            raise ValueError(
                f"noise {noise.shape} for {len(conditions)} images {shape}: one row each needed"
            )
    if not 0 <= request.seed < 2**32:
        raise ValueError(f"--seed={request.seed}: a whole number from 0 to {2**32 - 1} needed")
    if noise is not None and isinstance(solver, DDIM) and solver.eta > 0:
        raise ValueError(
            f"--noise with eta={solver.eta}: that draws fresh noise on the way, from a seed; leave "
            "--noise out, or set --eta=0"
        )
    if request.trajectory and solver.name == "adaptive":
        raise ValueError(
            "--trajectory with --solver=adaptive: each image takes its own times; use another "
            "solver"
        )
    if request.pickle and conditions.raw_masks:
        raise ValueError(
            "--pickle with --masks of floats: that layout holds label numbers; leave --pickle out"
        )
    batch = request.batch or generate.default_batch(len(conditions), len(facts.size))
    generate.check_batch(batch)
    nifti = len(facts.size) == 3 if request.nifti is None else request.nifti
    settings = {
        "checkpoint": checkpoint.hash,
        "training_step": checkpoint.step,
        "num": len(conditions),
        "conditions": conditions.digest(),
        "seed": request.seed if noise is None else None,
        "noise": None if noise is None else hash_arrays({"noise": noise}),
        "raw": request.raw,
        "solver": _said(solver),
        "batch": batch,
        "trajectory": request.trajectory,
        "nifti": nifti,
        "pickle": request.pickle,
    }
    invert = (lambda image: image) if request.raw else intensity.invert
    sampler = functools.partial(generate.make_sampler, network, condition, invert, solver)
    with outputs.claim(out, settings, overwrite) as folder:
        if folder is None:
            if progress:
                progress(len(conditions), len(conditions))
            return outputs.read_sidecar(out)
        generated = generate.generate(
            sampler(),
            params,
            conditions,
            shape=shape,
            solver=solver,
            seed=request.seed,
            noise=noise,
            batch=batch,
            folder=folder,
            timed=True,
            progress=progress,
        )
        trajectory = None
        if request.trajectory:
            trajectory = generate.generate_trajectory(
                sampler(trajectory=True),
                params,
                conditions,
                shape=shape,
                solver=solver,
                seed=request.seed,
                noise=noise,
                num=TRAJECTORY_IMAGES,
            )
        sidecar = outputs.describe(checkpoint.run, kind, settings, generated, conditions, facts)
        outputs.write(out, generated, conditions, sidecar, facts, trajectory)
    return outputs.read_sidecar(out)


def _said(solver: Solver) -> Mapping[str, Any]:
    """The solver's name with the settings that apply to it."""
    if isinstance(solver, DDIM):
        return {"name": solver.name, **solver._asdict()}
    fields = ("name", "rtol", "atol") if solver.name == "adaptive" else ("name", "steps")
    return {name: getattr(solver, name) for name in fields}
