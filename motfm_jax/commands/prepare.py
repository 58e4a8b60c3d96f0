"""Looks at data before training, and turns one layout into another.

    motfm prepare check --layout=camus --root=DIR
    motfm prepare preview --layout=camus --root=DIR --size 128 128
    motfm prepare convert --layout=decathlon --root=DIR --channel=T1w --size 64 64 64 \\
        --out=brains.pkl
    motfm prepare phantom --layout=camus --out=DIR --patients=20

`check` exits with 2 if there are errors, with 0 if there are only warnings. `convert` writes the
original MOTFM's pickle. `phantom` writes simulated data in a public layout.
"""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from motfm_jax import cli, settings
from motfm_jax.data import SOURCES, phantom
from motfm_jax.data.convert import to_pickle
from motfm_jax.data.nifti import GEOMETRIES
from motfm_jax.data.pickles import PickleSet
from motfm_jax.data.source import Fitted, Source
from motfm_jax.io.folders import whole_folder
from motfm_jax.io.pictures import write_preview
from motfm_jax.io.progress import progress_bar

TREES = {"camus": phantom.write_camus_tree, "decathlon": phantom.write_decathlon_tree}


def main(arguments: Sequence[str]) -> int:
    args = parse(arguments)
    return args.run(args)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    layouts = [name for name, kind in SOURCES.items() if kind.needs_root]
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    for name, run in (("check", check), ("preview", preview), ("convert", convert)):
        command = commands.add_parser(name, allow_abbrev=False, usage=argparse.SUPPRESS)
        command.set_defaults(run=run, on_fault="stop")
        add = command.add_argument
        add("--layout", required=True, choices=layouts, help="as config.data.source")
        add("--root", required=True, type=Path, help="folder (camus, decathlon) or file (pickle)")
        add("--geometry", default="", choices=GEOMETRIES, help="NIfTI field that places voxels")
        add("--resample-masks", action="store_true", help="of another grid: nearest voxels")
        if name == "check":
            continue
        add("--size", required=True, type=int, nargs="+", help="H W or D H W")
        add("--fit", default="pad", choices=("pad", "stretch"), help="keep the aspect ratio or not")
        add("--channel", default="", help="decathlon: name of the channel, or T1w,FLAIR")
        add("--split-rule", default="official", choices=("official", "paper"), help="camus")
        add("--split-seed", default=0, type=int, help="of a random split")
        if name == "preview":
            add("--split", default="train", help="train, valid, test; decathlon: unlabelled")
            add("--num", default=8, type=int, help="examples, spread over the split")
            add("--out", default=Path("preview.png"), type=Path, help="PNG file")
        else:
            add("--out", required=True, type=Path, help=".pkl file")
            add(
                "--on-fault",
                choices=("stop", "skip"),
                help="what cannot be read: stop, or leave out and list",
            )
    command = commands.add_parser("phantom", allow_abbrev=False, usage=argparse.SUPPRESS)
    command.set_defaults(run=simulate)
    command.add_argument("--layout", required=True, choices=TREES)
    command.add_argument("--out", required=True, type=Path, help="folder, new or empty")
    command.add_argument("--patients", default=20, type=int)
    command.add_argument("--seed", default=0, type=int)
    return parser.parse_args(arguments)


def fields_of(args: argparse.Namespace) -> Any:
    """config.data with the flags that every layout takes."""
    data = settings.default().data
    data.root, data.geometry = str(args.root), args.geometry
    data.resample_masks = args.resample_masks
    return data


def open_split(args: argparse.Namespace, split: str) -> Source:
    """A split of the source that the flags name."""
    if min(args.size) < 1:
        raise ValueError(f"--size {args.size}: numbers above 0 needed")
    data = fields_of(args)
    data.update(
        dict(
            size=tuple(args.size),
            fit=args.fit,
            channel=args.channel,
            split=args.split_rule,
            split_seed=args.split_seed,
        )
    )
    source = SOURCES[args.layout].from_config(data, split)
    # A pickle is converted from its entries, not from its records.
    return source if isinstance(source, PickleSet) else Fitted(source, args.size, args.fit)


def check(args: argparse.Namespace) -> int:
    kind = SOURCES[args.layout]
    if not hasattr(kind, "check"):
        raise ValueError(f"--layout={args.layout}: {kind.__name__} has no check(root, progress)")
    takes_fields = "data" in inspect.signature(kind.check).parameters
    options = {"data": fields_of(args)} if takes_fields else {}
    with progress_bar() as progress:
        report = kind.check(args.root, progress, **options)
    print(report)
    return 2 if report.errors else 0


def preview(args: argparse.Namespace) -> int:
    count = write_preview(args.out, open_split(args, args.split), args.num)
    print(f"{args.out}: {count} {args.split} examples")
    return 0


def convert(args: argparse.Namespace) -> int:
    counts = to_pickle(lambda split: open_split(args, split), args.out, args.on_fault)
    print(f"{args.out}: {', '.join(f'{split} {count}' for split, count in counts.items())}")
    return 0


def simulate(args: argparse.Namespace) -> int:
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"{args.out}: not an empty folder; choose another --out")
    if args.seed < 0:
        raise ValueError(f"--seed={args.seed}: a whole number from 0 needed")
    if args.out.resolve() == Path.cwd():  # to be replaced by the draft
        raise ValueError(f"--out={args.out}: the folder you are in; name one below it")
    with whole_folder(args.out) as draft:
        TREES[args.layout](draft, args.patients, args.seed)
    print(f"{args.out}: {args.patients} simulated patients; look at them with")
    print(f"  motfm prepare check --layout={args.layout} --root={args.out}")
    return 0
