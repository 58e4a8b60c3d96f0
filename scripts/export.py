"""Exports a trained run: weights for any number of devices, and a sampler that needs jax alone.

    .venv/bin/python scripts/export.py --run=runs/demo --out=exported --steps=10

The folder's README.txt shows the lines that sample from it with jax, numpy and flatbuffers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import build, cli, runs
from motfm_jax.io.export import Sampler, check_destination, write_export
from motfm_jax.methods.solve import num_calls, solve
from motfm_jax.nn.dispatch import Capabilities


def flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, help="run directory of scripts/train.py")
    add("--out", required=True, help="folder to write")
    add(
        "--solver",
        default="",
        help="euler (default) heun midpoint rk4 tsit5 dopri5; of a diffusion: ddim",
    )
    add("--steps", type=int, help="solver steps, default 10, ddim 50")
    add("--checkpoint", default="best", help="best, last, or a training step")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of convolutions and products; default: the run's, float32 where that is auto",
    )
    add("--overwrite", action="store_true", help="replace an export that stands at --out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = flags(arguments)
    if asked.solver == "adaptive":
        raise ValueError(
            "--solver=adaptive: an exported program makes a fixed number of network calls; use "
            "euler, heun, midpoint, rk4, tsit5 or dopri5 with --steps"
        )
    out = Path(asked.out)
    check_destination(out, asked.overwrite)
    which = int(asked.checkpoint) if asked.checkpoint.isdecimal() else asked.checkpoint
    trained = runs.load_run(Path(asked.run), which, attention="xla")
    if trained.config.flow.source != "noise":
        raise ValueError(
            f"{asked.run}: config.flow.source={trained.config.flow.source!r}; only a sampler that "
            "starts from noise can be exported"
        )
    if trained.intensity is None:
        raise ValueError(
            f"{asked.run}: was converted without its data, so it does not know "
            f"{', '.join(trained.facts.unknown)}; convert again with --data"
        )
    # The program takes noise and no key, so that it cannot draw fresh noise.
    diffuses = trained.config.method == "ddpm"
    solver = build.solver(trained.config, asked.solver, asked.steps, eta=0.0 if diffuses else None)
    config = trained.config.to_dict()
    if asked.dtype:
        trained.config.train.dtype = asked.dtype
    # Built for no device in particular: XLA attention, and float32 unless something else was said.
    model = build.model(trained.config, trained.facts, Capabilities("any"), attention="xla")

    def sample(params, x0, mask, label):
        condition = model.condition(mask, label)
        return trained.intensity.invert(solve(model.network, params, x0, condition, solver).x)

    settings = dict(
        solver=solver.name,
        steps=solver.steps,
        calls=num_calls(solver),
        dtype=model.dtype.__name__,
        checkpoint=trained.checkpoint_hash,
        training_step=trained.step,
    )
    sampler = Sampler(sample, trained.params, trained.config.cond, config, trained.facts.to_json())
    write_export(out, sampler, settings, asked.overwrite)
    print(
        f"{out}: step {trained.step}, {solver.name} with {settings['calls']} network calls, "
        f"condition {trained.config.cond}; try: python {out / 'example.py'}"
    )


if __name__ == "__main__":
    cli.run(main)
