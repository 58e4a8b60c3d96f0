"""Measures of generated images.

    .venv/bin/python scripts/evaluate.py contrast --samples=runs/demo/ten_calls \
        --darker=cavity --brighter=myocardium
    .venv/bin/python scripts/evaluate.py audit --samples=runs/demo/ten_calls --run=runs/demo
    .venv/bin/python scripts/evaluate.py score --samples=runs/demo/ten_calls --run=runs/demo \
        --features=downstream/classify/network.npz
    .venv/bin/python scripts/evaluate.py restore --run=runs/denoise --out=runs/denoise/restored

`contrast` prints the share of images in which one label of the mask is darker than another.
`audit` looks for copies: it finds the nearest training image of each generated and of each held-out
real image, and writes audit.json and audit.png, the closest pairs, beside the samples. The picture
shows real training images: keep it where the data may be.
`score` writes score.{json,md,csv} beside the samples: how far their intensities lie from those of
real images and, with --features, the Frechet and kernel distances in what a network that
scripts/downstream.py trained on this data sees; each beside its floor, the same of other real
images.
`restore` takes a run with config.flow.source=speckle or channel and writes PSNR, SNR and SSIM of
the source images and of what the flow makes of them, for several noise powers and steps, with
pictures (which show real images too).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from motfm_jax import cli, datasets, runs
from motfm_jax.data.pipeline import read_pairs
from motfm_jax.evaluation import downstream, tables
from motfm_jax.evaluation.audit import auditor
from motfm_jax.evaluation.published import Networks
from motfm_jax.evaluation.restoration import restore
from motfm_jax.evaluation.score import scorer
from motfm_jax.evaluation.sets import ImageSet, in_units, stored
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.io.files import whole_file
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.metrics.contrast import darker_share
from motfm_jax.sampling.conditions import choose
from motfm_jax.sampling.outputs import read_sidecar

POWERS = (0.02, 0.065, 0.2)  # of speckle; the paper's 11.87 dB are 0.065


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
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
    add("--features", type=Path, help="network.npz of scripts/downstream.py: its distances too")
    add("--max-shift", type=int, help="pixels to align by; default: an eighth of the side")
    command = commands.add_parser("score", allow_abbrev=False)
    command.set_defaults(call=distances)
    add = command.add_argument
    add("--samples", required=True, type=Path, help="folder of scripts/sample.py")
    add("--run", required=True, type=Path, help="the run it was sampled from")
    add("--features", type=Path, help="network.npz of scripts/downstream.py")
    add("--networks", type=Path, help="folder of scripts/convert.py features; default: its own")
    add("--split", default="test", help="real images to compare with; default: test")
    add("--data-root", help="where the data is now, if not where the run found it")
    command = commands.add_parser("restore", allow_abbrev=False)
    command.set_defaults(call=restoration)
    add = command.add_argument
    add("--run", required=True, type=Path, help="run directory of scripts/train.py")
    add("--out", required=True, type=Path, help="folder to write to")
    add("--checkpoint", default="best", help="best, last, or a training step")
    add(
        "--powers",
        type=float,
        nargs="+",
        help="of speckle, the noise's mean square over the image's; default: 0.02 0.065 0.2",
    )
    add("--steps", type=int, nargs="+", default=[1, 2, 5, 10, 50], help="default: 1 2 5 10 50")
    add("--split", default="valid", help="real images; default: valid")
    add("--num", type=int, help="the first so many images; default: all")
    add("--seed", type=int, default=0, help="of the speckle; default: 0")
    add("--batch", type=int, default=0, help="images a solve, over all devices; default: 16 each")
    add("--data-root", help="where the data is now, if not where the run found it")
    add("--overwrite", action="store_true", help="replace measurements of other settings in --out")
    return parser.parse_args(arguments)


def read_samples(folder: Path, **needed: type) -> tuple[dict[str, Any], Path]:
    """The sidecar of a folder of scripts/sample.py, with the fields needed, and the path of its
    arrays."""
    sidecar, arrays = read_sidecar(folder), folder / "samples.npz"
    if not (sidecar and arrays.is_file()):
        raise ValueError(
            f"{folder}: no samples.json and samples.npz of scripts/sample.py; sample there first"
        )
    if wrong := [name for name, kind in needed.items() if not isinstance(sidecar.get(name), kind)]:
        raise ValueError(
            f"{folder / 'samples.json'}: no {' and no '.join(wrong)} in it; sample again with "
            "--overwrite"
        )
    return sidecar, arrays


def contrast(asked: argparse.Namespace) -> None:
    sidecar, arrays = read_samples(asked.samples, condition=dict)
    names = sidecar["condition"].get("mask_labels") or []
    for name in (asked.darker, asked.brighter):
        if name not in names:
            raise ValueError(
                f"{asked.samples}: its masks have no label {name!r}; there are {names}"
            )
    share, number = darker_share(
        stored(arrays).each(),
        stored(arrays, "masks").each(),
        names.index(asked.darker),
        names.index(asked.brighter),
    )
    print(f"{asked.darker} darker than {asked.brighter} in {share:.1%} of {number} images")


def sampled_from(asked: argparse.Namespace) -> tuple[runs.Trained, ImageSet, bool]:
    """The run of --samples, its data, the images, and whether they are raw."""
    sidecar, arrays = read_samples(asked.samples, training_step=int, checkpoint=str)
    trained = runs.load_run(asked.run, sidecar["training_step"])
    if trained.checkpoint_hash != sidecar["checkpoint"]:
        raise ValueError(
            f"{asked.samples}: its images come from other weights than step "
            f"{sidecar['training_step']} of {asked.run}; give their own --run"
        )
    if trained.intensity is None:
        raise ValueError(
            f"{asked.run}: was converted without its data; train on with it, or convert again with "
            "--data"
        )
    if asked.split == "train":
        raise ValueError("--split=train: held-out images needed, such as valid or test")
    if asked.data_root:
        trained.config.data.root = asked.data_root
    return trained, stored(arrays), bool(sidecar["settings"].get("raw"))


def distances(asked: argparse.Namespace) -> None:
    trained, images, raw = sampled_from(asked)
    if raw:
        raise ValueError(f"{asked.samples}: made with --raw; sample again without it")
    enable_compile_cache()
    intensity = trained.intensity
    reference, train = (datasets.arrays(trained.config, split) for split in (asked.split, "train"))
    others = np.sort(np.random.default_rng(0).permutation(len(train))[: len(images)])
    see, name = None, ""
    if asked.features:
        see, name = downstream.read_features(asked.features, reference, intensity)
    sets = {
        "generated": images,
        f"real, {len(others)} of train": in_units(train, intensity, rows=others),
    }
    real = in_units(reference, intensity)
    networks = Networks(asked.networks or weights.default_folder(), len(images.shape) - 2)
    bounds = float(intensity.low), float(intensity.high)
    score = scorer(real, bounds=bounds, features=see, networks=networks)
    rows = [{"images": title} | score(shown) for title, shown in sets.items()]
    with whole_file(asked.samples / "score.json") as draft:
        draft.write_text(
            json.dumps(
                {
                    "reference": asked.split,
                    "num": [len(images), len(reference)],
                    "bounds": bounds,
                    "features": name,
                    "networks": networks.hashes,
                    "rows": rows,
                },
                indent=2,
            )
            + "\n"
        )
    tables.Table(
        f"Against {len(reference)} real images of {asked.split}, image i beside real image i for "
        f"the similarity; intensities from {bounds[0]:g} to {bounds[1]:g}"
        + (f"; frechet and kernel in the features of {name}." if name else "."),
        rows,
    ).write(asked.samples / "score")
    print((asked.samples / "score.md").read_text(), end="")
    if networks.missing:
        print(
            f"without {' and '.join(networks.missing)}: scripts/convert.py features takes the "
            "published weights of FID, KID, IS, CMMD and 3D-FID over"
        )


def memorisation(asked: argparse.Namespace) -> None:
    trained, images, raw = sampled_from(asked)
    if raw and asked.features:
        raise ValueError(f"{asked.samples}: made with --raw; leave --features out")
    train, held_out = (datasets.arrays(trained.config, split) for split in ("train", asked.split))
    see, network = None, ""
    if asked.features:
        see, network = downstream.read_features(asked.features, train, trained.intensity)
    audit = auditor(
        train,
        held_out,
        trained.intensity,
        raw=raw,
        max_shift=asked.max_shift,
        features=see,
        network=network,
    )
    report = audit(asked.samples, images)
    near, real = report["generated"], report["held_out"]
    print(
        f"{report['share_closer']:.1%} of {report['num']['generated']} images lie closer to a "
        f"training image than the nearest 5% of {report['num']['held_out']} held-out ones (5% "
        f"expected without copying); nearest {near['min']:.4g}, median {near['median']:.4g}, "
        f"held-out {real['min']:.4g} and {real['median']:.4g}; see {asked.samples / 'audit.png'}"
    )
    if network:
        print(
            f"{report['features']['share_closer']:.1%} by the features of {network}; see "
            f"{asked.samples / 'audit_features.png'}"
        )


def restoration(asked: argparse.Namespace) -> None:
    enable_compile_cache()
    which = int(asked.checkpoint) if asked.checkpoint.isdecimal() else asked.checkpoint
    trained = runs.load_run(asked.run, which)
    config, facts = trained.config, trained.facts
    if config.flow.source == "noise":
        raise ValueError(
            f"{asked.run}: its flow starts from noise; train one with --config.flow.source=speckle "
            "or channel"
        )
    if asked.powers and config.flow.source != "speckle":
        raise ValueError(
            f"--powers: the flow of {asked.run} starts from {config.flow.source_channel}, without "
            "speckle; leave it out"
        )
    if min(asked.steps) < 1 or (asked.num is not None and asked.num < 1):
        raise ValueError(f"--steps={asked.steps}, --num={asked.num}: whole numbers from 1 needed")
    if asked.data_root:
        config.data.root = asked.data_root
    arrays = datasets.arrays(config, asked.split)
    rows = np.arange(min(asked.num or len(arrays), len(arrays)))
    speckled = config.flow.source == "speckle"
    powers = (asked.powers or POWERS) if speckled else [None]
    sources = {}
    for power in powers:
        name = f"power {power:g}" if speckled else config.flow.source_channel
        sources[name], real = read_pairs(
            arrays,
            trained.intensity,
            rows,
            seed=asked.seed,
            **datasets.sources(config, facts, power),
        )
    bounds = config.data.intensity.range
    if config.data.intensity.mode not in ("minmax", "percentile"):
        bounds = real.min(), real.max()
    conditions = choose(
        config.cond,
        num=len(rows),
        classes=facts.classes,
        mask_labels=facts.mask_labels,
        size=facts.size,
        split=lambda: arrays,
        split_name=asked.split,
    )
    with tqdm(unit="image", disable=None) as bar:

        def show(what: str, done: int, total: int) -> None:
            bar.set_description(what)
            bar.total, bar.n = total, done
            bar.refresh()

        restore(
            asked.out,
            network=trained.model.network,
            params=trained.params,
            condition=trained.model.condition,
            sources=sources,
            real=real,
            conditions=conditions,
            steps=asked.steps,
            bounds=tuple(map(float, bounds)),
            batch=asked.batch,
            overwrite=asked.overwrite,
            progress=show,
            settings={
                "checkpoint": trained.checkpoint_hash,
                "training_step": trained.step,
                "split": asked.split,
                "data": hash_arrays({"real": real, **sources}),
                "seed": asked.seed,
            },
        )
    print((asked.out / "restoration.md").read_text(), end="")
    print(f"see comparison.png and strip.png in {asked.out}")


def main(arguments: Sequence[str]) -> None:
    asked = flags(arguments)
    asked.call(asked)


if __name__ == "__main__":
    cli.run(main)
