"""CAMUS at 64 x 64 and brains at 32 x 32 x 32 on two CPU cores: hours, resumable.

    motfm report --plan=camus64 --out=report \
        --echo-root=CAMUS --brain-root=BRAINS

Every system of an anatomy is trained the same number of updates. BRAINS is a Decathlon folder of
one channel. Denoising has a longer training of its own, see docs/results.
"""

from motfm_jax.report.plan import Anatomy, Plan

SHORT = {"train.lr": 1e-3, "train.warmup": 50, "train.schedule": "cosine", "train.ema": 0.99}

PLAN = Plan(
    title="MOTFM and what it is compared with, CAMUS at 64 x 64",
    notes="size=small, 500 updates of 8 images (200 of 4 volumes) each, on a CPU; DDIM with "
    "trailing levels alone; ResNet18 and UNet-Res18 of half the published width, 10 epochs, one "
    "seed. The paper's 384 px, 200 epochs and ResNet50 need a GPU and were not run.",
    echo=Anatomy(
        "camus",
        "size=small",
        settings={
            "data.split": "paper",
            "train.batch_size": 8,
            "train.steps": 500,
            "train.eval_every": 250,
            "train.save_every": 250,
            "train.sample_every": 500,
            **SHORT,
        },
        num=200,
    ),
    brain=Anatomy(
        "brain",
        "size=small",
        settings={
            "train.steps": 200,
            "train.eval_every": 100,
            "train.save_every": 100,
            "train.sample_every": 200,
            **SHORT,
        },
        systems=("D", "M"),
        num=32,
    ),
    spacings=("trailing",),
    depths=(18,),
    width=32,
    epochs=10,
    seeds=1,
    denoise=None,
)
