"""Reflow: a flow trained on its own pairs of noise and image, so that its paths become straight.

    .venv/bin/python docs/results/2026-11-30-reflow.py --run=runs/flow_0 --pairs=800 --updates=166 \
        --out=runs/reflow_0

Source: Liu et al. 2023 (rectified flow). The pairs come from ten calls with the masks and classes
of training images. They are trained on as an image-to-image flow whose sources are the noise; its
weights then sample from noise as the flow's do. OUT/samples1 and so on hold the images of 1, 2 and
10 calls, made as `motfm sample --split=SPLIT --shift=1` makes them: in equal steps.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

import motfm_jax as motfm

WEIGHTS = ("params", "run", "step", "checkpoint_hash")


def pairs(flow: motfm.Model, split: str, num: int, seed: int) -> list[motfm.Record]:
    """Noise and what ten calls make of it, in the network's units."""
    real = flow.data(split)
    rows = np.arange(num) % len(real)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num, *flow.facts.size, flow.facts.channels), np.float32)
    masks, labels = np.asarray(real.masks)[rows], np.asarray(real.labels)[rows]
    made = flow.sample(masks=masks, classes=labels, noise=noise, steps=10, shift=1, raw=True)
    return [
        motfm.Record(image, mask, int(label), patient=f"{split}{n}", source=start)
        for n, (image, mask, label, start) in enumerate(zip(made.images, masks, labels, noise))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--run", required=True, type=Path)
    add("--pairs", type=int, required=True)
    add("--updates", type=int, required=True)
    add("--out", required=True, type=Path)
    add("--split", default="valid")
    args = parser.parse_args()
    flow = motfm.load(args.run)
    config = flow.config.copy_and_resolve_references()
    config.unlock()
    config.data.intensity.mode = "none"
    config.data.labels = ",".join(flow.facts.mask_labels)
    config.flow.source, config.flow.source_channel = "channel", "noise"
    config.train.init_from = str(args.run)
    config.train.steps = args.updates
    config.train.lr, config.train.warmup = 3e-4, 25
    config.train.eval_every = config.train.save_every = args.updates
    own = pairs(flow, "train", args.pairs, seed=1), pairs(flow, "valid", 64, seed=2)
    trained = motfm.train(config, args.out, train=own[0], valid=own[1], resume=True)
    own_weights = {name: getattr(trained, name) for name in WEIGHTS}
    straight = dataclasses.replace(flow, **own_weights)
    for steps in (1, 2, 10):
        samples = straight.sample(num=200, split=args.split, steps=steps, shift=1)
        samples.save(args.out / f"samples{steps}")


if __name__ == "__main__":
    main()
