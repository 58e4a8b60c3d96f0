"""Runs from checkpoints of the PyTorch original, and checkpoints for it from runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from motfm_jax import build, datasets, runs
from motfm_jax.data.facts import Facts
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.pickles import PickleSet
from motfm_jax.interop import original, torch_weights
from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.io.folders import differences
from motfm_jax.io.hashes import hash_file
from motfm_jax.io.run_folder import CONVERTED, open_run
from motfm_jax.model import Bundle
from motfm_jax.settings import check_network
from motfm_jax.training.state import TrainState


class Converted(NamedTuple):
    """The result of a conversion.

    Attributes:
      model: the run at `out`, read back.
      origin: the kind of file that its weights come from.
      solver: name and steps of the original's sampler.
      notes: one line for each setting that behaves differently here.
    """

    model: Bundle
    origin: str
    solver: tuple[str, int]
    notes: list[str]


def from_torch(
    weights: Path,
    out: Path,
    yaml: Path | None = None,
    data: Path | None = None,
    size: Sequence[int] = (),
    overwrite: bool = False,
) -> Converted:
    """Writes a run directory with the weights of the PyTorch original, at step 0.

    Args:
      weights: its .ckpt, .pth, .pt or .safetensors.
      out: run directory to write.
      yaml: its config; None takes the one in the checkpoint.
      data: the .pkl it was trained on: size, intensities, class names and mask labels. Without it
        names are numbered, and images stay in the network's units.
      size: spatial size S. It is required without `data`, and otherwise fits the images to it.
      overwrite: replace the run at `out`.

    Raises:
      ValueError: a file that cannot be read, a field or parameter that does not fit, no size.
    """
    contents = torch_weights.read_torch_weights(weights)
    theirs = _config(contents, weights, yaml)
    config, dims = theirs.config, len(theirs.config.data.size)
    if data:
        config.data.root = str(data)
        size = size or _image_size(data, dims)
    if not size:
        raise ValueError(
            f"{weights}: a checkpoint does not hold the size of its images; give --data with the "
            f".pkl it was trained on, or --size {' '.join('DHW'[-dims:])}"
        )
    if len(size) != dims:
        raise ValueError(f"--size {' '.join(map(str, size))}: the network is {dims}-D")
    config.data.size = tuple(size)
    check_network(config)
    facts = datasets.data(config).facts if data else _facts_without_data(theirs, config)
    if facts.channels != theirs.channels:
        raise ValueError(
            f"{data}: images of {facts.channels} channels, the network has {theirs.channels}"
        )
    if theirs.num_classes and len(facts.classes) != theirs.num_classes:
        raise ValueError(
            f"{data}: {len(facts.classes)} classes ({', '.join(facts.classes)}), the network has "
            f"{theirs.num_classes} (cross_attention_dim); give the data it was trained on"
        )
    expected = jax.eval_shape(build.architecture(config, facts).init, jax.random.key(0))
    params = torch_weights.from_torch(contents.state, expected, str(weights))
    record = {
        "from": str(weights),
        "blake2b": hash_file(weights),
        "origin": contents.origin,
        "step": contents.step,
        "notes": theirs.notes,
    }
    resolved = config.to_dict()
    with open_run(out, resolved, overwrite=overwrite) as run:
        run.write_json("facts.json", facts.to_json())
        run.write_json(CONVERTED, record)
        checkpoints = Checkpoints(run.checkpoints, resolved, facts.to_json())
        checkpoints.save(0, _untrained(params))
        checkpoints.wait()
        checkpoints.close()
    return Converted(runs.load_run(out), contents.origin, theirs.solver, theirs.notes)


def _untrained(params: Mapping[str, Any]) -> TrainState:
    """The weights as a checkpoint: no optimiser, no moving average."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=None,
        opt_state=(),
        halted=jnp.zeros((), bool),
    )


def to_torch(run: Path, out: Path, which: str | int = "best") -> tuple[Bundle, list[str]]:
    """A run's weights (the moving average where it keeps one) in the original's layout.

    Args:
      run: run directory.
      out: .ckpt (Lightning's layout, with its config), .pt, .pth (state dict) or .safetensors.
      which: "best", "last" or a step.

    Returns:
      What was written, and lines on where the original's classes behave otherwise.

    Raises:
      ValueError: no such checkpoint, or a file that exists or cannot be written.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; remove it or choose another name")
    trained = runs.load_run(run, which)
    if trained.config.method != "flow":
        raise ValueError(
            f"{run}: config.method={trained.config.method!r}; the original is a flow and would "
            "take the estimated noise for a velocity"
        )
    if trained.config.flow.prediction != "velocity":
        raise ValueError(
            f"{run}: config.flow.prediction={trained.config.flow.prediction!r}; the original would "
            "take the estimated image for a velocity"
        )
    if trained.config.flow.source != "noise":
        raise ValueError(
            f"{run}: config.flow.source={trained.config.flow.source!r}; the original's flow starts "
            "from noise"
        )
    if trained.config.model.front != "none":
        raise ValueError(
            f"{run}: config.model.front={trained.config.model.front!r}; the original's network has "
            "no front"
        )
    if trained.facts.label_channels:
        raise ValueError(
            f"{run}: config.data.generate={trained.config.data.generate!r}; the original makes "
            "images alone"
        )
    config, notes = original.to_yaml(trained.config, trained.facts)
    torch_weights.write_torch_weights(
        out, torch_weights.to_torch(_sampling(trained.params)), config, trained.step
    )
    return trained, notes


def _sampling(params: Mapping[str, Any]) -> dict[str, Any]:
    """Without what tells of augmentation, which adds nothing at sampling."""
    return {name: leaf for name, leaf in params.items() if "/augment_embed/" not in name}


def _config(
    contents: torch_weights.TorchWeights, weights: Path, yaml: Path | None
) -> original.Translation:
    """The original's config, from its file or the checkpoint; if both exist, they must agree."""
    saved = contents.config if contents.config and "model_args" in contents.config else None
    if yaml is None:
        if saved is None:
            raise ValueError(f"{weights}: holds no config; give the original's YAML with --config")
        return original.translate(saved, str(weights))
    theirs = original.translate(original.read_yaml(yaml), str(yaml))
    if saved is not None:
        other = original.translate(saved, str(weights))
        parts = [
            {"cond": each.config.cond, "model": each.config.model.to_dict()}
            for each in (other, theirs)
        ]
        changed = differences(*parts)
        if changed:
            raise ValueError(
                f"{weights}: was trained by another config than {yaml}: {'; '.join(changed)} "
                "there; leave --config out to use the checkpoint's own"
            )
    return theirs


def _facts_without_data(theirs: original.Translation, config: ConfigDict) -> Facts:
    num_labels = max(theirs.mask_channels, 2) if theirs.mask_channels else 0
    labels = [f"label {value}" for value in range(1, num_labels)]
    return Facts(
        size=tuple(config.data.size),
        channels=theirs.channels,
        classes=tuple(map(str, range(theirs.num_classes))),
        mask_labels=("background", *labels) if labels else (),
        intensity=Intensity.fit([], mode="none").to_json(),
    )


def _image_size(data: Path, dims: int) -> tuple[int, ...]:
    """Of the first training image of a .pkl."""
    image = PickleSet(data, "train", (1,) * dims).entries[0]["image"]
    # (1, H, W) is an image with a channel, not a volume one voxel deep.
    space = image.shape[-dims:] if image.ndim in (dims, dims + 1) else ()
    if not space or space[0] == 1:
        raise ValueError(f"{data}: images {image.shape}, the network is {dims}-D")
    return space
