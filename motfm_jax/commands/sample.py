"""Samples images from a trained run; the same call again continues an interrupted one.

motfm sample --run=runs/demo --num=16 --steps=10 --out=runs/demo/ten
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli, datasets, runs, starts
from motfm_jax.io import malloc
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.io.progress import progress_bar
from motfm_jax.sampling.conditions import Selection, choose, of_samples
from motfm_jax.sampling.generate import Request
from motfm_jax.sampling.sample import sample_to_folder

SOLVER_OPTIONS = ("rtol", "atol", "shift", "guidance", "guidance_interval", "eta", "spacing")


def interval(text: str) -> tuple[float, ...]:
    """ "0.1,0.8" -> (0.1, 0.8)."""
    low, high = map(float, text.split(","))
    return low, high


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, type=Path, help="run directory of motfm train")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--num", type=int, help="images; default: --noise, --classes counts, --masks files, or 16")
    add(
        "--solver",
        default="",
        help="euler (default) heun midpoint rk4 tsit5 dopri5 adaptive; of a flow map: jump (its "
        "default) too; of a diffusion: ddim",
    )
    add("--steps", type=int, help="solver steps, default 10, jump 1, ddim 50; not with adaptive")
    add("--rtol", type=float, help="relative tolerance of adaptive, default 1e-3")
    add("--atol", type=float, help="absolute tolerance of adaptive, default 1e-3")
    add(
        "--shift",
        type=float,
        help="of a flow: above 1 shorter steps near noise, below 1 near the image; 1: equal; "
        "default: the run's",
    )
    add("--guidance", type=float, help="of a flow: above 1 away from what it makes of no condition")
    add("--guidance-interval", type=interval, help="LOW,HIGH: times at which it applies, 0 noise")
    add("--guide", help="RUN or RUN@STEP, a weaker flow: --guidance leads away from what it makes")
    add("--eta", type=float, help="ddim: fresh noise, 0 to 1 (ancestral); default: the run's")
    add(
        "--spacing",
        choices=("leading", "trailing"),
        help="ddim: which timesteps; default: the run's",
    )
    add("--seed", type=int, help="image i starts from noise of (seed, i); default 0")
    add("--noise", help="npy [N, *S, C] of floats: image i starts from row i, not from a seed")
    add(
        "--source",
        help="of a run with config.flow.source speckle or channel: npy [N, *S, C] of images to "
        "start from, in the units of the training data; default: those of --split",
    )
    add("--batch", type=int, default=0, help="images a solve, over all devices; default: 16 each")
    add("--checkpoint", default="best", help="best, last, or a training step")
    add("--split", default="valid", help="split that masks and classes come from")
    add("--data-root", help="where the data is now, if not where the run found it")
    add("--repeat", type=int, default=1, help="images of each condition in a row; default 1")
    add(
        "--masks",
        nargs="+",
        default=[],
        help="label maps: PNG, NIfTI, npy, or folders; or one npy, of labels [N, *S] or of floats "
        "[N, *S, C] as the network takes them",
    )
    add("--fit", choices=("pad", "stretch"), help="resize --masks to the network's size")
    add("--classes", default="", help='"2CH_ED=10,4CH_ES=5", "2CH_ED,4CH_ES", or npy of indices')
    add(
        "--conditions",
        type=Path,
        help="folder of motfm sample: its masks and classes in place of --masks and --classes",
    )
    add("--raw", action="store_true", help="images as the network gives them, scaling not undone")
    add("--trajectory", action="store_true", help="also the way from noise to image, of 8 images")
    add("--nifti", action=argparse.BooleanOptionalAction, help="one NIfTI an image; 3-D: default")
    add("--png", action="store_true", help="also one PNG an image, of frames, and of its made mask")
    add("--pickle", action="store_true", help="also the original's .pkl layout")
    add("--overwrite", action="store_true", help="delete the images of other settings in --out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    if args.noise and args.seed is not None:
        raise ValueError(f"--seed={args.seed} with --noise: nothing is drawn; leave one out")
    malloc.keep_freed()
    enable_compile_cache()
    model = runs.load_run(args.run, args.checkpoint, data_root=args.data_root)
    if args.guide:
        model = model.guided_by(runs.load_guide(args.guide))
    options = {name: getattr(args, name) for name in SOLVER_OPTIONS}
    solver = model.solver(args.solver, args.steps, **options)
    selection = Selection(args.num, args.masks, args.classes, args.split, args.fit, args.repeat)
    if args.conditions:
        selection = of_samples(model, args.conditions, selection)
    start = starts.read(model, selection, args.noise, args.source, args.seed or 0)
    rows = {} if start is None else {"--source" if args.source else "--noise": len(start)}
    conditions = choose(model, selection, lambda split: datasets.of_run(model, split), rows)
    request = Request(
        solver,
        args.seed or 0,
        start,
        args.batch,
        args.raw,
        args.trajectory,
        args.nifti,
        args.pickle,
        args.png,
    )
    with progress_bar() as progress:
        sidecar = sample_to_folder(
            args.out, model, conditions, request, overwrite=args.overwrite, progress=progress
        )
    print(
        f"{args.out}: {sidecar['num']} images, network calls an image: {sidecar['calls']}, "
        f"{sidecar['seconds_per_image']:.3g} s an image after warm-up; see grid.png, samples.json"
    )
