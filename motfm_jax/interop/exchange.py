"""Runs from checkpoints of the PyTorch original, and checkpoints for it from runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from motfm_jax import build, datasets, runs
from motfm_jax.data.files import content_hash
from motfm_jax.data.pickles import PickleSet
from motfm_jax.data.records import Facts
from motfm_jax.interop import original, torch_weights
from motfm_jax.io.checkpoints import Checkpoints
from motfm_jax.io.run_folder import CONVERTED, open_run
from motfm_jax.model import Bundle
from motfm_jax.settings import check
from motfm_jax.training.state import TrainState


class Converted(NamedTuple):
    """What came of a conversion: the run, where its weights are from, and what to know of it."""

    trained: Bundle
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
    """A run directory with the weights of the PyTorch original, at step 0 and without optimiser.

    Args:
      weights: its .ckpt, .pth, .pt or .safetensors.
      out: run directory to write.
      yaml: its config; None where the checkpoint holds it.
      data: the .pkl it was trained on, which gives size, intensity, classes and mask labels.
      size: S, where there is no data or its images are to be fitted to another size.
      overwrite: replace the run at `out`.

    Raises:
      ValueError: a file that cannot be read, a field or parameter that does not fit: all are named.
    """
    read = torch_weights.read_torch_weights(weights)
    said = _config(read, weights, yaml)
    config, notes = said.config, list(said.notes)
    if data:
        config.data.root = str(data)
        size = size or _image_size(data, len(config.data.size))
    if size:
        if len(size) != len(config.data.size):
            raise ValueError(
                f"--size {' '.join(map(str, size))}: the network is {len(config.data.size)}-D"
            )
        config.data.size = tuple(size)
        probe = config.copy_and_resolve_references()
        probe.data.root = config.data.root or "unknown"
        check(probe)
    facts = datasets.data(config).facts if data else _facts_without_data(said, config)
    if facts.channels != said.channels:
        raise ValueError(
            f"{data}: images of {facts.channels} channels, the network has {said.channels}"
        )
    if said.num_classes and len(facts.classes) != said.num_classes:
        raise ValueError(
            f"{data}: {len(facts.classes)} classes ({', '.join(facts.classes)}), the network has "
            f"{said.num_classes} (cross_attention_dim); give the data it was trained on"
        )
    model = build.architecture(config, facts)
    wanted = jax.eval_shape(model.init, jax.random.key(0))
    params = torch_weights.from_torch(read.state, wanted, str(weights))
    _write(
        out,
        config,
        facts,
        params,
        overwrite,
        {
            "from": str(weights),
            "blake2b": content_hash(weights),
            "origin": read.origin,
            "step": read.step,
            "notes": notes,
        },
    )
    return Converted(runs.load_run(out), read.origin, said.solver, notes)


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
    if trained.config.flow.source != "noise":
        raise ValueError(
            f"{run}: config.flow.source={trained.config.flow.source!r}; the original's flow starts "
            "from noise"
        )
    config, notes = original.to_yaml(trained.config, trained.facts)
    torch_weights.write_torch_weights(
        out, torch_weights.to_torch(trained.params), config, trained.step
    )
    return trained, notes


def _config(
    read: torch_weights.TorchWeights, weights: Path, yaml: Path | None
) -> original.Translation:
    """The original's config, from its file or the checkpoint; where both are there they agree."""
    inside = read.config if read.config and "model_args" in read.config else None
    if yaml is None:
        if inside is None:
            raise ValueError(f"{weights}: holds no config; give the original's YAML with --config")
        return original.translate(inside, str(weights))
    said = original.translate(original.read_yaml(yaml), str(yaml))
    if inside is not None:
        other = original.translate(inside, str(weights))
        differing = [
            f"model.{name} {said.config.model[name]} there, {other.config.model[name]} here"
            for name in said.config.model
            if said.config.model[name] != other.config.model[name]
        ]
        if said.config.cond != other.config.cond:
            differing.append(f"cond {said.config.cond} there, {other.config.cond} here")
        if differing:
            raise ValueError(
                f"{weights}: was trained by another config than {yaml}: {'; '.join(differing)}; "
                "leave --config out to use the checkpoint's own"
            )
    return said


def _facts_without_data(said: original.Translation, config: ConfigDict) -> Facts:
    unknown = ["classes", "mask_labels", "intensity", "spacing_mm", "affine"]
    labels = [f"label {value}" for value in range(1, said.mask_channels)]
    return Facts(
        size=tuple(config.data.size),
        channels=said.channels,
        classes=tuple(map(str, range(said.num_classes))),
        mask_labels=("background", *labels) if labels else (),
        intensity=None,
        unknown=tuple(unknown if all(config.data.size) else ["size", *unknown]),
    )


def _image_size(data: Path, dims: int) -> tuple[int, ...]:
    """Of the first training image of a .pkl."""
    image = PickleSet(data, "train", (1,) * dims).entries[0]["image"]
    # (1, H, W) is an image with a channel, not a volume one voxel deep.
    space = image.shape[-dims:] if image.ndim in (dims, dims + 1) else ()
    if not space or space[0] == 1:
        raise ValueError(f"{data}: images {image.shape}, the network is {dims}-D")
    return space


def _write(
    out: Path,
    config: ConfigDict,
    facts: Facts,
    params: Mapping[str, np.ndarray],
    overwrite: bool,
    record: Mapping[str, Any],
) -> None:
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=None,
        opt_state=(),
        halted=jnp.zeros((), bool),
    )
    resolved, known = config.to_dict(), facts.to_json()
    with open_run(out, resolved, overwrite=overwrite) as run:
        run.write_json("facts.json", known)
        run.write_json(CONVERTED, record)
        checkpoints = Checkpoints(run.checkpoints, resolved, known)
        checkpoints.save(0, state)
        checkpoints.wait()
        checkpoints.close()
