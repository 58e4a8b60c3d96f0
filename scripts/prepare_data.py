"""Looks at data before training, and turns one layout into another.

    .venv/bin/python scripts/prepare_data.py check --layout=camus --root=DIR
    .venv/bin/python scripts/prepare_data.py preview --layout=camus --root=DIR --size 128 128
    .venv/bin/python scripts/prepare_data.py convert --layout=decathlon --root=DIR --channel=T1w \\
        --size 64 64 64 --out=brains.pkl
    .venv/bin/python scripts/prepare_data.py phantom --layout=camus --out=DIR --patients=20

`check` exits with 2 where there are errors, with 0 where there are only warnings. `convert` writes
the original MOTFM's pickle. `phantom` writes simulated data in a public layout.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from motfm_jax import cli
from motfm_jax.data import integrity, phantom
from motfm_jax.data.camus import Camus
from motfm_jax.data.convert import to_pickle
from motfm_jax.data.decathlon import Decathlon
from motfm_jax.data.pickles import PickleSet
from motfm_jax.data.records import Source
from motfm_jax.io.preview import write_preview


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    for name, run in (("check", check), ("preview", preview), ("convert", convert)):
        command = commands.add_parser(name, allow_abbrev=False, usage=argparse.SUPPRESS)
        command.set_defaults(run=run, on_fault="stop")
        add = command.add_argument
        add("--layout", required=True, choices=("camus", "decathlon", "pickle"))
        add("--root", required=True, type=Path, help="folder (camus, decathlon) or file (pickle)")
        if name == "check":
            continue
        add("--size", required=True, type=int, nargs="+", help="H W or D H W")
        add("--fit", default="pad", choices=("pad", "stretch"), help="keep the aspect ratio or not")
        add("--channel", default="", help="decathlon: name of the channel")
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
    command.add_argument("--layout", required=True, choices=("camus", "decathlon"))
    command.add_argument("--out", required=True, type=Path, help="folder, new or empty")
    command.add_argument("--patients", default=20, type=int)
    command.add_argument("--seed", default=0, type=int)
    return parser.parse_args(arguments)


def source(asked: argparse.Namespace, split: str) -> Source:
    root, size, fit = asked.root, asked.size, asked.fit
    if min(size) < 1:
        raise ValueError(f"--size {size}: numbers above 0 needed")
    if asked.layout == "camus":
        return Camus(
            root, split, size, fit, asked.split_rule, asked.split_seed, on_fault=asked.on_fault
        )
    if asked.layout == "decathlon":
        return Decathlon(
            root,
            split,
            size,
            asked.channel,
            fit,
            split_seed=asked.split_seed,
            on_fault=asked.on_fault,
        )
    return PickleSet(root, split, size, fit, asked.on_fault)


def check(asked: argparse.Namespace) -> int:
    with tqdm(unit="image", leave=False, disable=None) as bar:  # None: only on a terminal

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = getattr(integrity, f"check_{asked.layout}")(asked.root, progress)
    print(report)
    return 2 if report.errors else 0


def preview(asked: argparse.Namespace) -> int:
    shown = write_preview(asked.out, source(asked, asked.split), asked.num)
    print(f"{asked.out}: {shown} {asked.split} examples")
    return 0


def convert(asked: argparse.Namespace) -> int:
    counts = to_pickle(
        lambda split: source(asked, split), asked.out, say=print, on_fault=asked.on_fault
    )
    print(f"{asked.out}: {', '.join(f'{split} {count}' for split, count in counts.items())}")
    return 0


def simulate(asked: argparse.Namespace) -> int:
    if asked.out.exists() and (not asked.out.is_dir() or any(asked.out.iterdir())):
        raise ValueError(f"{asked.out}: not an empty folder; choose another --out")
    if asked.seed < 0:
        raise ValueError(f"--seed={asked.seed}: a whole number from 0 needed")
    out = Path(os.path.realpath(asked.out))
    if out.is_symlink():
        raise ValueError(f"--out={asked.out}: a loop of links; delete it, or name another folder")
    if out == Path.cwd():  # to be replaced by the draft
        raise ValueError(f"--out={asked.out}: the folder you are in; name one below it")
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        getattr(phantom, f"write_{asked.layout}_tree")(draft, asked.patients, asked.seed)
        os.rename(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(f"{asked.out}: {asked.patients} simulated patients; look at them with")
    print(f"  scripts/prepare_data.py check --layout={asked.layout} --root={asked.out}")
    return 0


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    sys.exit(asked.run(asked))


if __name__ == "__main__":
    cli.run(main)
