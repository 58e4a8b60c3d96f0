"""Looks at data before training, and turns one layout into another.

    motfm prepare check --layout=folder --root=DIR
    motfm prepare preview --layout=camus --root=DIR --size 128 128
    motfm prepare convert --layout=decathlon --root=DIR --channel=T1w --size 64 64 64 \\
        --out=brains.pkl
    motfm prepare phantom --layout=camus --out=DIR --patients=20

`check` says what it finds, and which size suits the data; it exits with 2 if there are errors, with
0 if there are only warnings. `convert` writes the original MOTFM's pickle. `phantom` writes
simulated data in a public layout.
"""

import argparse
import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from motfm_jax import build, cli, presets, rules, settings
from motfm_jax.core import Batch
from motfm_jax.data import SOURCES, labels, phantom
from motfm_jax.data.convert import to_pickle
from motfm_jax.data.examination import Report
from motfm_jax.data.facts import Facts
from motfm_jax.data.pickles import PickleSet
from motfm_jax.data.source import Fitted, Source
from motfm_jax.data.survey import Proposal, propose
from motfm_jax.io.folders import whole_folder
from motfm_jax.io.pictures import write_preview
from motfm_jax.io.progress import progress_bar
from motfm_jax.training import memory

# Fields of config.data that are flags of check, preview and convert.
FIELDS = {
    "fit": "pad or stretch: keep the aspect ratio or not",
    "channel": "decathlon, folder: names of channels, T1w or T1w,FLAIR",
    "slices": "folder: axial, coronal, sagittal, 0, 1 or 2 makes pictures of volumes",
    "slice_step": "folder: every so many slices",
    "slice_margin": "folder: so many slices less at either end",
    "slice_foreground": "folder: least share of foreground",
    "spacing_mm": "decathlon, folder: resample to this",
    "crop_foreground": "decathlon, folder: cut away the background",
    "labels": 'names and values of mask labels, "0:background,255:lesion"',
    "geometry": "NIfTI field that places voxels: sform, qform or pixdim",
    "resample_masks": "of another grid: nearest voxels",
    "intensity.nan": "what NaN and infinite values become, such as 0",
    "split_seed": "of a random split",
}
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
        add("--root", required=True, type=Path, help="folder, or file (pickle)")
        size = "H W or D H W" + "; counts the labels that are lost" * (name == "check")
        add("--size", required=name != "check", default=[], type=int, nargs="+", help=size)
        _add_fields(command)
        if name == "preview":
            add("--split", default="train", help="train, valid, test; some layouts: unlabelled")
            add("--num", default=8, type=int, help="examples, spread over the split")
            add("--out", default=Path("preview.png"), type=Path, help="PNG file")
        elif name == "convert":
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


def _add_fields(command: argparse.ArgumentParser) -> None:
    """A flag for each field of config.data that says how files are read."""
    defaults, add = settings.default().data, command.add_argument
    for name, text in FIELDS.items():
        flag = "--" + _flag(name).replace("_", "-")
        default = settings.field(defaults, name)
        if isinstance(default, bool):
            add(flag, action="store_true", help=text)
        elif isinstance(default, tuple):
            add(flag, default=default, type=float, nargs="+", help=text)
        else:
            add(flag, default=default, type=type(default), help=text)
    add("--split-rule", default="official", choices=("official", "paper"), help="camus")


def _flag(name: str) -> str:
    """Without the dashes: "slice_step" of that field, "nan" of "intensity.nan"."""
    return name.rpartition(".")[2]


def fields_of(args: argparse.Namespace) -> Any:
    """The fields of config.data that the flags name, checked; no size where none is given."""
    if any(extent < 1 for extent in args.size):
        raise ValueError(f"--size {args.size}: numbers above 0 needed")
    config = settings.default()
    values = {name: getattr(args, _flag(name)) for name in FIELDS}
    values |= {"source": args.layout, "root": str(args.root), "split": args.split_rule}
    if args.size:
        values["size"] = args.size
    settings.assign(config, {f"data.{name}": value for name, value in values.items()})
    settings.check_fields(config)
    if args.size:
        rules.check_data(config)
    else:
        config.data.size = ()
    return config.data


