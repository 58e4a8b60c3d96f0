"""Classifiers and segmenters trained on generated images and tested on real ones.

Source: Yazdani et al. 2025, Table 3. The paper names networks, Adam and 50 epochs; the losses are
the usual ones: cross entropy, and for segmenters that plus one minus the mean soft Dice.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from motfm_jax import parallel
from motfm_jax.core import Array, Batch, Params
from motfm_jax.data import pipeline
from motfm_jax.data.cache import Arrays
from motfm_jax.data.intensity import Intensity
from motfm_jax.evaluation.spaces import Features
from motfm_jax.evaluation.synthetic import generated_arrays
from motfm_jax.io.npz import open_npz, write_npz
from motfm_jax.metrics.classification import classification
from motfm_jax.metrics.overlap import overlap, summarise
from motfm_jax.nn.resnet import ResNetSettings, resnet
from motfm_jax.nn.segmenter import unet_resnet
from motfm_jax.training.optim import make_optimizer, make_schedule
from motfm_jax.training.state import init_state
from motfm_jax.training.step import make_train_step

TASKS = ("classify", "segment")
SMALL_IMAGES = 32  # pixels a side up to which networks begin at full resolution (He et al., 4.2)
MEASURES = {
    "classify": ("accuracy", "macro_f1"),
    "segment": ("dice", "iou", "hausdorff", "hausdorff_95", "asd"),
}


class Task(NamedTuple):
    """A network and what it is trained and scored by.

    Attributes:
      init: key -> params.
      apply: (params, x [B, H, W, C]) -> logits.
      features: (params, x) -> [B, F], what a distance of image sets may be taken in.
      loss: (params, batch, keys, dropout key) -> [B], see `training.step.LossFn`.
      score: (predicted, arrays) -> measures by name.
      best: the measure that checkpoints are chosen by: the first after an epoch on validation.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, Array], Array]
    features: Callable[[Params, Array], Array]
    loss: Callable
    score: Callable[[np.ndarray, Arrays], dict[str, float]]
    best: str


class Recipe(NamedTuple):
    """How networks are trained.

    Attributes:
      epochs: passes over the training images.
      batch_size: over all devices.
      lr: of Adam, falling to 0 along a cosine.
    """

    epochs: int = 50
    batch_size: int = 16
    lr: float = 1e-3


class Fitted(NamedTuple):
    """A trained network.

    Attributes:
      params: those of the best epoch on validation, numpy.
      epoch: which one that was, from 1.
      valid: its measures on validation.
    """

    params: dict[str, np.ndarray]
    epoch: int
    valid: dict[str, float]


DEFAULT_RECIPE = Recipe()


def make_task(name: str, depth: int, arrays: Arrays, width: int = 64) -> Task:
    """A classifier of the classes or a segmenter of the mask labels that `arrays` name.

    Args:
      name: "classify" or "segment".
      depth: of the ResNet, 18 or 50.
      arrays: real images, 2-D.
      width: channels of the first stage; the published networks have 64.

    Raises:
      ValueError: volumes, or data without classes or masks.
    """
    if name not in TASKS:
        raise ValueError(f"task {name!r}: use {' or '.join(TASKS)}")
    _, *size, channels = arrays.images.shape
    if len(size) != 2:
        raise ValueError(f"images {tuple(size)}: the downstream networks take 2-D images")
    small = max(size) <= SMALL_IMAGES
    factor = 8 if small else 32
    if name == "segment" and any(side % factor for side in size):
        raise ValueError(f"images {tuple(size)}: the segmenter needs sides divisible by {factor}")
    names = arrays.classes if name == "classify" else arrays.mask_labels
    if (arrays.labels if name == "classify" else arrays.masks) is None or len(names) < 2:
        raise ValueError(
            f"task {name}: the data has no {'classes' if name == 'classify' else 'masks'} to learn"
        )
    settings = ResNetSettings(
        depth,
        len(names),
        channels,
        small_images=small,
        width=width,
        norm_groups=min(32, width // 2),
    )
    if name == "classify":
        network, init = resnet(settings)
        return Task(
            init,
            network.apply,
            network.features,
            _classification_loss(network.apply),
            _classification_scores,
            "macro_f1",
        )
    network, init = unet_resnet(settings)
    return Task(
        init,
        network.apply,
        network.features,
        _segmentation_loss(network.apply),
        _segmentation_scores,
        "dice",
    )


def _classification_loss(apply: Callable) -> Callable:
    def loss(params: Params, batch: Batch, keys: Array, dropout_key: Any) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(
            apply(params, batch.image), batch.label
        )

    return loss


def _segmentation_loss(apply: Callable) -> Callable:
    def loss(params: Params, batch: Batch, keys: Array, dropout_key: Any) -> Array:
        logits, mask = apply(params, batch.image), batch.mask.astype(jnp.int32)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, mask).mean(axis=(1, 2))
        target = jax.nn.one_hot(mask, logits.shape[-1])
        predicted = jax.nn.softmax(logits)
        both = (2 * predicted * target).sum((1, 2))
        either = (predicted + target).sum((1, 2))
        dice = ((both + 1.0) / (either + 1.0))[:, 1:]  # background apart
        return entropy + 1 - dice.mean(axis=1)

    return loss


def _classification_scores(predicted: np.ndarray, arrays: Arrays) -> dict[str, float]:
    scored = classification(predicted, arrays.labels, len(arrays.classes))
    return {"accuracy": scored.accuracy, "macro_f1": scored.macro_f1}


