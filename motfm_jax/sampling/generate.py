"""Generates images batch by batch with one compiled solve; resumable and timed."""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax import parallel
from motfm_jax.core import Array, Params, Progress, fold_keys, normal_per_example
from motfm_jax.data.joint import split
from motfm_jax.io.folders import whole_file
from motfm_jax.io.npz import open_npz
from motfm_jax.methods import ode
from motfm_jax.model import Bundle
from motfm_jax.sampling.conditions import Conditions

logger = logging.getLogger(__name__)

TRAJECTORY_IMAGES = 8


class Rows(NamedTuple):
    """What one compiled solve receives.

    Attributes:
      x0: [B, *S, C] float32, what the images start from.
      mask: [B, *S] labels, [B, *S, C] floats as the network takes them, or None.
      label: [B] class indices, or None.
      keys: [B, ..] uint32, one key's data an image, where sampling draws fresh noise; else None.
    """

    x0: Any
    mask: Any
    label: Any
    keys: Any = None


class Solved(NamedTuple):
    """What it returns, as numpy.

    Attributes:
      images: [B, *S, C] float32, in the units that `make_sampler`'s `invert` gives.
      steps: [B] int32, solver steps.
      calls: [B] int32, network calls.
      trajectory: [B, steps + 1, *S, C] in the same units, or None.
      masks: [B, *S] uint8 labels, where a network makes them with the images; else None.
    """

    images: Any
    steps: Any
    calls: Any
    trajectory: Any
    masks: Any = None


class Generated(NamedTuple):
    """Images 0 .. N - 1 of a seed or of given noise.

    Attributes:
      images: [N, *S, C] float32, in the units of the sampler.
      steps: [N] int32, solver steps.
      calls: [N] int32, network calls.
      seconds_per_image: mean wall time of the solves after the first of the process (which
        compiles), padding rows counted as images; NaN where none was timed.
      masks: [N, *S] uint8 labels, where they are made with the images; else None.
    """

    images: np.ndarray
    steps: np.ndarray
    calls: np.ndarray
    seconds_per_image: float
    masks: np.ndarray | None = None


Sampler = Callable[[Params, Rows], Solved]


class Request(NamedTuple):
    """How to generate, and what to write of it.

    Attributes:
      solver: of the model's method, see `Bundle.solver`.
      seed: 0 to 2^32 - 1; image i starts from noise folded from (seed, i).
      start: [N, *S, C] float32, scaled; where given, image i starts from row i instead.
      batch: images a solve, a multiple of the devices; 0 for `default_batch`.
      raw: leave the images as the network gives them, the intensity scaling not undone.
      trajectory: also the way of the first TRAJECTORY_IMAGES images.
      nifti: also one NIfTI an image; None: for volumes.
      pickle: also the original's layout.
      png: also one PNG an image, of frames.
    """

    solver: Any
    seed: int = 0
    start: np.ndarray | None = None
    batch: int = 0
    raw: bool = False
    trajectory: bool = False
    nifti: bool | None = None
    pickle: bool = False
    png: bool = False


def make_sampler(
    model: Bundle, solver: Any, raw: bool = False, trajectory: bool = False
) -> Sampler:
    """Compiles noise -> images over this process's devices; once for a model and its arguments.

    Args:
      model: what to sample from; its weights are an argument of the program.
      solver: see `Bundle.solver`.
      raw: leave the images as the network gives them; else the scaling of intensities is undone
        inside the compiled solve.
      trajectory: also return every state on the way.

    Returns:
      (params, rows, B a multiple of the devices) -> Solved.
    """
    key = (solver, raw, trajectory)
    if key not in model.samplers:
        solve = functools.partial(solve_rows, model, solver, raw, trajectory)
        model.samplers[key] = parallel.map_batches(solve)
    return model.samplers[key]


def solve_rows(
    model: Bundle, solver: Any, raw: bool, trajectory: bool, params: Params, rows: Rows
) -> Solved:
    """What `make_sampler` compiles: noise -> images on one device."""
    keys = None if rows.keys is None else jax.random.wrap_key_data(rows.keys)
    condition = model.condition(rows.mask, rows.label)
    solution = model.method.sample(
        model.network, params, rows.x0, condition, solver, keys, trajectory
    )
    num_labels, states = model.facts.label_channels, solution.trajectory
    images, masks = split(solution.x, num_labels)
    if states is not None:
        states = jnp.moveaxis(split(states, num_labels)[0], 0, 1)
    if not raw:
        images = model.intensity.invert(images)
        states = None if states is None else model.intensity.invert(states)
    return Solved(images, solution.steps, solution.calls, states, masks)


@functools.partial(jax.jit, static_argnames="shape")
def _noise_of_one(key: Array, index: Array, shape: tuple[int, ...]) -> Array:
    return normal_per_example(fold_keys(key, index[None]), shape)[0]


