"""Converts weights from the PyTorch original (MOTFM) and back, and published feature extractors.

    motfm convert from-torch --ckpt=last.ckpt --config=original.yaml --data=dataset.pkl \\
        --out=runs/converted
    motfm convert to-torch --run=runs/converted --out=weights.ckpt
    motfm convert features --network=inception --weights=pt_inception-2015-12-05-6726825d.pth

`features` is for the networks behind FID, KID and IS (inception), CMMD (clip), 3D-FID (r3d) and
SPADE's perceptual loss (vgg). .ckpt, .pth and .pt need torch (its CPU wheel is enough): pip install
'motfm_jax[torch]'. Nothing in a checkpoint is executed.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli
from motfm_jax.features import weights
from motfm_jax.interop import exchange


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    args.run_command(args)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    command = commands.add_parser("from-torch", allow_abbrev=False)
    command.set_defaults(run_command=from_torch)
    add = command.add_argument
    add("--ckpt", required=True, type=Path, help="Lightning .ckpt, .pth, .pt or .safetensors")
    add("--config", type=Path, help="the original's YAML; default: the one in the checkpoint")
    add("--out", required=True, type=Path, help="run directory to write")
    add("--data", type=Path, help=".pkl it was trained on: size, intensities, classes, mask labels")
    add("--size", type=int, nargs="+", default=[], help="H W or D H W; required without --data")
    add("--overwrite", action="store_true", help="delete the run at --out")
    command = commands.add_parser("to-torch", allow_abbrev=False)
    command.set_defaults(run_command=to_torch)
    add = command.add_argument
    add("--run", required=True, type=Path, help="run directory")
    add("--out", required=True, type=Path, help=".ckpt (Lightning), .pt, .pth or .safetensors")
    add("--checkpoint", default="best", help="best, last, or a training step")
    command = commands.add_parser("features", allow_abbrev=False)
    command.set_defaults(run_command=features)
    add = command.add_argument
    add("--network", required=True, choices=list(weights.NETWORKS))
    published = [f"{name}: {each.file} of {each.source}" for name, each in weights.NETWORKS.items()]
    add("--weights", required=True, type=Path, help=f"published file: {'; '.join(published)}")
    add("--out", type=Path, help="folder to write; default: the one that metrics read")
    return parser.parse_args(arguments)


def from_torch(args: argparse.Namespace) -> None:
    converted = exchange.from_torch(
        args.ckpt, args.out, args.config, args.data, args.size, args.overwrite
    )
    model, (solver, steps) = converted.model, converted.solver
    for note in converted.notes:
        print(f"note: {note}")
    count = sum(array.size for array in model.params.values())
    print(f"{args.out}: {count:,} parameters, condition {model.cond}, of a {converted.origin}")
    if not args.data:
        print("  names are numbered and images stay in the network's units, for want of --data")
    run = shlex.quote(str(args.out))
    inputs = " --masks=masks.npy" * ("mask" in model.cond)
    inputs += " --classes=classes.npy" * ("class" in model.cond)
    print("compare with the original, from the same noise [N, *S, C]:")
    print(
        f"  motfm sample --run={run} --solver={solver} --steps={steps} --noise=x0.npy{inputs} "
        "--raw --out=samples"
    )
    print("train further (with a fresh optimiser):")
    data = "" if args.data else " --config.data.root=DATA.pkl"
    print(f"  motfm train --resume --workdir={run}{data}")


def to_torch(args: argparse.Namespace) -> None:
    model, notes = exchange.to_torch(args.run, args.out, args.checkpoint)
    for note in notes:
        print(f"note: {note}")
    print(f"{args.out}: step {model.step}, {len(model.params)} parameters")


def features(args: argparse.Namespace) -> None:
    path = weights.convert(args.network, args.weights, args.out or weights.default_folder())
    print(f"{path}: the weights of {args.network}")
