"""CAMUS at 64 x 64 and brains at 32 x 32 x 32 on two CPU cores: days, or a GPU; resumable.

    motfm report --plan=camus64 --out=report \
        --echo-root=CAMUS --brain-root=BRAINS

Every system of an anatomy is trained the same number of updates. A flow map begins with its flow
and takes three fifths of them, each 5/3 as dear. Flows and flow maps are trained three times.
BRAINS is a Decathlon folder of one channel. Denoising has a longer training of its own, see
docs/results.
"""

from motfm_jax.report.plan import Anatomy, Plan

SHORT = {"train.lr": 1e-3, "train.warmup": 50, "train.schedule": "cosine", "train.ema": 0.99}

PLAN = Plan(
    title="MOTFM and what it is compared with, CAMUS at 64 x 64",
    notes="size=small, 2,000 updates of 16 images (600 of 4 volumes) each; DDIM with trailing "
    "levels alone; ResNet18 and UNet-Res18 of half the published width, 10 epochs, one seed of "
    "these. The paper's 384 px, 200 epochs and ResNet50 need a GPU and were not run.",
    echo=Anatomy(
        "camus",
        "size=small",
        settings={
            "data.split": "paper",
            "flow.shift": 1.0,  # equal steps, as MOTFM has them
            "train.batch_size": 16,
            "train.steps": 2000,
            "train.eval_every": 250,
            "train.save_every": 250,
            "train.sample_every": 1000,
            **SHORT,
        },
        of_method={"flow_map": {"train.steps": 1200, "train.lr": 3e-4}},
        num=200,
    ),
    brain=Anatomy(
        "brain",
        "size=small",
        settings={
            "train.steps": 600,
            "train.eval_every": 100,
            "train.save_every": 100,
            "train.sample_every": 300,
            **SHORT,
        },
        of_method={"flow_map": {"train.steps": 360, "train.lr": 3e-4}},
        systems=("D", "M", "F"),
        num=32,
    ),
    spacings=("trailing",),
    depths=(18,),
    width=32,
    epochs=10,
    seeds=1,
    repeats=3,
    denoise=None,
)
