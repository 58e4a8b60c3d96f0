"""The main job on simulated scans: train, sample with 1 and with 10 network calls, draw.

    bash scripts/demo.sh

leaves runs/demo/: a flow, and in runs/demo/map the flow map learned from it, which needs one call.
Interrupted, the same command continues.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import motfm_jax as motfm
from motfm_jax import cli, presets
from motfm_jax.data.cache import Arrays
from motfm_jax.io import malloc, pictures, tiles
from motfm_jax.io.progress import progress_bar
from motfm_jax.metrics.contrast import darker_share
from motfm_jax.settings import check, default, from_json

RUN = Path("runs/demo")
NUM, SHOWN = 200, 8
# Folder of the samples: title, whether of the flow map, calls.
SETS = {
    "one_call": ("flow, 1 call", False, 1),
    "map_one_call": ("map, 1 call", True, 1),
    "ten_calls": ("flow, 10 calls", False, 10),
}
NEXT = """
What next:
  paint a mask      .venv/bin/pip install -e '.[app]' && .venv/bin/motfm app --run={run}
  more samples      .venv/bin/motfm sample --run={run} --num=16 --steps=5 --out=samples
  check your data   .venv/bin/motfm prepare check --layout=camus --root=CAMUS
  train on it       .venv/bin/motfm train --config=camus:size=small --config.data.root=CAMUS \\
                        --workdir=runs/camus
  export            .venv/bin/motfm export --run={run} --out=exported"""


def main(arguments: Sequence[str]) -> None:
    if arguments:
        raise ValueError(f"{arguments[0]!r}: the demo takes no arguments")
    malloc.keep_freed()
    demo(RUN)


def demo(run: Path) -> float:
    """Trains in `run` (or continues there), samples and draws; returns the share of images whose
    cavity is darker than their myocardium."""
    flow_plan, map_plan = config(), map_config(run)
    check_same_demo(run, flow_plan)
    check_same_demo(run / "map", map_plan)
    print("training a flow, which makes an image in any number of network calls")
    flow = motfm.train(flow_plan, run, resume=True)
    print("\ntraining its flow map, which makes one in a single call")
    flow_map = motfm.train(map_plan, run / "map", resume=True)
    real = flow.data("valid")
    generated = {}
    for name, (title, mapped, steps) in SETS.items():
        print(f"sampling {NUM} images: {title}")
        model = flow_map if mapped else flow
        with progress_bar() as progress:
            samples = model.sample(
                NUM, steps=steps, trajectory=steps > 1, timed=True, progress=progress
            )
        samples.save(run / name, overwrite=True)
        print(f"  {samples.generated.seconds_per_image * 1e3:.3g} ms an image after warm-up")
        generated[name] = samples.images
    draw(run / "picture.png", generated, real, samples)
    labels = flow.facts.mask_labels
    share, number = darker_share(
        generated["ten_calls"], samples.masks, labels.index("cavity"), labels.index("myocardium")
    )
    print(
        f"\n{share:.1%} of {number} ten-call images have a cavity darker than the myocardium, as "
        f"their masks ask (expected: at least 95%)\n\nLook at:\n"
        f"  {run}/picture.png               masks, simulated scans, generated sets\n"
        f"  {run}/ten_calls/trajectory.png  from noise to image\n"
        f"  {run}/loss.png                  training and validation loss\n"
        f"  {run}/ten_calls/samples.npz     images, masks, classes; samples.json tells how\n"
        f"  {run}/checkpoints/              weights; {run}/config.json the resolved config"
    )
    print(NEXT.format(run=run))
    return share


def config() -> ConfigDict:
    """Of the flow: small enough for two cores and some minutes."""
    chosen = default()
    chosen.cond = "mask+class"
    presets.apply(chosen, 2, "small")
    chosen.update(
        data=dict(phantom_patients=200, size=(40, 40)),
        train=dict(
            steps=300,
            lr=1e-3,
            warmup=20,
            ema=0.98,
            log_every=20,
            eval_every=100,
            sample_every=150,
            save_every=100,
        ),
    )
    check(chosen)
    return chosen


def map_config(teacher: Path) -> ConfigDict:
    """Of the flow map that learns from the flow: a quarter of its updates, each 5/3 as dear."""
    chosen = config()
    chosen.method = "flow_map"
    chosen.train.update(teacher=str(teacher), steps=75, lr=3e-4, warmup=10, schedule="cosine")
    check(chosen)
    return chosen


def check_same_demo(run: Path, plan: ConfigDict) -> None:
    """Raises ValueError where another version of the demo has left its run."""
    path = run / "config.json"
    if path.exists() and from_json(json.loads(path.read_text())) != plan:
        raise ValueError(f"{run}: was left by another version of the demo; delete it, then again")


def draw(path: Path, generated: dict[str, np.ndarray], real: Arrays, samples: Any) -> None:
    """A picture with a row each of masks, simulated scans and generated sets."""
    chosen = np.linspace(0, min(NUM, len(real)) - 1, SHOWN).astype(int)
    view = tiles.shared_view(real.images[chosen])
    rows = [[tiles.mask_tile(samples.masks[index]) for index in chosen]]
    for source in (real.images, *generated.values()):
        rows.append([tiles.image_tile(source[index], view) for index in chosen])
    pictures.write_grid(
        path,
        rows,
        row_titles=["mask", "simulated", *(title for title, _, _ in SETS.values())],
        column_titles=[real.classes[samples.labels[index]] for index in chosen],
        caption=view.caption(1),
    )


if __name__ == "__main__":
    cli.run(main)
