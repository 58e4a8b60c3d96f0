"""Samples images from a trained run; the same call again continues an interrupted one.

.venv/bin/python scripts/sample.py --run=runs/demo --num=16 --steps=10 --out=runs/demo/ten
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from motfm_jax import build, cli, datasets, runs
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pipeline import read_pairs
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.sampling import given
from motfm_jax.sampling.conditions import DEFAULT_NUM, check_num, choose
from motfm_jax.sampling.sample import Checkpoint, Request, sample_to_folder


def flags(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, help="run directory of scripts/train.py")
    add("--out", required=True, help="folder to write to")
    add("--num", type=int, help="images; default: --noise, --classes counts, --masks files, or 16")
    add(
        "--solver",
        default="",
        help="euler (default) heun midpoint rk4 tsit5 dopri5 adaptive; of a diffusion: ddim",
    )
    add("--steps", type=int, help="solver steps, default 10, ddim 50; not with adaptive")
    add("--rtol", type=float, help="relative tolerance of adaptive, default 1e-3")
    add("--atol", type=float, help="absolute tolerance of adaptive, default 1e-3")
    add("--eta", type=float, help="ddim: fresh noise, 0 to 1 (ancestral); default: the run's")
    add("--spacing", choices=("leading", "trailing"), help="ddim: levels; default: the run's")
    add("--seed", type=int, help="image i starts from noise of (seed, i); default 0")
    add("--noise", help="npy [N, *S, C] of floats: image i starts from row i, not from a seed")
    add(
        "--source",
        help="of a run with config.flow.source speckle or channel: npy [N, *S, C] of "
        "images to start from, in the units of the training data; default: those of --split",
    )
    add("--batch", type=int, default=0, help="images a solve, over all devices; default: 16 each")
    add("--checkpoint", default="best", help="best, last, or a training step")
    add("--split", default="valid", help="split that masks and classes come from")
    add("--data-root", help="where the data is now, if not where the run found it")
    add(
        "--masks",
        nargs="+",
        default=[],
        help="label maps: PNG, NIfTI, npy, or folders; "
        "or one npy, of labels [N, *S] or of floats [N, *S, C] as the network takes them",
    )
    add("--fit", choices=("pad", "stretch"), help="resize --masks to the network's size")
    add("--classes", default="", help='"2CH_ED=10,4CH_ES=5", "2CH_ED,4CH_ES", or npy of indices')
    add("--raw", action="store_true", help="images as the network gives them, scaling not undone")
    add("--trajectory", action="store_true", help="also the way from noise to image, of 8 images")
    add("--nifti", action=argparse.BooleanOptionalAction, help="one NIfTI an image; 3-D: default")
    add("--pickle", action="store_true", help="also the original's .pkl layout")
    add("--overwrite", action="store_true", help="delete the images of other settings in --out")
    return parser.parse_args(arguments)


def read_sources(asked: argparse.Namespace, trained: runs.Trained) -> np.ndarray:
    """What the images of a run that does not start from noise start from, scaled."""
    config, facts = trained.config, trained.facts
    if asked.noise:
        raise ValueError(
            f"--noise: the flow of {asked.run} starts from images (config.flow.source="
            f"{config.flow.source!r}); give them as --source"
        )
    if asked.source:
        lacks_masks = "mask" in config.cond and not asked.masks
        if lacks_masks or ("class" in config.cond and not asked.classes):
            raise ValueError(
                f"--source without its conditions: this run was trained with cond={config.cond}; "
                "give --masks, --classes of the same images"
            )
        images = given.read_noise(
            asked.source, facts.size, facts.channels, len(config.model.channels) - 1
        )
        scaling = trained.intensity
        if facts.source_intensity:
            scaling = Intensity.from_json(facts.source_intensity)
        names = [f"{asked.source}, row {row}" for row in range(len(images))]
        return np.stack([scaling.apply(image, name) for image, name in zip(images, names)])
    if asked.masks or asked.classes:
        raise ValueError(
            "--masks, --classes without --source: the images to start from come with conditions "
            "of their own; leave them out, or give --source"
        )
    arrays = datasets.arrays(config, asked.split)
    check_num(asked.num)
    num = asked.num or DEFAULT_NUM
    rows = np.arange(num) % len(arrays)
    return read_pairs(
        arrays, trained.intensity, rows, seed=asked.seed or 0, **datasets.sources(config, facts)
    )[0]


def main(arguments: Sequence[str] | None = None) -> None:
    asked = flags(arguments)
    if asked.noise and asked.seed is not None:
        raise ValueError(f"--seed={asked.seed} with --noise: nothing is drawn; leave one out")
    enable_compile_cache()
    which = int(asked.checkpoint) if asked.checkpoint.isdecimal() else asked.checkpoint
    trained = runs.load_run(Path(asked.run), which)
    config, facts, model = trained.config, trained.facts, trained.model
    solver = build.solver(
        config,
        asked.solver,
        asked.steps,
        rtol=asked.rtol,
        atol=asked.atol,
        eta=asked.eta,
        spacing=asked.spacing,
    )
    request = Request(
        solver, asked.seed or 0, asked.batch, asked.trajectory, asked.nifti, asked.pickle, asked.raw
    )
    if asked.data_root:
        config.data.root = asked.data_root
    if config.flow.source == "noise":
        if asked.source:
            raise ValueError(f"--source: the flow of {asked.run} starts from noise; leave it out")
        noise = (
            given.read_noise(
                asked.noise,
                facts.size,
                facts.channels,
                len(config.model.channels) - 1,
            )
            if asked.noise
            else None
        )
    else:
        noise = read_sources(asked, trained)
    facts = given.known(asked.run, facts, noise, asked.raw)
    split = (lambda: datasets.arrays(config, asked.split)) if facts.intensity else None
    conditions = choose(
        config.cond,
        num=asked.num,
        classes=facts.classes,
        mask_labels=facts.mask_labels,
        size=facts.size,
        split=split,
        split_name=asked.split,
        mask_paths=asked.masks,
        class_text=asked.classes,
        fit=asked.fit,
        noise=noise,
        noise_flag="--source" if asked.source else "--noise",
        mask_channels=1 if config.data.mask_encoding == "scalar" else len(facts.mask_labels),
    )
    with tqdm(total=len(conditions), unit="image", disable=None) as bar:
        sidecar = sample_to_folder(
            Path(asked.out),
            request,
            conditions,
            network=model.network,
            params=trained.params,
            condition=model.condition,
            kind=config.cond,
            facts=facts,
            intensity=trained.intensity,
            checkpoint=Checkpoint(asked.run, trained.checkpoint_hash, trained.step),
            noise=noise,
            overwrite=asked.overwrite,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    print(
        f"{asked.out}: {sidecar['num']} images, network calls an image: {sidecar['calls']}, "
        f"{sidecar['seconds_per_image']:.3g} s an image after warm-up; see grid.png, samples.json"
    )


if __name__ == "__main__":
    cli.run(main)
