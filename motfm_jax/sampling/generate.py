"""Many images from a trained network: one compiled solve, batch after batch, resumable, timed."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax import parallel
from motfm_jax.core import Array, Condition, Network, Params, fold_keys, normal_per_example
from motfm_jax.io.files import open_npz, whole_file
from motfm_jax.methods import ode
from motfm_jax.methods.diffusion import DDIM
from motfm_jax.methods.solve import Solver, solve
from motfm_jax.sampling.conditions import Conditions

Progress = Callable[[int, int], None]  # (images done, images in all)


class Rows(NamedTuple):
    """What one compiled solve receives.

    Attributes:
      x0: [B, *S, C] float32, what the images start from.
      mask: [B, *S] labels, [B, *S, C] floats as the network takes them, or None.
      label: [B] class indices, or None.
      keys: [B, ..] uint32, one key's data an image, where sampling draws fresh noise; else None.
    """

    x0: np.ndarray
    mask: np.ndarray | None
    label: np.ndarray | None
    keys: np.ndarray | None = None


class Solved(NamedTuple):
    """What it returns, as numpy.

    Attributes:
      images: [B, *S, C] float32, in the units that `make_sampler`'s `invert` gives.
      steps: [B] int32, solver steps counted inside the solve.
      calls: [B] int32, network calls.
      trajectory: [B, steps + 1, *S, C] in the same units, or None.
    """

    images: np.ndarray
    steps: np.ndarray
    calls: np.ndarray
    trajectory: np.ndarray | None


class Generated(NamedTuple):
    """Images 0 .. N - 1 of a seed or of given noise.

    Attributes:
      images: [N, *S, C] float32, in the units of the sampler.
      steps: [N] int32, solver steps.
      calls: [N] int32, network calls.
      seconds_per_image: mean wall time of the solves after the first of the process (which
        compiles), padding rows counted as images; NaN where none was timed.
    """

    images: np.ndarray
    steps: np.ndarray
    calls: np.ndarray
    seconds_per_image: float


Sampler = Callable[[Params, Rows], Solved]


def make_solver(
    name: str, steps: int | None, rtol: float | None = None, atol: float | None = None
) -> ode.Solver:
    """The solver of a request in which None stands for "not said".

    Raises:
      ValueError: an unknown solver, steps said with "adaptive", or tolerances with another one.
    """
    if name == "adaptive" and steps is not None:
        raise ValueError(
            f"--steps={steps} with --solver=adaptive: it chooses its own steps; leave --steps out "
            "and set --rtol and --atol"
        )
    if name != "adaptive" and (rtol is not None or atol is not None):
        raise ValueError(
            f"--rtol, --atol with --solver={name}: only adaptive takes tolerances; set --steps"
        )
    said = {"steps": steps, "rtol": rtol, "atol": atol}
    solver = ode.Solver(
        name, **{field: value for field, value in said.items() if value is not None}
    )
    ode.check_solver(solver)
    return solver


def make_sampler(
    network: Network,
    condition: Callable[[Array | None, Array | None], Condition],
    invert: Callable[[Array], Array],
    solver: Solver,
    trajectory: bool = False,
) -> Sampler:
    """Compiles noise -> images over this process's devices.

    Args:
      network: the velocity field, the estimate of the noise or the generator.
      condition: (mask or None, label [B] or None) -> Condition; see `Rows`.
      invert: from the network's values to those wanted, such as the intensity scaling's inverse;
        runs inside the compiled solve.
      solver: of the network's method.
      trajectory: also return every state on the way.

    Returns:
      (params, rows, B a multiple of the devices) -> Solved.
    """

    def solve_rows(params: Params, rows: Rows) -> Solved:
        keys = None if rows.keys is None else jax.random.wrap_key_data(rows.keys)
        solution = solve(
            network, params, rows.x0, condition(rows.mask, rows.label), solver, keys, trajectory
        )
        states = None if solution.trajectory is None else jnp.moveaxis(solution.trajectory, 0, 1)
        return Solved(
            invert(solution.x),
            solution.steps,
            solution.calls,
            None if states is None else invert(states),
        )

    return parallel.map_batches(solve_rows)


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


def fresh_keys(seed: int, indices: np.ndarray, solver: Solver) -> np.ndarray | None:
    """Key data of images `indices` of a seed: [B, ..] uint32; None where a solver draws nothing."""
    if not (isinstance(solver, DDIM) and solver.eta > 0):
        return None
    return np.asarray(jax.random.key_data(fold_keys(jax.random.key(seed), np.asarray(indices))))


def default_batch(num: int, dims: int) -> int:
    """Images a solve: 16 (volumes: 2) a device, fewer where that makes less than two solves."""
    devices = jax.local_device_count()
    half = -(-num // (2 * devices))  # of the images, a device
    return devices * max(1, min(half, 16 if dims == 2 else 2))


def generate(
    sampler: Sampler,
    params: Params,
    conditions: Conditions,
    *,
    shape: tuple[int, ...],
    solver: Solver,
    seed: int = 0,
    noise: np.ndarray | None = None,
    batch: int = 0,
    folder: Path | None = None,
    timed: bool = False,
    progress: Progress | None = None,
) -> Generated:
    """Generates one image for each of the conditions.

    Args:
      sampler: of `make_sampler`, with the same solver.
      params: flat dict of weights.
      conditions: of the N images.
      shape: (*S, C).
      solver: see `make_sampler`.
      seed: image i starts from noise folded from (seed, i),
      noise: or, where given, from row i of this [N, *S, C] float32.
      batch: images a solve, a multiple of the devices; 0 for `default_batch`. The last batch is
        padded to it, so that one program is compiled.
      folder: finished batches are kept here, each written atomically, and not solved again by a
        later call; None keeps nothing. The caller sees to it that its settings are the same.
      timed: solve a batch once more where there was only one, for seconds_per_image.
      progress: called after each batch.

    Raises:
      ValueError: a batch that does not divide over the devices, or images that are not finite.
    """
    num = len(conditions)
    batch = batch or default_batch(num, len(shape) - 1)
    check_batch(batch)
    params, warm, parts = parallel.replicate(params), False, []
    names = ("images", "steps", "calls", "seconds")

    def solve_batch(start: int) -> tuple[Solved, float]:
        rows = np.minimum(np.arange(start, start + batch), num - 1)
        begin = time.perf_counter()
        solved = sampler(params, _rows(conditions, rows, shape, solver, seed, noise))
        seconds = time.perf_counter() - begin
        _check(solved, start, solver)
        return solved, seconds

    for start in range(0, num, batch):
        path = folder / f"batch_{start:08d}.npz" if folder else None
        kept = _read_part(path, names) if path else None
        if kept is not None:
            parts.append(kept)
        else:
            solved, seconds = solve_batch(start)
            rows = min(batch, num - start)
            arrays = (solved.images, solved.steps, solved.calls)
            parts.append((*(array[:rows] for array in arrays), seconds if warm else np.nan))
            warm = True
            if path:
                with whole_file(path) as draft:
                    np.savez(draft, **dict(zip(names, parts[-1])))
        if progress:
            progress(min(start + batch, num), num)
    images, steps, calls, seconds = zip(*parts)
    after_warm_up = [value for value in seconds if np.isfinite(value)]
    if timed and not after_warm_up:
        if not warm:
            solve_batch(0)
        after_warm_up = [solve_batch(0)[1]]
    mean = float(np.mean(after_warm_up)) if after_warm_up else np.nan
    return Generated(*map(np.concatenate, (images, steps, calls)), mean / batch)


def _read_part(path: Path, names: Sequence[str]) -> tuple[np.ndarray, ...] | None:
    """A batch that an earlier call finished; None where there is none, or a damaged one."""
    if not path.exists():
        return None
    try:
        with open_npz(path) as part:
            return tuple(part[name] for name in names)
    except (ValueError, KeyError) as error:
        print(f"WARNING: {path}: made again ({error})", file=sys.stderr)
        return None


def generate_trajectory(
    sampler: Sampler,
    params: Params,
    conditions: Conditions,
    *,
    shape: tuple[int, ...],
    solver: Solver,
    seed: int,
    noise: np.ndarray | None = None,
    num: int,
) -> np.ndarray:
    """The states of images 0 .. num - 1 from noise to image, in the units of the sampler.

    Args:
      sampler: of `make_sampler` with trajectory=True.
      params, conditions, shape, solver, seed, noise: as for `generate`.
      num: images; cut to the number of conditions.

    Returns:
      [steps + 1, num, *S, C] float32, at equally spaced times from 0 to 1.
    """
    num, devices = min(num, len(conditions)), jax.local_device_count()
    rows = np.minimum(np.arange(-(-num // devices) * devices), num - 1)
    solved = sampler(
        parallel.replicate(params), _rows(conditions, rows, shape, solver, seed, noise)
    )
    return np.moveaxis(solved.trajectory[:num], 1, 0)


def check_batch(batch: int) -> None:
    """Raises ValueError for a batch that the devices of this process cannot share evenly."""
    devices = jax.local_device_count()
    if batch < 1 or batch % devices:
        raise ValueError(
            f"--batch={batch}: a multiple of the {devices} devices needed, at least {devices}"
        )


def _rows(
    conditions: Conditions,
    rows: np.ndarray,
    shape: tuple[int, ...],
    solver: Solver,
    seed: int,
    noise: np.ndarray | None,
) -> Rows:
    masks, labels = conditions.masks, conditions.labels
    return Rows(
        start_noise(seed, rows, shape) if noise is None else noise[rows],
        None if masks is None else masks[rows],
        None if labels is None else labels[rows],
        fresh_keys(seed, rows, solver),
    )


def _check(solved: Solved, start: int, solver: Solver) -> None:
    finite = np.isfinite(solved.images).reshape(len(solved.images), -1).all(axis=1)
    if not finite.all():
        cure = (
            f"it needed over {ode.MAX_ADAPTIVE_STEPS} steps or diverged; loosen --rtol and --atol"
            if solver.name == "adaptive"
            else "are the weights finite? try another checkpoint"
        )
        raise ValueError(f"image {start + int(np.argmin(finite))} is not finite: {cure}")
    if solver.name != "adaptive" and not (solved.steps == solver.steps).all():
        raise RuntimeError(f"{solver} made {solved.steps.tolist()} steps: this is a bug")
