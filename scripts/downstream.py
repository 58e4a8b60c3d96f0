"""Trains classifiers or segmenters on real and on generated images and tests them on real ones.

    .venv/bin/python scripts/downstream.py --run=runs/camus --task=classify \
        --synthetic MOTFM-10=samples/class DDPM-50=samples/ddpm --out=downstream/classify

RUN says which real data there are: its training split is learned from, its validation split chooses
the epoch, its test split gives the numbers. Networks are trained on the real images, on each set of
generated ones (folders of scripts/sample.py), and on real and generated together, with several
seeds each; downstream.json, .md and .csv hold every result. A network that is done is not trained
again by the same call. network.npz, the first one trained on real images, serves
`scripts/evaluate.py score --features`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from motfm_jax import cli, datasets, runs
from motfm_jax.data.cache import Arrays
from motfm_jax.evaluation import downstream, synthetic, tables
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.sampling.outputs import read_sidecar


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, type=Path, help="run directory of scripts/train.py")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--task", required=True, choices=downstream.TASKS)
    add("--depth", type=int, default=18, choices=(18, 50), help="of the ResNet; default: 18")
    add("--width", type=int, default=64, help="channels of its first stage; default: 64")
    add("--synthetic", nargs="*", default=[], help="NAME=FOLDER of scripts/sample.py, ...")
    add("--epochs", type=int, default=50, help="default: 50")
    add("--seeds", type=int, default=3, help="networks of each kind; default: 3")
    add("--batch", type=int, default=16, help="images an update; default: 16")
    add("--lr", type=float, default=1e-3, help="of Adam, with a cosine; default: 1e-3")
    add("--data-root", help="where the data is now, if not where the run found it")
    add("--overwrite", action="store_true", help="replace results of other settings in --out")
    return parser.parse_args(arguments)


def read_synthetic(text: str, task: str, real: Arrays) -> tuple[str, Arrays]:
    """One of --synthetic as examples."""
    name, equals, folder = text.partition("=")
    sidecar = read_sidecar(Path(folder))
    if not (equals and name and sidecar and (Path(folder) / "samples.npz").is_file()):
        raise ValueError(f"--synthetic {text}: NAME=FOLDER of scripts/sample.py needed")
    return name, synthetic.read_generated(Path(folder), sidecar, task, real)


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    if asked.seeds < 1:
        raise ValueError(f"--seeds={asked.seeds}: at least 1")
    enable_compile_cache()
    trained = runs.load_run(asked.run)
    if trained.intensity is None:
        raise ValueError(f"{asked.run}: was converted without its data; convert again with --data")
    if asked.data_root:
        trained.config.data.root = asked.data_root
    real, valid, test = (
        datasets.arrays(trained.config, split) for split in ("train", "valid", "test")
    )
    sets = {"real": real}
    for text in asked.synthetic:
        name, arrays = read_synthetic(text, asked.task, real)
        sets |= {name: arrays, f"real + {name}": synthetic.join(real, arrays)}
    task = downstream.make_task(asked.task, asked.depth, real, asked.width)
    settings = {
        "task": asked.task,
        "depth": asked.depth,
        "width": asked.width,
        "epochs": asked.epochs,
        "batch": asked.batch,
        "lr": asked.lr,
        "intensity": trained.intensity.to_json(),
        "tested_on": len(test),
        "sets": {
            name: [len(arrays), hash_arrays({"images": np.asarray(arrays.images)})]
            for name, arrays in sets.items()
        },
    }
    results = tables.Results(asked.out / "downstream.json", settings, asked.overwrite)
    predict = downstream.predictor(task)
    for seed in range(asked.seeds):
        for name, arrays in sets.items():
            network = asked.out / "network.npz" if name == "real" and seed == 0 else None
            if results.has(trained_on=name, seed=seed) and (network is None or network.is_file()):
                continue
            with tqdm(total=asked.epochs, desc=f"{name}, seed {seed}", disable=None) as bar:

                def show(epoch, loss, measures, bar=bar):
                    bar.set_postfix(loss=f"{loss:.3g}", valid=f"{measures[task.best]:.3g}")
                    bar.update()

                fitted = downstream.fit(
                    task,
                    arrays,
                    valid,
                    trained.intensity,
                    epochs=asked.epochs,
                    batch_size=asked.batch,
                    lr=asked.lr,
                    seed=seed,
                    progress=show,
                )
            if network is not None:
                downstream.write_network(
                    network, fitted.params, asked.task, asked.depth, asked.width
                )
            scores = task.score(predict(fitted.params, test, trained.intensity), test)
            results.add({"trained_on": name, "seed": seed}, {"best_epoch": fitted.epoch, **scores})
    table = tables.mean_and_spread(results.rows, "trained_on", downstream.MEASURES[asked.task])
    tables.Table(
        f"Tested on {len(test)} real images; mean ± standard deviation of {asked.seeds} "
        f"seed{'s' * (asked.seeds > 1)}.",
        table,
    ).write(asked.out / "downstream")
    print((asked.out / "downstream.md").read_text(), end="")


if __name__ == "__main__":
    cli.run(main)
