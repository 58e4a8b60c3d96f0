"""A report on simulated scans in half an hour of a core: a flow and its flow map, and denoising.

motfm report --plan=docs/results/2026-11-30-phantom-plan.py --out=report
"""

from motfm_jax.report.plan import Anatomy, Plan

TRAIN = {
    "train.eval_every": 200,
    "train.save_every": 200,
    "train.sample_every": 600,
    "train.warmup": 25,
    "train.schedule": "cosine",
    "train.ema": 0.98,
}

PLAN = Plan(
    title="A flow and its flow map, on simulated scans",
    notes="Debug networks and 600 updates: the page is shown, not a comparison.",
    echo=Anatomy(
        "phantom",
        "size=debug",
        settings={"train.steps": 600, **TRAIN},
        of_method={"flow_map": {"train.steps": 200, "train.lr": 3e-4}},
        systems=("M-CM", "F-CM"),
        num=64,
    ),
    brain=Anatomy(
        "phantom",
        "anatomy=brain,size=debug",
        settings={"train.steps": 600, "data.phantom_patients": 140, **TRAIN},
        of_method={"flow_map": {"train.steps": 200, "train.lr": 3e-4}},
        systems=("M", "F"),
        num=16,
    ),
    steps=(1, 10),
    depths=(),
)
