"""The whole report on simulated scans, small enough for two CPU cores: about half an hour.

motfm report --plan=phantom --out=report
"""

from motfm_jax.report.plan import Anatomy, Plan

PLAN = Plan(
    title="MOTFM and what it is compared with, on simulated scans",
    notes="A rehearsal: tiny networks, a few hundred updates. It shows that everything works, not "
    "which system is better.",
    echo=Anatomy(
        "phantom",
        "size=debug",
        settings={
            "train.steps": 300,
            "train.eval_every": 100,
            "train.save_every": 100,
            "train.sample_every": 300,
            "train.log_every": 50,
        },
        of_method={"flow_map": {"train.steps": 100}},
        num=64,
    ),
    brain=Anatomy(
        "phantom",
        "anatomy=brain,size=debug",
        settings={
            "train.steps": 200,
            "train.eval_every": 100,
            "train.save_every": 100,
            "train.sample_every": 200,
            "train.log_every": 50,
            "data.phantom_patients": 140,
        },
        systems=("D", "M"),
        num=32,
    ),
    depths=(18,),
    width=16,
    epochs=5,
    seeds=1,
)
