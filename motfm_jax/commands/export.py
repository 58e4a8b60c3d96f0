"""Exports a trained run: weights for any number of devices, and a sampler that needs jax alone.

    motfm export --run=runs/demo --out=exported --steps=10
    motfm export --run=runs/camus --out=camus64 --card --data="CAMUS (Leclerc et al. 2019)" \\
        --licence="CC BY-NC-SA 4.0" --samples=samples

The folder's README.txt shows the lines that sample from it with jax, numpy and flatbuffers.
--card makes it ready for a model hub. README.md, the card, takes the place of README.txt: what the
model is, the scores and the audit of --samples, what it is meant for and what not. The weights lie
beside it as safetensors, and the config has no paths of this machine. --run takes such a folder
too, or hub:OWNER/NAME@REVISION.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli
from motfm_jax.commands.sample import interval
from motfm_jax.io.card import Card, check_card
from motfm_jax.library import card, export


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
    add(
        "--shift",
        type=float,
        help="of a flow: above 1 shorter steps near noise, below 1 near the image; 1: equal; "
        "default: the run's",
    )
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
    add("--card", action="store_true", help="make it ready for a model hub")
    add("--data", default="", help="for the card: what the model was trained on, with source")
    add("--licence", default="", help="for the card: under which the weights may be used")
    add("--samples", type=Path, help="for the card: samples of this run, scored and audited")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    given = [name for name in ("data", "licence", "samples") if getattr(args, name)]
    if given and not args.card:
        raise ValueError(f"--{given[0]} without --card: it is for the card")
    if args.card:
        check_card(Card(args.data, args.licence, args.samples))
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
    if args.card:
        card(args.out, data=args.data, licence=args.licence, samples=args.samples)
        print(f"{args.out / 'README.md'}: its card; read it before you share it")