def open_split(args: argparse.Namespace, split: str) -> Source:
    """A split of the source that the flags name."""
    data = fields_of(args)
    source = SOURCES[args.layout].from_config(data, split)
    # A pickle is converted from its entries, not from its records.
    if isinstance(source, PickleSet):
        return source
    declared = labels.declared(source, data.labels)
    return Fitted(source, args.size, args.fit, declared, data.intensity.nan)


def check(args: argparse.Namespace) -> int:
    kind = SOURCES[args.layout]
    if not hasattr(kind, "check"):
        raise ValueError(f"--layout={args.layout}: {kind.__name__} has no check(root, progress)")
    takes_fields = "data" in inspect.signature(kind.check).parameters
    options = {"data": fields_of(args)} if takes_fields else {}
    with progress_bar() as progress:
        report = kind.check(args.root, progress, **options)
    print(report)
    if not args.size and (proposal := propose(report.summaries, options.get("data"))):
        print(f"\nsize: {_fields(proposal)}, the median field of view and spacing")
        if args.layout == "folder":
            print(*_training(args, report, proposal), sep="\n")
    return 2 if report.errors else 0


def _fields(proposal: Proposal) -> str:
    fields = f"--config.data.size={_text(proposal.size)}"
    if proposal.spacing_mm:
        fields += f" --config.data.spacing_mm={_text(proposal.spacing_mm)}"
    return fields


def _training(args: argparse.Namespace, report: Report, proposal: Proposal) -> list[str]:
    """Lines: the memory of a training at a size, halved until that fits, and its command."""
    masks = any(summary.labels for summary in report.summaries)
    cond = "+".join(["mask"] * masks + ["class"] * bool(report.classes)) or "none"
    preset = f"folder:cond={cond},size=small,dims={len(proposal.size)}"
    config, limit, lines = presets.read_config(preset), memory.limit(), []
    while True:
        config.data.size = proposal.size
        needed = _memory(config, report)
        lines.append(
            f"  {_text(proposal.size)}: about {needed / 1e9:.2g} of {limit / 1e9:.2g} GB with "
            f"size=small and train.batch_size={config.train.batch_size}"
        )
        if needed <= limit or proposal.half() == proposal:
            break
        proposal = proposal.half()
    return [
        *lines,
        "  (weights, optimiser, and what the backward pass keeps)",
        "train:",
        f"  motfm train --config={preset} --config.data.root={shlex.quote(str(args.root))} "
        f"{_fields(proposal)}{_given(args, proposal)} --workdir=runs/mine",
    ]


def _given(args: argparse.Namespace, proposal: Proposal) -> str:
    """The fields that are given as flags, as flags of a training."""
    defaults = settings.default().data
    proposed = ("spacing_mm",) if proposal.spacing_mm else ()
    values = {name: getattr(args, _flag(name)) for name in FIELDS}
    return "".join(
        f" --config.data.{name}={shlex.quote(str(value))}"
        for name, value in values.items()
        if value != settings.field(defaults, name) and name not in proposed
    )


def _text(numbers: Sequence[float]) -> str:
    return "'(" + ",".join(f"{each:g}" for each in numbers) + ")'"


def _memory(config: Any, report: Report) -> int:
    """Bytes that training takes, from the shapes of its arrays."""
    values = sorted({0}.union(*(summary.labels for summary in report.summaries)))
    facts = Facts(
        tuple(config.data.size),
        len(report.summaries[0].low),
        report.classes,
        tuple(map(str, values)),
        {},
    )
    built = build.architecture(config, facts)
    size, rows = facts.size, config.train.batch_size // config.train.accumulation

    def shaped(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    batch = Batch(
        shaped(jnp.float32, *size, facts.channels),
        shaped(jnp.uint8, *size),
        shaped(jnp.int32),
        shaped(bool),
        shaped(jnp.int32),
    )
    params = jax.eval_shape(built.init, jax.random.key(0))
    return memory.of_shapes(build.loss(config, built), params, batch)


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
