"""The main job on simulated scans: train, sample with 1 and with 10 network calls, draw."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from motfm_jax import datasets, presets, runs
from motfm_jax.data.cache import Arrays
from motfm_jax.io import images
from motfm_jax.methods.ode import Solver
from motfm_jax.metrics.contrast import darker_share
from motfm_jax.sampling.conditions import Conditions, choose
from motfm_jax.sampling.sample import Checkpoint, Request, sample_to_folder
from motfm_jax.settings import check, default, from_json
from motfm_jax.trainer import train

NUM, SHOWN = 200, 8
CALLS = {"one_call": 1, "ten_calls": 10}
NEXT = """
What next:
  more samples      .venv/bin/python scripts/sample.py --run={run} --num=16 --steps=5 --out=samples
  check your data   .venv/bin/python scripts/prepare_data.py check --layout=camus --root=CAMUS
  train on it       .venv/bin/python scripts/train.py --config=configs/camus.py:size=small \\
                        --config.data.root=CAMUS --workdir=runs/camus
  export            .venv/bin/python scripts/export.py --run={run} --out=exported"""


def config() -> ConfigDict:
    """Small enough for two cores and five minutes."""
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


def demo(run: Path) -> float:
    """Trains in `run` (or goes on there), samples and draws; returns the share of images whose
    cavity is darker than their myocardium."""
    check_same_demo(run)
    if train(config(), run, resume=True).stopped_by:
        raise KeyboardInterrupt  # saved; the same command goes on
    trained = runs.load_run(run)
    real = datasets.arrays(trained.config, "valid")
    conditions = choose(
        trained.config.cond,
        num=NUM,
        classes=trained.facts.classes,
        mask_labels=trained.facts.mask_labels,
        size=trained.facts.size,
        split=lambda: real,
        split_name="valid",
    )
    made = {}
    for name, steps in CALLS.items():
        print(f"sampling {NUM} images with {steps} network call{'s' * (steps > 1)} each")
        sidecar = sample_to_folder(
            run / name,
            Request(Solver("euler", steps), trajectory=steps > 1),
            conditions,
            network=trained.model.network,
            params=trained.params,
            condition=trained.model.condition,
            kind=trained.config.cond,
            facts=trained.facts,
            intensity=trained.intensity,
            checkpoint=Checkpoint(str(run), trained.checkpoint_hash, trained.step),
            overwrite=True,
        )
        print(f"  {sidecar['seconds_per_image'] * 1e3:.3g} ms an image after warm-up")
        made[name] = np.load(run / name / "samples.npz")["images"]
    draw(run / "picture.png", made, real, conditions)
    labels = trained.facts.mask_labels
    share, number = darker_share(
        made["ten_calls"], conditions.masks, labels.index("cavity"), labels.index("myocardium")
    )
    print(
        f"\n{share:.1%} of {number} ten-call images have a cavity darker than the myocardium, as "
        f"their masks ask (expected: at least 95%)\n\nLook at:\n"
        f"  {run}/picture.png               mask, simulated scan, 1 call, 10 calls\n"
        f"  {run}/ten_calls/trajectory.png  from noise to image\n"
        f"  {run}/loss.png                  training and validation loss\n"
        f"  {run}/ten_calls/samples.npz     images, masks, classes; samples.json says how\n"
        f"  {run}/checkpoints/              weights; {run}/config.json the resolved config"
    )
    print(NEXT.format(run=run))
    return share


def check_same_demo(run: Path) -> None:
    """Raises ValueError where another version of the demo has left its run."""
    path = run / "config.json"
    if path.exists() and from_json(json.loads(path.read_text())) != config():
        raise ValueError(f"{run}: was left by another version of the demo; delete it, then again")


def draw(path: Path, made: dict[str, np.ndarray], real: Arrays, conditions: Conditions) -> None:
    """A picture with a row each of masks, simulated scans, 1 call and 10 calls."""
    chosen = np.linspace(0, min(NUM, len(real)) - 1, SHOWN).astype(int)
    window = images.shared_window(real.images[chosen])
    rows = [[images.mask_tile(conditions.masks[index]) for index in chosen]]
    for source in (real.images, *made.values()):
        rows.append([images.grey_tile(source[index], window) for index in chosen])
    images.write_grid(
        path,
        rows,
        row_titles=["mask", "simulated", "1 call", "10 calls"],
        column_titles=[real.classes[conditions.labels[index]] for index in chosen],
        caption=images.window_caption(window),
    )
