"""Reader studies: can people tell generated images from real ones?

    motfm study make --run=runs/camus --samples=samples --num=50 --out=study
    motfm study score --key=study/key.json --answers answers-*.json --out=study/scores

`make` writes study.html, one file of N real and N generated images in random order and one grey
window, and key.json. Send readers the page alone: it opens in any browser without a network, keeps
unfinished answers, and saves a file to send back. It shows real patients' images: it must stay
where these may be. --pairs asks which of two images is real. --view=stack shows volumes slice by
slice.
`score` reads the answers of any number of readers: accuracy, sensitivity, specificity and their
Wilson intervals, the area under the ROC curve of how sure they were (DeLong), Fleiss' kappa, the
time an image took, and a sentence for a paper; study.md, .csv, .json and .png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli, datasets, runs
from motfm_jax.evaluation import reader_scores, readers
from motfm_jax.evaluation.sets import Real, of_samples
from motfm_jax.io.folders import read_json


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(required=True, prog=parser.prog)
    each = commands.add_parser("make", allow_abbrev=False)
    each.set_defaults(call=make)
    add = each.add_argument
    add("--run", required=True, type=Path, help="a run on the real data")
    add("--samples", required=True, type=Path, help="folder of motfm sample")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--num", type=int, default=50, help="real images, and generated ones; default: 50")
    add("--pairs", action="store_true", help="which of two is real?")
    add("--view", choices=("planes", "stack"), default="planes", help="of volumes; default: planes")
    add("--split", default="test", help="of the real images; default: test")
    add("--seed", type=int, default=0, help="of which images; default: 0")
    add("--data-root", help="where the data is now, if not where the run found it")
    each = commands.add_parser("score", allow_abbrev=False)
    each.set_defaults(call=score)
    add = each.add_argument
    add("--key", required=True, type=Path, help="key.json")
    add("--answers", required=True, type=Path, nargs="+", help="files that the page saved")
    add("--out", required=True, type=Path, help="folder to write to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    args.call(args)


def make(args: argparse.Namespace) -> None:
    model = runs.load_run(args.run, data_root=args.data_root)
    real = Real(args.split, datasets.of_run(model, args.split))
    check_classes(args.samples, real)
    choice = readers.Choice(args.num, args.seed, args.pairs, args.view == "stack")
    key = readers.make(args.out, of_samples(args.samples), real, model.intensity, choice)
    asked = "pairs" if args.pairs else "images"
    print(f"{args.out / 'study.html'}: {len(key['truth'])} {asked}; {readers.NOTICE}")


def check_classes(samples: Path, real: Real) -> None:
    """Raises ValueError where images were made for classes that the real ones do not have."""
    sidecar = samples / "samples.json"
    condition = read_json(sidecar).get("condition", {}) if sidecar.is_file() else {}
    made = set(condition.get("classes") or ())
    if real.arrays.classes and not made <= set(real.arrays.classes):
        raise ValueError(
            f"{samples}: made for classes {', '.join(sorted(made))}; the real images have "
            f"{', '.join(real.arrays.classes)}; give --run of the samples"
        )


def score(args: argparse.Namespace) -> None:
    key = readers.read_key(args.key)
    answers = [reader_scores.read_answers(path, key) for path in args.answers]
    print(reader_scores.write(args.out, reader_scores.score(key, answers)), end="")
    print(f"see {args.out / 'study.png'}")