def _segmentation_scores(predicted: np.ndarray, arrays: Arrays) -> dict[str, float]:
    labels = range(1, len(arrays.mask_labels))
    summary = summarise(
        [
            overlap(prediction, np.asarray(mask), labels, meta.get("spacing_mm"))
            for prediction, mask, meta in zip(predicted, arrays.masks, arrays.meta)
        ]
    )
    return {name: summary.mean[name] for name in MEASURES["segment"]}


def fit(
    task: Task,
    train: Arrays,
    valid: Arrays,
    intensity: Intensity,
    recipe: Recipe = DEFAULT_RECIPE,
    *,
    seed: int = 0,
    progress: Callable[[int, float, dict[str, float]], None] | None = None,
) -> Fitted:
    """Trains with Adam and keeps the epoch that is best on validation.

    Args:
      task: of `make_task`.
      train: images to learn from, real or generated, in the units that `intensity` takes.
      valid: real images.
      intensity: of the real training images.
      recipe: see `Recipe`.
      seed: of initial weights and order.
      progress: called after each epoch with its number, mean loss and validation measures.

    Raises:
      ValueError: a batch that does not divide over the devices, or fewer images than a batch.
    """
    epochs, batch_size, lr = recipe
    parallel.check_batch_size(batch_size)
    if epochs < 1 or len(train) < batch_size:
        raise ValueError(
            f"{epochs} epochs of {len(train)} images in batches of {batch_size}: at least one "
            "epoch and one batch needed"
        )
    updates = len(train) // batch_size
    rate = make_schedule(lr, schedule="cosine", total_steps=epochs * updates)
    optimizer = make_optimizer("adam", rate, clip=1.0)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    state = parallel.replicate(init_state(task.init(init_key), optimizer, ema=0.0))
    step = parallel.TrainStep(make_train_step(task.loss, optimizer, axis_name=parallel.AXIS))
    batches = pipeline.train_batches(
        pipeline.Examples(train, intensity), batch_size=batch_size, seed=seed
    )
    predict = predictor(task)
    best = None
    for epoch in range(1, epochs + 1):
        losses = []
        for _ in range(updates):
            state, metrics = step(state, next(batches), run_key)
            losses.append(metrics.loss)
        loss = float(np.mean(jax.device_get(losses)))
        if not np.isfinite(loss):
            raise ValueError(f"the loss of epoch {epoch} is not finite; lower --lr")
        params = jax.device_get(state.params).named()
        measures = task.score(predict(params, valid, intensity), valid)
        if best is None or not measures[task.best] <= best.valid[task.best]:
            best = Fitted(params, epoch, measures)
        if progress:
            progress(epoch, loss, measures)
    return best


def write_network(path: Path, params: Params, task: str, depth: int, width: int) -> None:
    """Saves a trained network as one npz, for `read_network`."""
    write_npz(path, **params, settings=np.array(json.dumps([task, depth, width])))


def read_network(path: Path, arrays: Arrays) -> tuple[Task, dict[str, np.ndarray], str]:
    """A saved network with its task, and its name, such as "resnet18 classify".

    Args:
      path: of `write_network`.
      arrays: real images of the kind it was trained on.

    Raises:
      ValueError: no such file, another kind of file, or images the network does not take.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such network; motfm downstream writes network.npz")
    try:
        with open_npz(path) as saved:
            params = {name: saved[name] for name in saved.files}
        name, depth, width = json.loads(str(params.pop("settings")))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: no network ({error}); motfm downstream writes network.npz"
        ) from error
    task = make_task(name, depth, arrays, width)
    shapes = {
        name: leaf.shape for name, leaf in jax.eval_shape(task.init, jax.random.key(0)).items()
    }
    if {name: leaf.shape for name, leaf in params.items()} != shapes:
        raise ValueError(
            f"{path}: a network for other images, classes or labels than this data's; train one "
            "on this data with motfm downstream"
        )
    return task, params, f"resnet{depth} {name}"


def read_features(path: Path, real: Arrays, intensity: Intensity) -> Features:
    """A saved network as a feature extractor.

    Args:
      path: of `write_network`.
      real: images of the kind it was trained on.
      intensity: of the run.

    Raises:
      ValueError: see `read_network`.
    """
    task, params, name = read_network(path, real)
    featurize = featurizer(task, params)
    features = Features(name, lambda images: featurize(generated_arrays(images, real), intensity))
    if not name.endswith("segment"):
        return features
    predict = predictor(task)
    return features._replace(
        segment=lambda images: predict(params, generated_arrays(images, real), intensity)
    )


def predictor(task: Task) -> Callable[[Params, Arrays, Intensity], np.ndarray]:
    """Compiles (params, arrays, intensity) -> labels: [N] classes or [N, H, W] mask labels."""
    logits = parallel.map_batches(
        lambda params, image: jnp.argmax(task.apply(params, image), axis=-1).astype(jnp.int32)
    )

    def predict(params: Params, arrays: Arrays, intensity: Intensity) -> np.ndarray:
        parts = [logits(params, batch.image)[batch.valid] for batch in _batches(arrays, intensity)]
        return np.concatenate(parts)

    return predict


def featurizer(task: Task, params: Params) -> Callable[[Arrays, Intensity], np.ndarray]:
    """Compiles (arrays, intensity) -> what the network makes of images before its last layer,
    [N, F] float32."""
    mapped = parallel.map_batches(task.features)
    params = parallel.replicate(params)

    def features(arrays: Arrays, intensity: Intensity) -> np.ndarray:
        parts = [mapped(params, batch.image)[batch.valid] for batch in _batches(arrays, intensity)]
        return np.concatenate(parts)

    return features


def _batches(arrays: Arrays, intensity: Intensity) -> Iterator[Batch]:
    devices = jax.local_device_count()
    return pipeline.eval_batches(pipeline.Examples(arrays, intensity), batch_size=32 * devices)
