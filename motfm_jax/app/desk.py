"""A run of the app: its choices, and what it draws for them, apart from how a page shows it."""

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.app import pictures
from motfm_jax.data.cache import Arrays
from motfm_jax.io.tiles import View, shared_view
from motfm_jax.library import Model
from motfm_jax.methods import ode
from motfm_jax.sampling import inputs
from motfm_jax.sampling.sample import Samples

FEW, MANY = 1, 10  # the steps that are compared
SEEDS = 16
SMALL_PIXELS = 160  # the width of each of many frames
# Not adaptive: it has no number of steps.
NAMES = ("jump", "ddim", *(name for name in ode.SOLVERS if name != "adaptive"))


class Controls(NamedTuple):
    """What a user has set.

    Attributes:
      mask: [*S] labels, or None.
      label: the name of a class, or "".
      seed: of the noise.
      steps: of the solver; None for a method that has none.
      solver: its name; "" for the method's.
      guidance: weight; None without.
      outlines: whether masks are drawn over images.
      at: where volumes are cut, see `pictures.planes`.
    """

    mask: np.ndarray | None = None
    label: str = ""
    seed: int = 0
    steps: int | None = None
    solver: str = ""
    guidance: float | None = None
    outlines: bool = False
    at: Sequence[float] = (0.5, 0.5, 0.5)


class Desk:
    """One run.

    Args:
      model: that starts from noise.

    Raises:
      ValueError: a model that starts from images.
    """

    def __init__(self, model: Model):
        if model.starts_from_images:
            raise ValueError(
                f"--run={model.run}: its flow starts from images (config.flow.source="
                f"{model.config.flow.source!r}), the app shows runs that start from noise; use "
                "motfm sample or motfm evaluate restore"
            )
        self.model = model
        self.size = tuple(model.facts.size)
        self.is_volume = len(self.size) == 3

    @functools.cached_property
    def solvers(self) -> list[str]:
        """Names that the run's method knows, its own first; [] where it has no solver."""
        try:
            own = self.model.solver(steps=2).name
        except ValueError:
            return []
        return [own, *(name for name in NAMES if name != own and self._knows(name))]

    def _knows(self, name: str) -> bool:
        try:
            return self.model.solver(name, 2).name == name
        except ValueError:
            return False

    @property
    def default_steps(self) -> int | None:
        """Of the run's solver; None where there is none."""
        return self.model.solver().num_steps if self.solvers else None

    @property
    def can_be_guided(self) -> bool:
        return bool(self.solvers) and self.model.config.train.drop_condition > 0

    @functools.cached_property
    def records(self) -> Arrays | None:
        """The validation data; None where it is not on this machine."""
        try:
            return self.model.data("valid")
        except ValueError:
            return None

    def record(self, number: int) -> tuple[np.ndarray | None, str]:
        """Mask and class name of a validation image, None and "" where the run takes none."""
        if self.records is None or not 0 <= number < len(self.records):
            have = 0 if self.records is None else len(self.records)
            raise ValueError(f"validation image {number}: there are {have}, counted from 0")
        masks, labels, cond = self.records.masks, self.records.labels, self.model.cond
        mask = masks[number] if "mask" in cond and masks is not None else None
        with_class = "class" in cond and labels is not None
        return mask, self.model.facts.classes[labels[number]] if with_class else ""

    def read_mask(self, path: str | Path) -> np.ndarray:
        """The label map [*S] of a file: PNG, NIfTI or npy, padded and scaled to the run's size.

        Raises:
          ValueError: a file that is no mask of this model's labels, or holds several.
        """
        facts, path = self.model.facts, Path(path)
        try:
            masks = inputs.read_masks(
                [path],
                facts.mask_labels,
                self.size,
                "pad",
                channels=self.model.mask_channels,
                label_values=facts.label_values,
            ).values
        except ValueError as error:  # without the folder, which the page made up
            raise ValueError(str(error).replace(f"{path.parent}/", "")) from error
        if len(masks) != 1 or masks.dtype.kind == "f":
            raise ValueError(f"{path.name}: {masks.dtype} {masks.shape}, one map of labels needed")
        return masks[0]

    def sample(self, controls: Controls, num: int = 1, **options: Any) -> Samples:
        """Images 0 .. num - 1 of the seed."""
        if controls.mask is not None:
            options["masks"] = np.repeat(controls.mask[None], num, axis=0)
        if controls.label:
            options["classes"] = [controls.label] * num
        if controls.guidance is not None:
            options["guidance"] = controls.guidance
        steps = options.pop("steps", controls.steps)
        return self.model.sample(
            num, steps=steps, solver=controls.solver, seed=controls.seed, **options
        )

    def image(self, controls: Controls) -> str:
        """One image, as HTML."""
        return self._figure(self.sample(controls), controls)

    def compare(self, controls: Controls) -> str:
        """The same noise in one step and in ten."""
        return "".join(
            self._figure(self.sample(controls, steps=steps), controls) for steps in (FEW, MANY)
        )

    def seeds(self, controls: Controls) -> str:
        """Images of the same condition from different noise; the first is that of `image`."""
        made = self.sample(controls, 2 if self.is_volume else SEEDS)
        return self._figure(made, controls, SMALL_PIXELS)

    def trajectory(self, controls: Controls) -> list[str]:
        """The states from noise to image."""
        states = self.sample(controls, trajectory=True).trajectory
        assert states is not None
        tiles = (self._tiles(state[0], None, controls) for state in states)
        return [
            pictures.figure(each, f"{step} of {len(states) - 1} steps", self._width)
            for step, each in enumerate(tiles)
        ]

    def save(self, controls: Controls, num: int, folder: Path) -> Path:
        """A zip of the images and their sidecar, as `motfm sample` writes them."""
        made = self.sample(controls, num, nifti=True, png=not self.is_volume)
        with tempfile.TemporaryDirectory() as room:
            made.save(Path(room) / "samples")
            return Path(shutil.make_archive(str(folder / "samples"), "zip", room))

    @property
    def _width(self) -> int:
        return pictures.SHOWN_PIXELS // 2 if self.is_volume else pictures.SHOWN_PIXELS

    def _figure(self, made: Samples, controls: Controls, width: int = 0) -> str:
        masks = made.masks if controls.outlines or made.generated.masks is not None else None
        tiles = []
        for number, image in enumerate(made.images):
            tiles += self._tiles(image, None if masks is None else masks[number], controls)
        calls = f"{made.calls[0]} network call{'s' * bool(made.calls[0] != 1)}"
        return pictures.figure(tiles, f"synthetic, {calls}", width or self._width)

    def _tiles(
        self, image: np.ndarray, mask: np.ndarray | None, controls: Controls
    ) -> list[np.ndarray]:
        if not self.is_volume:
            return [pictures.tile(image, mask, self._view(image))]
        images = pictures.planes(image, controls.at)
        masks = [None] * 3 if mask is None else pictures.planes(mask, controls.at)
        view = self._view(image)
        return [pictures.tile(*pair, view) for pair in zip(images, masks)]

    def _view(self, image: np.ndarray) -> View:
        """One window for all images: that of the training data where it has bounds."""
        facts = self.model.facts
        if facts.bounds is not None:
            return View(*facts.bounds, facts.channel_names)
        return shared_view(image, facts.channel_names)
