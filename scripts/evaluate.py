"""Measures of generated images.

    .venv/bin/python scripts/evaluate.py contrast --samples=runs/demo/ten_calls \
        --darker=cavity --brighter=myocardium

`contrast` prints the share of images in which one label of the mask is darker than another.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motfm_jax import cli
from motfm_jax.metrics.contrast import darker_share


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, usage=argparse.SUPPRESS, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    command = parser.add_subparsers(required=True).add_parser("contrast", allow_abbrev=False)
    command.add_argument("--samples", required=True, type=Path, help="folder of scripts/sample.py")
    command.add_argument("--darker", required=True, help="mask label expected to be darker")
    command.add_argument("--brighter", required=True, help="mask label expected to be brighter")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    sidecar, arrays = asked.samples / "samples.json", asked.samples / "samples.npz"
    if not (sidecar.is_file() and arrays.is_file()):
        raise ValueError(f"{asked.samples}: no samples.json and samples.npz; sample there first")
    names = json.loads(sidecar.read_text())["condition"].get("mask_labels") or []
    for name in (asked.darker, asked.brighter):
        if name not in names:
            raise ValueError(f"{sidecar}: its masks have no label {name!r}; there are {names}")
    with np.load(arrays) as made:
        share, number = darker_share(
            made["images"], made["masks"], names.index(asked.darker), names.index(asked.brighter))
    print(f"{asked.darker} darker than {asked.brighter} in {share:.1%} of {number} images")


if __name__ == "__main__":
    cli.run(main)
