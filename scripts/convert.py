"""Takes checkpoints of the PyTorch original (MOTFM) over, and hands runs back to it; takes over the
published networks that FID, KID, IS (inception), CMMD (clip) and 3D-FID (r3d) are defined by, and
the one of SPADE's perceptual loss (vgg).

    .venv/bin/python scripts/convert.py from-torch --ckpt=last.ckpt --config=original.yaml \\
        --data=dataset.pkl --out=runs/converted
    .venv/bin/python scripts/convert.py to-torch --run=runs/converted --out=weights.ckpt
    .venv/bin/python scripts/convert.py features --network=inception \\
        --weights=pt_inception-2015-12-05-6726825d.pth

Reading and writing .ckpt, .pth and .pt needs torch (its CPU wheel is enough):
.venv/bin/pip install -e '.[torch]'. Nothing in a checkpoint is executed.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli
from motfm_jax.features import weights
from motfm_jax.interop import exchange


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    command = commands.add_parser("from-torch", allow_abbrev=False)
    command.set_defaults(run=from_torch)
    add = command.add_argument
    add("--ckpt", required=True, type=Path, help="Lightning .ckpt, .pth, .pt or .safetensors")
    add("--config", type=Path, help="the original's YAML; default: what the checkpoint holds")
    add("--out", required=True, type=Path, help="run directory to write")
    add("--data", type=Path, help=".pkl it was trained on: size, intensity, classes, mask labels")
    add("--size", type=int, nargs="+", default=[], help="H W or D H W, without --data")
    add("--overwrite", action="store_true", help="delete the run at --out")
    command = commands.add_parser("to-torch", allow_abbrev=False)
    command.set_defaults(run=to_torch)
    add = command.add_argument
    add("--run", dest="path", required=True, type=Path, help="run directory")
    add("--out", required=True, type=Path, help=".ckpt (Lightning), .pt, .pth or .safetensors")
    add("--checkpoint", default="best", help="best, last, or a training step")
    command = commands.add_parser("features", allow_abbrev=False)
    command.set_defaults(run=features)
    add = command.add_argument
    add("--network", required=True, choices=list(weights.NETWORKS))
    add(
        "--weights",
        required=True,
        type=Path,
        help="the published file: "
        + "; ".join(
            f"{name}: {each.file} of {each.source}" for name, each in weights.NETWORKS.items()
        ),
    )
    add("--out", type=Path, help="folder to keep it in; default: where scores look for it")
    return parser.parse_args(arguments)


def features(asked: argparse.Namespace) -> None:
    kept = weights.convert(asked.network, asked.weights, asked.out or weights.default_folder())
    print(f"{kept}: the weights of {asked.network}")


def from_torch(asked: argparse.Namespace) -> None:
    converted = exchange.from_torch(
        asked.ckpt, asked.out, asked.config, asked.data, asked.size, asked.overwrite
    )
    trained, (solver, steps) = converted.trained, converted.solver
    facts, cond, run = trained.facts, trained.config.cond, shlex.quote(str(asked.out))
    for note in converted.notes:
        print(f"note: {note}")
    count = sum(array.size for array in trained.params.values())
    print(f"{asked.out}: {count:,} parameters, condition {cond}, of a {converted.origin}")
    if facts.unknown:
        print(
            f"  it does not know {', '.join(facts.unknown)}: sample with --raw"
            f"{' and --noise' * ('size' in facts.unknown)}, or convert again with --data"
        )
    given = "--noise=x0.npy"
    given += " --masks=masks.npy" * ("mask" in cond) + " --classes=classes.npy" * ("class" in cond)
    print("compare with the original, from the same noise [N, *S, C]:")
    print(
        f"  .venv/bin/python scripts/sample.py --run={run} --solver={solver} "
        f"--steps={steps} {given} --raw --out=samples"
    )
    print("train on (the optimiser starts afresh):")
    missing = " --config.data.root=DATA.pkl" * bool(facts.unknown)
    axes = "(H,W)" if len(facts.size) == 2 else "(D,H,W)"
    missing += f" '--config.data.size={axes}'" * ("size" in facts.unknown)
    print(f"  .venv/bin/python scripts/train.py --resume --workdir={run}{missing}")


def to_torch(asked: argparse.Namespace) -> None:
    which = int(asked.checkpoint) if asked.checkpoint.isdecimal() else asked.checkpoint
    trained, notes = exchange.to_torch(asked.path, asked.out, which)
    for note in notes:
        print(f"note: {note}")
    print(f"{asked.out}: step {trained.step}, {len(trained.params)} parameters")


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    asked.run(asked)


if __name__ == "__main__":
    cli.run(main)
