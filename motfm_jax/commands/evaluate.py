"""Measures of generated images.

    motfm evaluate score --samples=runs/demo/ten_calls --run=runs/demo \\
        --features downstream/classify/network.npz downstream/segment/network.npz
    motfm evaluate audit --samples=runs/demo/ten_calls --run=runs/demo
    motfm evaluate restore --run=runs/denoise --out=runs/denoise/restored
    motfm evaluate contrast --samples=runs/demo/ten_calls --darker=cavity --brighter=myocardium

`score` writes score.{json,md,csv} beside the samples: how far their intensities and textures lie
from those of real images and, with --features, distances, precision, recall, density and coverage
in the features of networks that motfm downstream trained on this data, and whether images follow
their masks, by a network that segments; each beside its floor, the same of other real images, with
95% intervals.
Of images that were made with their masks it also writes structures.{md,csv}: sizes, shapes and
borders of the masks' structures beside those of real masks.
`audit` looks for copies: it finds the nearest training image of each generated and of each held-out
real image, and writes audit.json and audit.png, the closest pairs, beside the samples. The picture
shows real training images: keep it where the data may be.
`restore` takes a run with config.flow.source=speckle or channel and writes PSNR, SNR and SSIM of
the source images and of what the flow makes of them, for several noise powers and steps, with
pictures (which show real images too).
`contrast` prints the share of images in which one label of the mask is darker than another.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli, datasets, runs, starts
from motfm_jax.evaluation import downstream, structures
from motfm_jax.evaluation.audit import Auditor, summary
from motfm_jax.evaluation.intervals import DRAWS
from motfm_jax.evaluation.restoration import STEPS, restore
from motfm_jax.evaluation.score import Options, score
from motfm_jax.evaluation.sets import ImageSet, Real, of_samples, stored
from motfm_jax.io import malloc
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.io.progress import progress_bar
from motfm_jax.metrics.contrast import darker_share
from motfm_jax.model import Bundle
from motfm_jax.sampling.outputs import read_samples


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(required=True, prog=parser.prog)

    def command(name: str, call) -> argparse.ArgumentParser:
        added = commands.add_parser(name, allow_abbrev=False)
        added.set_defaults(call=call)
        return added

    each = command("contrast", call_contrast)
    each.add_argument("--samples", required=True, type=Path, help="folder of motfm sample")
    each.add_argument("--darker", required=True, help="mask label expected to be darker")
    each.add_argument("--brighter", required=True, help="mask label expected to be brighter")
    for name, call, split in (("audit", call_audit, "valid"), ("score", call_score, "test")):
        each = command(name, call)
        add = each.add_argument
        add("--samples", required=True, type=Path, help="folder of motfm sample")
        add("--run", required=True, type=Path, help="the run it was sampled from")
        add("--data-root", help="where the data is now, if not where the run found it")
        add("--split", default=split, help=f"real images held out from training; default: {split}")
        add("--features", type=Path, nargs="+", default=[], help="network.npz of motfm downstream")
        if name == "audit":
            add("--max-shift", type=int, help="pixels to align by; default: an eighth of the side")
        else:
            add(
                "--bootstrap",
                type=int,
                default=DRAWS,
                help=f"draws of patients and images for intervals; default: {DRAWS}, 0 for none",
            )
            add("--networks", type=Path, help="folder of motfm convert features; default: its own")
    add = command("restore", call_restore).add_argument
    add("--run", required=True, type=Path, help="run directory of motfm train")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--checkpoint", default="best", help="best, last, or a training step")
    add(
        "--powers",
        type=float,
        nargs="+",
        default=(),
        help="of speckle, the noise's mean square over the image's; default: 0.02 0.065 0.2",
    )
    add("--steps", type=int, nargs="+", default=list(STEPS), help="default: 1 2 5 10 50")
    add("--split", default="valid", help="real images; default: valid")
    add("--num", type=int, help="the first so many images; default: all")
    add("--seed", type=int, default=0, help="of the speckle; default: 0")
    add("--batch", type=int, default=0, help="images a solve, over all devices; default: 16 each")
    add("--data-root", help="where the data is now, if not where the run found it")
    add("--overwrite", action="store_true", help="replace measurements of other settings in --out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    malloc.keep_freed()
    enable_compile_cache()
    args.call(args)


def call_contrast(args: argparse.Namespace) -> None:
    names = read_samples(args.samples)["condition"].get("mask_labels") or []
    for name in (args.darker, args.brighter):
        if name not in names:
            raise ValueError(f"{args.samples}: its masks have no label {name!r}; there are {names}")
    arrays = args.samples / "samples.npz"
    share, number = darker_share(
        stored(arrays).each(),
        stored(arrays, "masks").each(),
        names.index(args.darker),
        names.index(args.brighter),
    )
    print(f"{args.darker} darker than {args.brighter} in {share:.1%} of {number} images")


def sampled_from(args: argparse.Namespace) -> tuple[Bundle, ImageSet]:
    """The run of --samples, and the images."""
    sidecar = read_samples(args.samples)
    model = runs.load_run(args.run, sidecar["training_step"], data_root=args.data_root)
    if model.checkpoint_hash != sidecar["checkpoint"]:
        raise ValueError(
            f"{args.samples}: its images come from other weights than step "
            f"{sidecar['training_step']} of {args.run}; give their own --run"
        )
    if args.split == "train":
        raise ValueError("--split=train: held-out images needed, such as valid or test")
    return model, of_samples(args.samples)


def call_score(args: argparse.Namespace) -> None:
    model, images = sampled_from(args)
    reference, train = (
        Real(split, datasets.of_run(model, split)) for split in (args.split, "train")
    )
    features = [
        downstream.read_features(path, reference.arrays, model.intensity) for path in args.features
    ]
    scores = score(
        images,
        reference,
        train,
        model.intensity,
        bounds=datasets.bounds(model, train.arrays),
        train_masks=train.arrays.masks,
        options=Options(features, args.networks, bootstrap=args.bootstrap),
    )
    scores.write(args.samples)
    print((args.samples / "score.md").read_text(), end="")
    made = structures.of_samples(args.samples, reference, train)
    if made:
        made.write(args.samples / "structures")
        print(f"\n{made.markdown()}", end="")
    if scores.missing:
        print(
            f"without {' and '.join(scores.missing)}: motfm convert features takes over the "
            "published weights of FID, KID, IS, CMMD and 3D-FID"
        )


def call_audit(args: argparse.Namespace) -> None:
    model, images = sampled_from(args)
    train, held_out = (datasets.of_run(model, split) for split in ("train", args.split))
    features = [downstream.read_features(path, train, model.intensity) for path in args.features]
    audit = Auditor(train, held_out, model.intensity, max_shift=args.max_shift, features=features)
    print(f"{summary(audit(images, args.samples))}; see {args.samples / 'audit.png'}")


def call_restore(args: argparse.Namespace) -> None:
    if min(args.steps) < 1:
        raise ValueError(f"--steps={args.steps}: whole numbers from 1 needed")
    model = runs.load_run(args.run, args.checkpoint, data_root=args.data_root)
    task = starts.restoration(model, args.split, powers=args.powers, num=args.num, seed=args.seed)
    with progress_bar() as progress:
        restore(
            args.out,
            model,
            task,
            steps=args.steps,
            batch=args.batch,
            settings={"split": args.split, "seed": args.seed},
            overwrite=args.overwrite,
            progress=progress,
        )
    print((args.out / "restoration.md").read_text(), end="")
    print(f"see comparison.png and strip.png in {args.out}")
