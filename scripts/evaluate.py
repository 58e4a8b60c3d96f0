"""Measures of generated images.

    .venv/bin/python scripts/evaluate.py contrast --samples=runs/demo/ten_calls \
        --darker=cavity --brighter=myocardium
    .venv/bin/python scripts/evaluate.py audit --samples=runs/demo/ten_calls --run=runs/demo

`contrast` prints the share of images in which one label of the mask is darker than another.
`audit` looks for copies: it finds the nearest training image of each generated and of each held-out
real image, and writes audit.json and audit.png, the closest pairs, beside the samples. The picture
shows real training images: keep it where the data may be.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motfm_jax import build, cli
from motfm_jax.evaluation.audit import audit
from motfm_jax.metrics.contrast import darker_share


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, usage=argparse.SUPPRESS, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(required=True, prog=parser.prog)
    command = commands.add_parser("contrast", allow_abbrev=False)
    command.set_defaults(call=contrast)
    command.add_argument("--samples", required=True, type=Path, help="folder of scripts/sample.py")
    command.add_argument("--darker", required=True, help="mask label expected to be darker")
    command.add_argument("--brighter", required=True, help="mask label expected to be brighter")
    command = commands.add_parser("audit", allow_abbrev=False)
    command.set_defaults(call=memorisation)
    add = command.add_argument
    add("--samples", required=True, type=Path, help="folder of scripts/sample.py")
    add("--run", required=True, type=Path, help="the run it was sampled from")
    add("--data-root", help="where the data is now, if not where the run found it")
    add("--split", default="valid", help="real images held out from training; default: valid")
    add("--max-shift", type=int, help="pixels to align by; default: an eighth of the side")
    return parser.parse_args(arguments)


def read_samples(folder: Path) -> tuple[dict[str, Any], Path]:
    """The sidecar of a folder of scripts/sample.py, and the path of its arrays."""
    sidecar, arrays = folder / "samples.json", folder / "samples.npz"
    if not (sidecar.is_file() and arrays.is_file()):
        raise ValueError(f"{folder}: no samples.json and samples.npz; sample there first")
    return json.loads(sidecar.read_text()), arrays


def contrast(asked: argparse.Namespace) -> None:
    sidecar, arrays = read_samples(asked.samples)
    names = sidecar["condition"].get("mask_labels") or []
    for name in (asked.darker, asked.brighter):
        if name not in names:
            raise ValueError(
                f"{asked.samples}: its masks have no label {name!r}; there are {names}")
    with np.load(arrays) as made:
        share, number = darker_share(
            made["images"], made["masks"], names.index(asked.darker), names.index(asked.brighter))
    print(f"{asked.darker} darker than {asked.brighter} in {share:.1%} of {number} images")


def memorisation(asked: argparse.Namespace) -> None:
    sidecar, arrays = read_samples(asked.samples)
    trained = build.load_run(asked.run, sidecar["training_step"])
    if trained.checkpoint_hash != sidecar["checkpoint"]:
        raise ValueError(
            f"{asked.samples}: its images come from other weights than step "
            f"{sidecar['training_step']} of {asked.run}; give their own --run")
    if trained.intensity is None:
        raise ValueError(
            f"{asked.run}: was converted without its data; train on with it, or convert again with "
            "--data")
    if asked.split == "train":
        raise ValueError("--split=train: held-out images needed, such as valid or test")
    if asked.data_root:
        trained.config.data.root = asked.data_root
    with np.load(arrays) as made:
        report = audit(
            asked.samples, made["images"], build.arrays(trained.config, "train"),
            build.arrays(trained.config, asked.split), trained.intensity,
            raw=sidecar["settings"]["raw"], max_shift=asked.max_shift)
    near, real = report["generated"], report["held_out"]
    print(
        f"{report['share_closer']:.1%} of {report['num']['generated']} images lie closer to a "
        f"training image than the nearest 5% of {report['num']['held_out']} held-out ones (5% "
        f"expected without copying); nearest {near['min']:.4g}, median {near['median']:.4g}, "
        f"held-out {real['min']:.4g} and {real['median']:.4g}; see {asked.samples / 'audit.png'}")


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    asked.call(asked)


if __name__ == "__main__":
    cli.run(main)
