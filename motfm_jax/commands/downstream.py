"""Trains classifiers or segmenters on real and on generated images and tests them on real ones.

    motfm downstream --run=runs/camus --task=classify \\
        --synthetic MOTFM-10=samples/class DDPM-50=samples/ddpm --out=downstream/classify

RUN names the real data: its training split is learned from, its validation split chooses the epoch,
its test split gives the numbers. Networks are trained on the real images, on each set of generated
ones (folders of motfm sample), and on real and generated together, with several seeds each;
downstream.json, .md and .csv hold every result. A network that is done is not trained again by the
same call. --real=100 learns from the first 100 real images at most, whole patients in order: what
generated images are worth where real ones are few. --alone trains none on both together.
network.npz, the first one trained on real images, serves `motfm evaluate score --features`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli, datasets, runs
from motfm_jax.evaluation import downstream, synthetic
from motfm_jax.evaluation.comparison import Splits, Study, compare
from motfm_jax.io import malloc
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.io.progress import progress_bar


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, type=Path, help="run directory of motfm train")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--task", required=True, choices=downstream.TASKS)
    add("--depth", type=int, default=18, choices=(18, 50), help="of the ResNet; default: 18")
    add("--width", type=int, default=64, help="channels of its first stage; default: 64")
    add("--synthetic", nargs="*", default=[], help="NAME=FOLDER of motfm sample, ...")
    add("--real", type=int, default=0, help="the first so many real training images; default: all")
    add("--alone", action="store_true", help="no network on real and generated images together")
    add("--epochs", type=int, default=50, help="default: 50")
    add("--seeds", type=int, default=3, help="networks of each kind; default: 3")
    add("--batch", type=int, default=16, help="images an update; default: 16")
    add("--lr", type=float, default=1e-3, help="of Adam, with a cosine; default: 1e-3")
    add("--data-root", help="where the data is now, if not where the run found it")
    add("--overwrite", action="store_true", help="replace results of other settings in --out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    malloc.keep_freed()
    enable_compile_cache()
    model = runs.load_run(args.run, data_root=args.data_root)
    real = Splits(*(datasets.of_run(model, split) for split in ("train", "valid", "test")))
    generated = {}
    for text in args.synthetic:
        name, equals, folder = text.partition("=")
        if not (equals and name and folder):
            raise ValueError(f"--synthetic {text}: NAME=FOLDER of motfm sample needed")
        if name in generated:
            raise ValueError(f"--synthetic {text}: NAME is taken; give each set its own")
        generated[name] = synthetic.read_generated(Path(folder), args.task, real.train)
    recipe = downstream.Recipe(args.epochs, args.batch, args.lr)
    study = Study(
        args.task, args.depth, args.width, args.seeds, recipe, real=args.real, alone=args.alone
    )
    with progress_bar("epoch") as progress:
        compare(
            args.out,
            study,
            real,
            generated,
            model.intensity,
            overwrite=args.overwrite,
            progress=progress,
        )
    print((args.out / "downstream.md").read_text(), end="")
