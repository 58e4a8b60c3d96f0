"""CAMUS at 32 x 32 in an evening of two CPU cores; resumable.

    motfm report --plan=camus32 --out=report --echo-root=CAMUS

Every system is trained 800 updates of 16 images. A flow map begins with its flow and takes 320
more, each 5/3 as dear. Flows and flow maps are trained three times.
"""

from motfm_jax.report.plan import Anatomy, Plan

PLAN = Plan(
    title="MOTFM and what it is compared with, CAMUS at 32 x 32",
    notes="size=small, 800 updates of 16 images each; DDIM with trailing levels alone; ResNet18 "
    "and UNet-Res18 of a quarter of the published width, 8 epochs, one seed of these. The paper's "
    "384 px, 200 epochs and ResNet50 need a GPU and were not run.",
    echo=Anatomy(
        "camus",
        "size=small",
        settings={
            "data.split": "paper",
            "data.size": (32, 32),
            "flow.shift": 1.0,  # equal steps, as MOTFM has them
            "train.steps": 800,
            "train.eval_every": 200,
            "train.save_every": 200,
            "train.sample_every": 800,
            "train.lr": 1e-3,
            "train.warmup": 50,
            "train.schedule": "cosine",
            "train.ema": 0.99,
        },
        of_method={"flow_map": {"train.steps": 320, "train.lr": 3e-4}},
        num=200,
    ),
    spacings=("trailing",),
    depths=(18,),
    width=16,
    epochs=8,
    seeds=1,
    repeats=3,
    denoise=None,
)
