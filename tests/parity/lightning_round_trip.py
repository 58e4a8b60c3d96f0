"""A checkpoint of Lightning's own Trainer goes through convert.py, samples alike, and comes back.

    PYTHONPATH=. python tests/parity/lightning_round_trip.py --out=FOLDER

trains MONAI's networks (mask + class, small) in PyTorch for a minute on simulated scans, converts
`last.ckpt`, samples from the same noise in PyTorch and with sample.py, draws both side by side
(side_by_side.png), prints the largest difference, and loads what to-torch writes with strict=True.
The environment is that of test_live.py, with lightning.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import torch
import yaml
from torch_original import Original, Structure, euler, flow_loss

from motfm_jax.data.convert import to_pickle
from motfm_jax.data.phantom import PhantomEcho
from motfm_jax.data.pickles import read_pickle
from motfm_jax.io import pictures

ROOT = Path(__file__).parents[2]
SIZE, CLASSES, STEPS, SHOWN = (32, 32), 4, 10, 8
STRUCTURE = Structure(
    dims=2,
    channels=(16, 32, 32),
    res_blocks=1,
    attention=(False, False, True),
    norm_groups=8,
    num_classes=CLASSES,
    transformer_layers=1,
    mask_channels=1,
)
YAML = {
    "model_args": {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1,
        "num_res_blocks": [1, 1, 1],
        "num_channels": [16, 32, 32],
        "attention_levels": [False, False, True],
        "norm_num_groups": 8,
        "resblock_updown": True,
        "num_head_channels": [16, 32, 32],
        "transformer_num_layers": 1,
        "use_flash_attention": False,
        "with_conditioning": True,
        "mask_conditioning": True,
        "cross_attention_dim": CLASSES,
        "conditioning_embedding_num_channels": [16],
    },
    "data_args": {"pickle_path": "dataset.pkl", "split_train": "train", "split_val": "valid"},
    "train_args": {"num_epochs": 1, "batch_size": 8, "lr": 1e-3, "gradient_accumulation_steps": 1},
    "solver_args": {"method": "euler", "step_size": 1 / STEPS, "time_points": STEPS},
}


class Module(lightning.LightningModule):
    """The network under the name that the original's module gives it, `model`."""

    def __init__(self, config: dict):
        super().__init__()
        self.save_hyperparameters(config)
        self.model = Original(STRUCTURE)

    def training_step(self, batch, _):
        image, mask, label = batch
        t = torch.rand(len(image))
        return flow_loss(self.model, torch.randn_like(image), image, t, mask=mask, label=label)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def tensors(path: Path, split: str) -> list[torch.Tensor]:
    """Images in [0, 1], masks scaled, classes one-hot, as the original's loader has them."""
    entries = read_pickle(path)[split]
    classes = sorted({entry["class"] for entry in read_pickle(path)["train"]})
    image, mask = (
        torch.from_numpy(np.stack([entry[name] for entry in entries])).float()
        for name in ("image", "mask")
    )
    label = torch.tensor([classes.index(entry["class"]) for entry in entries])
    one_hot = torch.nn.functional.one_hot(label, CLASSES).float()
    scale = lambda values: (values - values.min()) / (values.max() - values.min())  # noqa: E731
    return [scale(image), scale(mask), one_hot]


def script(name: str, *arguments: object) -> None:
    subprocess.run(
        [sys.executable, f"scripts/{name}.py", *map(str, arguments)],
        cwd=ROOT,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--steps", default=300, type=int, help="optimiser updates in PyTorch")
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    to_pickle(lambda split: PhantomEcho(split, SIZE, 100, "view_phase", 0), out / "dataset.pkl")
    (out / "original.yaml").write_text(yaml.safe_dump(YAML))

    lightning.seed_everything(0)
    module = Module(YAML)
    train = torch.utils.data.TensorDataset(*tensors(out / "dataset.pkl", "train"))
    trainer = lightning.Trainer(
        max_steps=asked.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(train, batch_size=8, shuffle=True))
    trainer.save_checkpoint(out / "last.ckpt")

    script(
        "convert",
        "from-torch",
        f"--ckpt={out / 'last.ckpt'}",
        f"--config={out / 'original.yaml'}",
        f"--data={out / 'dataset.pkl'}",
        f"--out={out / 'run'}",
    )
    _, mask, label = (values[:SHOWN] for values in tensors(out / "dataset.pkl", "valid"))
    noise = torch.randn(SHOWN, 1, *SIZE)
    with torch.no_grad():
        theirs = euler(module.model.eval(), noise, STEPS, mask=mask, label=label)[-1]
    last = lambda values: np.moveaxis(values.numpy(), 1, -1)  # noqa: E731
    for name, values in (
        ("noise", last(noise)),
        ("masks", last(mask)),
        ("classes", label.argmax(1).numpy()),
    ):
        np.save(out / f"{name}.npy", values)
    script(
        "sample",
        f"--run={out / 'run'}",
        f"--steps={STEPS}",
        f"--noise={out / 'noise.npy'}",
        f"--masks={out / 'masks.npy'}",
        f"--classes={out / 'classes.npy'}",
        "--raw",
        f"--out={out / 'samples'}",
    )
    ours, theirs = np.load(out / "samples" / "samples.npz")["images"], last(theirs)
    pictures.write_samples(
        out / "side_by_side.png",
        np.concatenate([theirs, ours]),
        columns=SHOWN,
        caption="generated from the same noise; first row PyTorch, second row motfm_jax",
    )
    difference = float(np.abs(ours - theirs).max())

    script("convert", "to-torch", f"--run={out / 'run'}", f"--out={out / 'back.ckpt'}")
    back = Module.load_from_checkpoint(out / "back.ckpt", strict=True).state_dict()
    there = module.state_dict()
    assert there.keys() == back.keys()
    assert all(torch.equal(there[name], back[name]) for name in there)
    print(
        json.dumps(
            {
                "largest pixel difference": difference,
                "smallest": float(theirs.min()),
                "largest": float(theirs.max()),
                "parameters back, bit for bit": len(back),
                "torch": torch.__version__,
                "lightning": lightning.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
