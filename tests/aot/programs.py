"""Compiles programs for an NVIDIA card that is not there; run it by compile.sh.

A program is NETWORK_WORK:BATCH: camus is mask + class at 384 px, brain unconditional at 96^3, both
of size=paper; work is train or sample (10 Euler steps). OUT/NAME.hlo.txt is what XLA made of it,
and OUT/NAME.json its memory, kernels, bytes and FLOP, see kernels.py. XLA picks layouts, fusions
and cuDNN's attention plans; it times no convolutions and makes no CUDA graphs.
"""

import argparse
import ast
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax._src.cudnn.fused_attention_stablehlo as fused
import kernels
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from motfm_jax import build, parallel, presets, runs
from motfm_jax.core import Batch
from motfm_jax.data.facts import Facts
from motfm_jax.nn.dispatch import Capabilities
from motfm_jax.sampling import generate
from motfm_jax.training.memory import needed
from motfm_jax.training.state import init_state
from motfm_jax.training.step import averaging, make_train_step

CARDS = {"h100": 9.0, "rtx4090": 8.9}  # compute capability; the rest is in cards/
CALLS = 10
CONFIGS = {
    "camus": "camus:cond=mask+class,size=paper",
    "brain": "brain:cond=none,size=paper",
}
LABELS = tuple("abcd")  # of classes and masks, where there are any
KEY = jax.eval_shape(lambda: jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compiled, from shapes alone.

    Attributes:
      config: of the network and the training.
      facts: of data that are not there.
      model: the networks.
      devices: descriptions of the cards.
      batch: images a device.
    """

    config: ConfigDict
    facts: Facts
    model: build.Architecture
    devices: Sequence[Any]
    batch: int

    def rows(self, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(self.devices), self.batch, *shape), dtype)

    @property
    def images(self) -> jax.ShapeDtypeStruct:
        return self.rows((*self.facts.size, 1), np.float32)

    @property
    def masks(self) -> jax.ShapeDtypeStruct | None:
        return self.rows(self.facts.size, np.uint8) if self.facts.classes else None

    @property
    def labels(self) -> jax.ShapeDtypeStruct | None:
        return self.rows((), np.int32) if self.facts.classes else None

    @property
    def params(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(self.model.init, KEY)

    def train(self) -> Any:
        """An update, as `trainer` makes it."""
        fields, (optimizer, _) = self.config.train, build.update(self.config, 1000)
        state = jax.eval_shape(
            lambda params: init_state(params, optimizer, fields.ema), self.params
        )
        step = make_train_step(
            build.loss(self.config, self.model),
            optimizer,
            averaging(fields.ema),
            fields.accumulation,
            parallel.AXIS,
        )
        mapped = jax.pmap(
            step,
            axis_name=parallel.AXIS,
            in_axes=(None, 0, None),
            out_axes=(None, None),
            donate_argnums=0,
            devices=self.devices,
        )
        valid, index = self.rows((), np.bool_), self.rows((), np.int32)
        batch = Batch(self.images, self.masks, self.labels, valid, index)
        return mapped.lower(state, batch, KEY)

    def sample(self) -> Any:
        """A solve, as `generate.make_sampler` makes it."""
        bundle = runs.bundle(self.model, {}, self.facts, self.config, Path("run"))
        solver = bundle.solver("euler", CALLS)
        solve = functools.partial(generate.solve_rows, bundle, solver, False, False)
        mapped = jax.pmap(solve, axis_name=parallel.AXIS, in_axes=(None, 0), devices=self.devices)
        return mapped.lower(self.params, generate.Rows(self.images, self.masks, self.labels))


def cards(name: str, count: int) -> Sequence[Any]:
    """Descriptions of `count` cards."""
    version = _numbers(str(CARDS[name]))
    # JAX asks the device of this process, a CPU.
    fused.check_compute_capability = lambda least: version >= _numbers(least)
    fused.is_cuda_compute_capability_equal = lambda other: version == _numbers(other)
    description = (Path(__file__).parent / "cards" / f"{name}.txtpb").read_text()
    return topologies.get_topology_desc(
        platform="cuda", target_config=description, topology=f"1x1x{count}"
    ).devices


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def case(network: str, batch: int, args: argparse.Namespace) -> Case:
    """A network of CONFIGS with what the flags change."""
    config = presets.read_config(CONFIGS[network])
    for change in args.set:
        field, value = change.split("=", 1)
        config.update_from_flattened_dict({field: _value(value)})
    labels = LABELS if network == "camus" else ()
    scaling = dict(mode="minmax", scope="dataset", range=(-1.0, 1.0), percentiles=(0.5, 99.5))
    facts = Facts(tuple(config.data.size), 1, labels, labels, scaling | dict(low=0.0, high=255.0))
    model = build.architecture(config, facts, Capabilities("gpu", CARDS[args.card]))
    return Case(config, facts, model, cards(args.card, args.devices), batch)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("programs", nargs="+", metavar="PROGRAM", help="NETWORK_WORK:BATCH")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--card", choices=CARDS, default="h100")
    add("--devices", type=int, default=1, help="cards that share the work")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the config")
    add("--tag", default="", help="end of the files' names")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    for text in args.programs:
        (network, work), batch = text.split(":")[0].split("_"), int(text.split(":")[1])
        name = f"{network}_{work}_b{batch}{args.tag and '_' + args.tag}"
        one, begin = case(network, batch, args), time.perf_counter()
        print(name, *one.model.sites, sep="\n  ", flush=True)
        compiled = getattr(one, work)().compile()
        (args.out / f"{name}.hlo.txt").write_text(compiled.as_text())
        plan = compiled.memory_analysis()
        found = {
            "seconds": time.perf_counter() - begin,
            "needed_bytes": needed(compiled),
            "argument_bytes": plan.argument_size_in_bytes,
            "donated_bytes": plan.alias_size_in_bytes,
            **kernels.summary(compiled.as_text()),
        }
        (args.out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
