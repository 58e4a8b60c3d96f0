"""Exports a trained run: weights for any number of devices, and a sampler that needs jax alone.

    motfm export --run=runs/demo --out=exported --steps=10

The folder's README.txt shows the lines that sample from it with jax, numpy and flatbuffers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli
from motfm_jax.commands.sample import interval
from motfm_jax.library import export


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, type=Path, help="run directory of motfm train")
    add("--out", required=True, type=Path, help="folder to write")
    add(
        "--solver",
        default="",
        help="euler (default) heun midpoint rk4 tsit5 dopri5; of a flow map: jump (its default) "
        "too; of a diffusion: ddim",
    )
    add("--steps", type=int, help="solver steps, default 10, jump 1, ddim 50")
    add("--shift", type=float, help="of a flow: above 1 shorter steps near noise; default 1, equal")
    add("--guidance", type=float, help="of a flow: see motfm sample")
    add("--guidance-interval", type=interval, help="LOW,HIGH: times at which it applies, 0 noise")
    add("--checkpoint", default="best", help="best, last, or a training step")
    add(
        "--dtype",
        default="",
        choices=("", "float32", "bfloat16"),
        help="of convolutions and products; default: the run's, float32 where that is auto",
    )
    add("--overwrite", action="store_true", help="replace an export that stands at --out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    exported = export(
        args.run,
        args.out,
        checkpoint=args.checkpoint,
        solver=args.solver,
        steps=args.steps,
        shift=args.shift,
        guidance=args.guidance,
        guidance_interval=args.guidance_interval,
        dtype=args.dtype,
        overwrite=args.overwrite,
    )
    print(
        f"{args.out}: step {exported['training_step']}, {exported['solver']} with "
        f"{exported['calls']} network calls, condition {exported['condition']}; try: python "
        f"{args.out / 'example.py'}"
    )
