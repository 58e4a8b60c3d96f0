"""One request for images, from weights to arrays or to a folder of outputs."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from motfm_jax.core import Progress
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.model import Bundle
from motfm_jax.sampling import generate, outputs
from motfm_jax.sampling.conditions import Conditions
from motfm_jax.sampling.generate import Generated, Request


@dataclasses.dataclass(frozen=True)
class Samples:
    """Generated images with how they were generated.

    Attributes:
      model: what they were sampled from.
      conditions: of the N images.
      request: how.
      generated: the images, with counts of steps and network calls.
      trajectory: [T, K, *S, C] of the first K images where the request asks for it, else None.
    """

    model: Bundle
    conditions: Conditions
    request: Request
    generated: Generated
    trajectory: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.conditions)

    def __repr__(self) -> str:
        return f"Samples(images {self.images.shape}, {self.request.solver}, of {self.model!r})"

    @property
    def images(self) -> np.ndarray:
        """[N, *S, C] float32, in the units of the training data (of the network if raw)."""
        return self.generated.images

    @property
    def masks(self) -> np.ndarray | None:
        """[N, *S] uint8 labels that the images were made from, or that were made with them, or
        None."""
        made = self.generated.masks
        return self.conditions.masks if made is None else made

    @property
    def labels(self) -> np.ndarray | None:
        """[N] int32 class indices that the images were made for, or None."""
        return self.conditions.labels

    @property
    def calls(self) -> np.ndarray:
        """[N] int32, NFE: the network calls of each image."""
        return self.generated.calls

    def show(self) -> Image.Image:
        """The grid of grid.png, with masks drawn over and class names; a notebook displays it."""
        with tempfile.TemporaryDirectory() as folder:
            outputs.draw_grid(Path(folder) / "grid.png", self)
            with Image.open(Path(folder) / "grid.png") as picture:
                return picture.convert("RGB")

    def save(self, out: str | Path, overwrite: bool = False) -> dict[str, Any]:
        """Writes what `motfm sample` writes: samples.npz, grid.png, samples.json, ... .

        Args:
          out: folder, made where it does not exist.
          overwrite: replace the images of other settings there.

        Returns:
          The sidecar, samples.json.

        Raises:
          ValueError: the folder holds images of other settings, or other things.
        """
        with outputs.claim(Path(out), self.settings(), overwrite) as folder:
            if folder is not None:
                outputs.write(Path(out), self)
        return outputs.read_sidecar(Path(out))

    def settings(self) -> dict[str, Any]:
        """Everything that the images depend on, JSON-able."""
        return settings_of(self.model, self.conditions, self.request)


def check_request(model: Bundle, conditions: Conditions, request: Request) -> None:
    """Raises ValueError for a request that cannot be carried out."""
    solver, start = request.solver, request.start
    if start is not None and start.shape != (len(conditions), *model.shape):
        raise ValueError(
            f"noise {start.shape} for {len(conditions)} images {model.shape}: one row each needed"
        )
    if not 0 <= request.seed < 2**32:
        raise ValueError(f"--seed={request.seed}: a whole number from 0 to {2**32 - 1} needed")
    if start is not None and solver.draws_noise:
        raise ValueError(
            "--noise with --eta above 0: that draws fresh noise on the way, from a seed; leave "
            "--noise out, or set --eta=0"
        )
    if request.trajectory and solver.num_steps is None:
        raise ValueError(
            "--trajectory with --solver=adaptive: each image takes its own times; use another "
            "solver"
        )
    if request.pickle and conditions.raw_masks:
        raise ValueError(
            "--pickle with --masks of floats: that layout holds label numbers; leave --pickle out"
        )
    if request.png and len(model.facts.size) == 3:
        raise ValueError("--png of volumes: only frames are single pictures; use --nifti")
    if request.batch:
        generate.check_batch(request.batch)


def settings_of(model: Bundle, conditions: Conditions, request: Request) -> dict[str, Any]:
    """What images of a request depend on, JSON-able: other settings are other images."""
    dims, start = len(model.facts.size), request.start
    return {
        "checkpoint": model.checkpoint_hash,
        "training_step": model.step,
        "num": len(conditions),
        "conditions": conditions.digest(),
        "seed": request.seed if start is None else None,
        "noise": None if start is None else hash_arrays({"noise": start}),
        "raw": request.raw,
        "solver": request.solver.settings(),
        "batch": request.batch or generate.default_batch(len(conditions), dims),
        "trajectory": request.trajectory,
        "nifti": dims == 3 if request.nifti is None else request.nifti,
        "pickle": request.pickle,
        **({"png": True} if request.png else {}),  # folders of 0.1.0 do not state it
    }


def sample(
    model: Bundle,
    conditions: Conditions,
    request: Request,
    *,
    folder: Path | None = None,
    timed: bool = False,
    progress: Progress | None = None,
) -> Samples:
    """Generates images, and the way of the first of them where the request asks for it.

    Args:
      model, conditions, request, folder, timed, progress: see `generate.generate`.

    Raises:
      ValueError: a request that cannot be carried out, or images that are not finite.
    """
    if request.start is not None:
        request = request._replace(start=request.start[: len(conditions)])
    check_request(model, conditions, request)
    generated = generate.generate(
        model, conditions, request, folder=folder, timed=timed, progress=progress
    )
    trajectory = None
    if request.trajectory:
        trajectory = generate.generate_trajectory(
            model, conditions, request, generate.TRAJECTORY_IMAGES
        )
    return Samples(model, conditions, request, generated, trajectory)


def sample_to_folder(
    out: Path,
    model: Bundle,
    conditions: Conditions,
    request: Request,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generates images and writes them; continues an interrupted call.

    Args:
      out: see `outputs.claim`.
      model, conditions, request: see `generate.generate`.
      overwrite: see `outputs.claim`.
      progress: called after each batch.

    Returns:
      The sidecar.

    Raises:
      ValueError: a request that cannot be carried out, an output folder that cannot be had, or
        images that are not finite.
    """
    out = Path(out)
    if request.start is not None:
        request = request._replace(start=request.start[: len(conditions)])
    check_request(model, conditions, request)
    with outputs.claim(out, settings_of(model, conditions, request), overwrite) as folder:
        if folder is None:
            if progress:
                progress("images", len(conditions), len(conditions))
        else:
            samples = sample(
                model, conditions, request, folder=folder, timed=True, progress=progress
            )
            outputs.write(out, samples)
    return outputs.read_sidecar(out)
