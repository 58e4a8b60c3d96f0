"""The library: score, audit, downstream and restore."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from motfm_jax import datasets, library, starts
from motfm_jax.core import Progress
from motfm_jax.data.cache import Arrays
from motfm_jax.evaluation import comparison, restoration, sets, synthetic
from motfm_jax.evaluation import downstream as networks
from motfm_jax.evaluation.audit import Auditor
from motfm_jax.evaluation.intervals import DRAWS
from motfm_jax.evaluation.score import Options
from motfm_jax.evaluation.score import score as compare_sets
from motfm_jax.evaluation.spaces import Features
from motfm_jax.library import Model
from motfm_jax.model import Bundle
from motfm_jax.sampling.outputs import read_samples
from motfm_jax.sampling.sample import Samples

Extractors = Features | str | Path | Sequence[Features | str | Path]


def score(
    samples: Samples | str | Path,
    real: Arrays,
    *,
    floor: Arrays | None = None,
    features: Extractors = (),
    networks: Path | None = None,
    seed: int = 0,
    bootstrap: int = DRAWS,
) -> dict[str, dict[str, Any]]:
    """How far generated images lie from real ones, beside how far other real images do.

    Args:
      samples: of `Model.sample`, or the folder of saved ones.
      real: real images to compare with, such as `model.data("test")`.
      floor: other real images; None for the model's training data, or, where that is not at hand,
        for the second half of `real`, the first being the reference then.
      features: network.npz of `downstream`, or several, for distances in their features; one that
        segments judges whether images follow their masks too.
      networks: folder of published networks, for FID, KID, CMMD, IS and 3D-FID; None for the one
        that `motfm convert features` writes to.
      seed: of random choices.
      bootstrap: draws of patients and images for 95% intervals; 0 for none.

    Returns:
      {"density_w1": {"generated": 3.1, "real": 0.4}, ...} with "generated_interval" and
      "real_interval" where there are intervals; see `evaluation.score.scorer`.

    Raises:
      ValueError: raw samples, or images of other sizes.
    """
    images, model = _images(samples)
    reference = sets.Real("real", real)
    train = _training_data(model)
    if floor is None:
        floor = train
    if floor is None:
        half = len(real) // 2
        reference = sets.Real("real, first half", real.take(slice(half)))
        floor = real.take(slice(half, None))
    return compare_sets(
        images,
        reference,
        sets.Real("other real images", floor),
        model.intensity,
        bounds=datasets.bounds(model, train),
        train_masks=None if train is None else train.masks,
        options=Options(_features(features, real, model), networks, seed, bootstrap),
    ).by_measure()


def audit(
    samples: Samples | str | Path,
    train: Arrays,
    held_out: Arrays,
    *,
    out: str | Path | None = None,
    max_shift: int | None = None,
    features: Extractors = (),
) -> dict[str, Any]:
    """Whether generated images copy training images: are they closer to them than unseen ones are?

    Args:
      samples: of `Model.sample`, or the folder of saved ones.
      train: the training images, `model.data("train")`.
      held_out: real images that were not trained on, 20 or more.
      out: folder for audit.json and audit.png (the closest pairs: real images!); None for neither.
      max_shift: pixels to align by; None for an eighth of the shortest side.
      features: network.npz of `downstream`, or several, for their distances too.

    Returns:
      "share_closer" (without copying about "expected_share"), quantiles of the distances, and the
      nearest training image of each; see `evaluation.audit`.

    Raises:
      ValueError: too few held-out images, or images of other sizes.
    """
    images, model = _images(samples)
    auditor = Auditor(
        train,
        held_out,
        model.intensity,
        max_shift=max_shift,
        features=_features(features, train, model),
    )
    return auditor(images, Path(out) if out else None)


def downstream(
    model: Model,
    out: str | Path,
    study: comparison.Study,
    generated: Mapping[str, str | Path],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """What generated images are good for: networks trained on them, tested on real images.

    Args:
      model: its data are the real images.
      out: folder for downstream.{json,md,csv} and network.npz.
      study: task ("classify" or "segment"), depth, width, seeds; see `evaluation.comparison`.
      generated: folders of saved samples by name.
      overwrite: replace results of other settings.
      progress: called after each epoch.

    Returns:
      A row for each training set, see `evaluation.comparison.compare`.
    """
    real = comparison.Splits(*(model.data(split) for split in ("train", "valid", "test")))
    arrays = {
        name: synthetic.read_generated(Path(folder), study.task, real.train)
        for name, folder in generated.items()
    }
    return comparison.compare(
        Path(out), study, real, arrays, model.intensity, overwrite=overwrite, progress=progress
    )


def restore(
    model: Model,
    out: str | Path,
    *,
    split: str = "valid",
    steps: Sequence[int] = restoration.STEPS,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """How much nearer a flow that starts from images takes them to the real ones.

    Args:
      model: with config.flow.source "speckle" or "channel".
      out: folder for restoration.{json,md,csv} and pictures.
      split: of the real images.
      steps: of Euler's method.
      overwrite: replace measurements of other settings.
      progress: called after each batch.
      options: powers, num, seed; see `starts.restoration`.

    Returns:
      Rows of PSNR, SNR and SSIM, see `evaluation.restoration`.
    """
    task = starts.restoration(model, split, **options)
    return restoration.restore(
        Path(out), model, task, steps=steps, overwrite=overwrite, progress=progress
    )


def _images(samples: Samples | str | Path) -> tuple[sets.ImageSet, Bundle]:
    """The images of samples, in the units of the data, and their model."""
    if isinstance(samples, Samples):
        if samples.request.raw:
            raise ValueError("samples made with raw=True: sample again without it")
        images = sets.in_memory(samples.images, samples.masks, samples.labels)
        return images, samples.model
    if not isinstance(samples, str | Path):
        raise ValueError(
            f"samples of type {type(samples).__name__}: give those of Model.sample, or a folder"
        )
    sidecar = read_samples(Path(samples))
    model = library.load(sidecar["run"], sidecar["training_step"])
    return sets.of_samples(Path(samples)), model


def _training_data(model: Bundle) -> Arrays | None:
    try:
        return model.data("train") if isinstance(model, Model) else None
    except ValueError:  # the data is not on this machine
        return None


def _features(features: Extractors | None, real: Arrays, model: Bundle) -> list[Features]:
    several = [features] if isinstance(features, Features | str | Path) else features or ()
    return [
        each
        if isinstance(each, Features)
        else networks.read_features(Path(each), real, model.intensity)
        for each in several
    ]
