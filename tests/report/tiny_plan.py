"""A report of every kind of stage, in a few minutes on two cores."""

from motfm_jax.report.plan import Anatomy, Plan

TINY = {"train.steps": 2, "train.sample_every": 2, "train.batch_size": 4}
MODEL = {"model.channels": (8, 8), "model.head_dim": 8, "model.norm_groups": 4}
PLAN = Plan(
    "Tiny & complete",
    notes="Nothing was learned.",
    echo=Anatomy(
        "configs/phantom.py",
        "size=debug",
        settings={**TINY, **MODEL, "data.size": (16, 16)},
        systems=("M-C", "D", "SD-M", "M-M", "SPADE"),
        num=6,
    ),
    brain=Anatomy(
        "configs/phantom.py",
        "anatomy=brain,size=debug",
        settings={**TINY, **MODEL, "data.size": (8, 8, 8)},
        systems=("M", "F"),
        num=4,
    ),
    steps=(1,),
    spacings=("trailing",),
    depths=(18,),
    width=8,
    epochs=1,
    seeds=1,
    repeats=2,
)
