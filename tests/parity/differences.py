"""How far our networks are from the PyTorch original's, given the same weights and inputs.

    .venv/bin/python tests/parity/differences.py           small networks, from tests/golden/
    .venv/bin/python tests/parity/differences.py --full    the original's five, needs PyTorch

prints a Markdown table of the largest differences. `--full` runs as test_live.py says.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from motfm_jax.core import Batch, Condition, Network, Params
from motfm_jax.interop.torch_weights import from_torch
from motfm_jax.methods import flow
from motfm_jax.methods.ode import Solver
from motfm_jax.nn.control import velocity_network
from motfm_jax.nn.dispatch import Choice
from motfm_jax.nn.unet import UNetSettings

GOLDEN = Path(__file__).parents[1] / "golden"
# Largest accepted differences, several times those found on a CPU; what each is relative to is
# said where it is computed. For comparison: a GELU by tanh changes a golden velocity by 8e-5.
TOLERANCES = {"velocity": 2e-5, "trajectory": 2e-5, "loss": 1e-5, "gradient": 1e-3}

# These programs run once, for less time than they take to compile. The arithmetic is the same.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Case(NamedTuple):
    """What the original computed, and our network with its weights.

    Attributes:
      name: of the file or of the config.
      arrays: inputs and results, see `torch_original.record`; images and masks channels last.
      gradients: the original's, by our names.
      network, params: ours.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    network: Network
    params: Params


class Differences(NamedTuple):
    """The largest differences of one case, by the names of TOLERANCES; gradients by parameter."""

    velocity: float
    trajectory: float
    loss: float
    gradients: dict[str, float]


def make_case(name: str, record: Mapping[str, np.ndarray], network: Network, init) -> Case:
    """A case of what the original recorded and our network with its `init`."""
    shapes = json.loads(str(record["shapes"]))
    wanted = jax.eval_shape(init, jax.random.key(0))
    arrays = {
        name: np.moveaxis(record[name], channels, -1)
        for name, channels in (("x", 1), ("x0", 1), ("x1", 1), ("velocity", 1), ("trajectory", 2))
    }
    arrays |= {name: record[name] for name in ("t", "loss_t", "loss")}
    if "mask" in record:
        arrays["mask"] = np.moveaxis(record["mask"], 1, -1)
    if "label" in record:
        arrays["label"] = record["label"]
    params, gradients = (
        from_torch(_unpack(record[kind], shapes), wanted, name) for kind in ("state", "gradient")
    )
    arrays = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
    return Case(name, arrays, gradients, network, params)


def _unpack(flat: np.ndarray, shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    pieces = np.split(flat.astype(np.float32), ends[:-1])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces)}


def golden_case(path: Path) -> Case:
    """The case of one file of tests/golden/."""
    with np.load(path) as stored:
        record = dict(stored)
    structure = json.loads(str(record["structure"]))
    masks = {name: structure.pop(name) for name in ("mask_channels", "mask_width")}
    structure["head_dim"] = structure.get("head_dim") or 0
    structure = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in structure.items()
    }
    settings = UNetSettings(
        **structure,
        image_channels=1,
        floor_time=True,
        dropout=0.0,
        dtype=jnp.float32,
        remat="none",
        choose_attention=lambda head_dim: Choice("xla", "parity"),
    )
    return make_case(path.stem, record, *velocity_network(settings, **masks))


def _condition(case: Case, rows: int) -> Condition:
    mask, label = (case.arrays.get(name) for name in ("mask", "label"))
    return Condition(
        None if mask is None else jnp.asarray(mask[:rows]),
        None if label is None else jnp.asarray(label[:rows]),
    )


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest |difference|, as a share of the original's largest value."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape}: the same needed")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def velocity_of(case: Case):
    """Our velocity as a compiled function of the parameters."""
    x, t = case.arrays["x"], case.arrays["t"]
    condition = _condition(case, len(x))

    @partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def velocity(params: Params):
        context = case.network.encode(params, condition)
        return case.network.apply(params, x, t, context, None)

    return velocity


def velocity_difference(case: Case) -> float:
    return relative(np.asarray(velocity_of(case)(case.params)), case.arrays["velocity"])


def trajectory_difference(case: Case) -> float:
    """Of all states of the Euler solve, the largest difference."""
    x0, steps = jnp.asarray(case.arrays["x0"]), len(case.arrays["trajectory"]) - 1
    condition = _condition(case, len(x0))

    @partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def sample(params: Params):
        solver = Solver("euler", steps)
        return flow.sample(case.network, params, x0, condition, solver, trajectory=True)

    return relative(np.asarray(sample(case.params).trajectory), case.arrays["trajectory"])


def loss_and_gradients(case: Case) -> tuple[float, dict[str, np.ndarray]]:
    """Our training loss and its gradients, with the original's noise and times for the draws."""
    arrays, rows = case.arrays, len(case.arrays["x1"])
    batch = Batch(
        jnp.asarray(arrays["x1"]), None, None, np.ones(rows, bool), np.arange(rows, dtype=np.int32)
    )
    condition, keys = _condition(case, rows), jax.random.split(jax.random.key(0), rows)

    @partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    @jax.value_and_grad
    def mean_loss(params: Params):
        return flow.loss(case.network, params, batch, condition, keys, None).mean()

    with (
        mock.patch.object(flow, "normal_per_example", return_value=arrays["x0"]),
        mock.patch.object(flow, "draw_times", return_value=arrays["loss_t"]),
    ):
        loss, gradients = mean_loss(case.params)
    return float(loss), {name: np.asarray(gradient) for name, gradient in gradients.items()}


def loss_difference(case: Case, loss: float) -> float:
    return relative(np.asarray(loss), case.arrays["loss"])


def gradient_differences(case: Case, gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By parameter: largest |difference|, as a share of that gradient's largest value.

    Where the gradient is small it is a share of a thousandth of the network's largest: gradients
    that are zero but for rounding have no scale of their own.
    """
    largest = {name: np.abs(theirs).max() for name, theirs in case.gradients.items()}
    least = 1e-3 * max(largest.values())
    return {
        name: float(np.abs(gradients[name] - theirs).max() / max(largest[name], least))
        for name, theirs in case.gradients.items()
    }


def differences(case: Case) -> Differences:
    with jax.default_matmul_precision("highest"):
        loss, gradients = loss_and_gradients(case)
        return Differences(
            velocity_difference(case),
            trajectory_difference(case),
            loss_difference(case, loss),
            gradient_differences(case, gradients),
        )


def golden_cases() -> Iterator[Case]:
    for path in sorted(GOLDEN.glob("*.npz")):
        yield golden_case(path)


def table(cases: Iterable[Case]) -> Iterator[str]:
    """Lines of a Markdown table, a case each; the gradient column names the worst parameter."""
    yield "| case | velocity | trajectory | loss | gradient | of parameter |"
    yield "|---|---|---|---|---|---|"
    for case in cases:
        found = differences(case)
        worst = max(found.gradients, key=found.gradients.get)
        numbers = (found.velocity, found.trajectory, found.loss, found.gradients[worst])
        yield " | ".join([f"| {case.name}", *(f"{number:.1e}" for number in numbers), f"{worst} |"])
    yield " | ".join(["| tolerance", *(f"{value:.0e}" for value in TOLERANCES.values()), "|"])


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="the original's five networks")
    if parser.parse_args().full:
        from live import live_cases  # needs PyTorch

        cases = live_cases()
    else:
        cases = golden_cases()
    for line in table(cases):
        print(line, flush=True)


if __name__ == "__main__":
    main()