def start_noise(seed: int, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The noise that images `indices` of a seed start from: [B, *shape] float32.

    Drawn image by image with one compiled function, so it is bitwise the same whatever the batch
    and however many devices then share the solve.
    """
    key = jax.random.key(seed)
    return np.stack([np.asarray(_noise_of_one(key, np.int32(index), shape)) for index in indices])


def fresh_keys(seed: int, indices: np.ndarray, solver: Any) -> np.ndarray | None:
    """Key data of images `indices` of a seed: [B, ..] uint32; None where a solver draws nothing."""
    if not solver.draws_noise:
        return None
    return np.asarray(jax.random.key_data(fold_keys(jax.random.key(seed), jnp.asarray(indices))))


def default_batch(num: int, dims: int) -> int:
    """Images a solve: 16 (volumes: 2) a device, fewer where that makes less than two solves."""
    devices = jax.local_device_count()
    half = -(-num // (2 * devices))  # of the images, a device
    return devices * max(1, min(half, 16 if dims == 2 else 2))


def generate(
    model: Bundle,
    conditions: Conditions,
    request: Request,
    *,
    folder: Path | None = None,
    timed: bool = False,
    progress: Progress | None = None,
) -> Generated:
    """Generates one image for each of the conditions.

    Args:
      model: what to sample from.
      conditions: of the N images.
      request: how. The last batch is padded, so that one program is compiled.
      folder: finished batches are kept here, each written whole, and not solved again by a later
        call with the same model, conditions and request; None keeps nothing.
      timed: solve a batch once more where there was only one, for seconds_per_image.
      progress: called after each batch.

    Raises:
      ValueError: a batch that does not divide over the devices, or images that are not finite.
    """
    num = len(conditions)
    batch = request.batch or default_batch(num, len(model.facts.size))
    check_batch(batch)
    sampler = make_sampler(model, request.solver, request.raw)
    params, warm, parts = parallel.replicate(model.params), False, []
    made = ("images", "steps", "calls", "masks")[: 4 if model.facts.label_channels else 3]
    names = (*made, "seconds")

    def solve_batch(start: int) -> tuple[Solved, float]:
        indices = np.minimum(np.arange(start, start + batch), num - 1)
        begin = time.perf_counter()
        solved = sampler(params, rows_of(model, conditions, request, indices))
        seconds = time.perf_counter() - begin
        _check(solved, start, request.solver)
        return solved, seconds

    for start in range(0, num, batch):
        path = folder / f"batch_{start:08d}.npz" if folder else None
        saved = _read_part(path, names) if path else None
        if saved is not None:
            parts.append(saved)
        else:
            solved, seconds = solve_batch(start)
            rows = min(batch, num - start)
            arrays = [getattr(solved, name)[:rows] for name in made]
            parts.append((*arrays, seconds if warm else np.nan))
            warm = True
            if path:
                with whole_file(path) as draft:
                    np.savez(draft, **dict(zip(names, parts[-1])))
        if progress:
            progress("images", min(start + batch, num), num)
    *arrays, seconds = zip(*parts)
    after_warm_up = [value for value in seconds if np.isfinite(value)]
    if timed and not after_warm_up:
        if not warm:
            solve_batch(0)
        after_warm_up = [solve_batch(0)[1]]
    mean = float(np.mean(after_warm_up)) if after_warm_up else np.nan
    joined = dict(zip(made, map(np.concatenate, arrays)))
    return Generated(**joined, seconds_per_image=mean / batch)


def _read_part(path: Path, names: Sequence[str]) -> tuple[np.ndarray, ...] | None:
    """A batch that an earlier call finished; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        with open_npz(path) as part:
            return tuple(part[name] for name in names)
    except (ValueError, KeyError) as error:
        logger.warning("%s: solved again (%s)", path, error)
        return None


def generate_trajectory(
    model: Bundle, conditions: Conditions, request: Request, num: int
) -> np.ndarray:
    """The states of images 0 .. num - 1 from noise to image.

    Args:
      model, conditions, request: as for `generate`.
      num: images; cut to the number of conditions.

    Returns:
      [steps + 1, num, *S, C] float32, at the times of the solver's steps from 0 to 1.
    """
    sampler = make_sampler(model, request.solver, request.raw, trajectory=True)
    num, devices = min(num, len(conditions)), jax.local_device_count()
    indices = np.minimum(np.arange(-(-num // devices) * devices), num - 1)
    rows = rows_of(model, conditions, request, indices)
    solved = sampler(parallel.replicate(model.params), rows)
    return np.moveaxis(solved.trajectory[:num], 1, 0)


def check_batch(batch: int) -> None:
    """Raises ValueError for a batch that the devices of this process cannot share evenly."""
    devices = jax.local_device_count()
    if batch < 1 or batch % devices:
        raise ValueError(
            f"--batch={batch}: a multiple of the {devices} devices needed, at least {devices}"
        )


def rows_of(model: Bundle, conditions: Conditions, request: Request, indices: np.ndarray) -> Rows:
    """What a compiled solve receives for the images `indices` of a request."""
    masks, labels, start = conditions.masks, conditions.labels, request.start
    return Rows(
        start_noise(request.seed, indices, model.shape) if start is None else start[indices],
        None if masks is None else masks[indices],
        None if labels is None else labels[indices],
        fresh_keys(request.seed, indices, request.solver),
    )


def _check(solved: Solved, start: int, solver: Any) -> None:
    finite = np.isfinite(solved.images).reshape(len(solved.images), -1).all(axis=1)
    if not finite.all():
        cure = (
            f"it needed over {ode.MAX_ADAPTIVE_STEPS} steps or diverged; loosen --rtol and --atol"
            if solver.name == "adaptive"
            else "are the weights finite? try another checkpoint"
        )
        raise ValueError(f"image {start + int(np.argmin(finite))} is not finite: {cure}")
    if solver.num_steps is not None and not (solved.steps == solver.num_steps).all():
        raise RuntimeError(f"{solver} made {solved.steps.tolist()} steps: this is a bug")
