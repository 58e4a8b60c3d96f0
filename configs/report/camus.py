"""The paper's comparison: CAMUS at 384 x 384 and brain MRI at 96 x 96 x 96, for a GPU.

    motfm report --plan=camus --out=report \
        --echo-root=CAMUS --brain-root=Task01_BrainTumour

The paper gives: 200 epochs, 2,000 images a cell at 1, 10 and 50 steps, a split of 1,400, 200 and
200 images, Adam and 50 epochs downstream. It does not give DDPM's schedule and levels (here linear;
both choices of levels), nor the brain's epochs (100, as the original's config has them).
Flow maps are not of the paper.
"""

from motfm_jax.report.plan import Anatomy, Plan

# Three fifths of the flow's epochs, each 5/3 as dear.
MAP = {"flow_map": {"train.epochs": 120}}

PLAN = Plan(
    title="MOTFM and what it is compared with: CAMUS and brain MRI",
    echo=Anatomy("camus", "size=paper", settings={"data.split": "paper"}, of_method=MAP),
    brain=Anatomy(
        "brain",
        "size=paper",
        settings={"data.channel": "T1w"},
        of_method={"flow_map": {"train.epochs": 60}},
        systems=("D", "M", "F"),
    ),
)
