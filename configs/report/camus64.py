"""CAMUS at 64 x 64 on a CPU: hours, resumable.

    .venv/bin/python scripts/report.py --plan=configs/report/camus64.py --out=report \
        --echo-root=CAMUS --brain-root=BRAINS

Every system is trained the same number of updates. BRAINS is a Decathlon folder of one channel.
"""

from motfm_jax.report.plan import Anatomy, Plan

PLAN = Plan(
    title="MOTFM and what it is compared with, CAMUS at 64 x 64",
    notes="size=small, 1,000 updates each (of 16 images, 4 volumes), on a CPU; ResNet18 and "
    "UNet-Res18 of half the published width, 10 epochs, one seed. The paper's 384 px, 200 epochs "
    "and ResNet50 need a GPU and were not run.",
    echo=Anatomy(
        "configs/camus.py", "size=small",
        settings={"data.split": "paper", "train.steps": 1000, "train.eval_every": 500,
                  "train.save_every": 250, "train.sample_every": 1000},
        num=200),
    brain=Anatomy(
        "configs/brain.py", "size=small",
        settings={"train.steps": 1000, "train.eval_every": 500, "train.save_every": 250,
                  "train.sample_every": 1000},
        systems=("D", "M"), num=64),
    depths=(18,), width=32, epochs=10, seeds=1,
)  # fmt: skip
