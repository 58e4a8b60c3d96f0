"""Writes inputs, and what well-known packages measure on them, to this folder.

    python tests/golden/metrics/make_golden.py

in an environment with torch 2.13.0 (CPU), monai 1.6.1, torchmetrics 1.9.0, pytorch-fid 0.3.0,
torch-fidelity 0.4.0, scikit-image 0.26.0, scikit-learn 1.9.1 and scipy 1.17.1; the versions are
written into each file. Names of answers end in the package they come from.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from monai.metrics import (
    DiceMetric,
    HausdorffDistanceMetric,
    MeanIoU,
    SSIMMetric,
    SurfaceDistanceMetric,
    compute_mmd,
    compute_ms_ssim,
)
from pytorch_fid.fid_score import calculate_frechet_distance
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import confusion_matrix, f1_score
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import mmd2
from torchmetrics.functional.audio import signal_noise_ratio
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score
from torchmetrics.image.kid import poly_mmd

PACKAGES = (
    "torch",
    "monai",
    "torchmetrics",
    "pytorch-fid",
    "torch-fidelity",
    "scikit-image",
    "scikit-learn",
    "scipy",
)


def features(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Two sets of 60 vectors; the first 10 of each have a singular covariance."""
    mixing = random.normal(size=(12, 12))
    real = np.maximum(random.normal(size=(60, 12)) @ mixing, 0).astype(np.float16)
    generated = np.maximum(random.normal(0.2, 1.1, size=(60, 12)) @ mixing, 0).astype(np.float16)
    x, y = generated.astype(np.float64), real.astype(np.float64)
    unit_x, unit_y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    cubic = dict(degree=3, gamma=None, coef0=1)
    return {
        "generated": generated,
        "real": real,
        "fid_pytorch_fid": _pytorch_fid(x, y),
        "fid_of_10_pytorch_fid": _pytorch_fid(x[:10], y[:10]),
        "kid_torchmetrics": poly_mmd(torch.from_numpy(y), torch.from_numpy(x)).numpy(),
        "kid_torch_fidelity": mmd2(*_kernels(polynomial_kernel, x, y, **cubic)),
        "cmmd_torch_fidelity": 1000
        * mmd2(*_kernels(rbf_kernel, unit_x, unit_y, gamma=1 / 200), mmd_est="biased"),
        "gaussian_mmd_torch_fidelity": mmd2(*_kernels(rbf_kernel, x, y, gamma=1 / (2 * 8.0**2))),
    }


def _pytorch_fid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return calculate_frechet_distance(
        x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)
    )


def _kernels(kernel, x: np.ndarray, y: np.ndarray, **arguments) -> tuple[np.ndarray, ...]:
    return tuple(kernel(a, b, **arguments) for a, b in ((x, x), (x, y), (y, y)))


def pairs(random: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Smooth images [B, *S, C] of bytes and noisy versions of them."""
    smooth = gaussian_filter(random.normal(size=shape), (0, *(3,) * (len(shape) - 2), 0))
    clean = 128 + smooth * (50 / smooth.std())
    noisy = clean * random.normal(1, 0.15, shape) + random.normal(6, 6, shape)
    return {
        "images": noisy.clip(0, 255).round().astype(np.uint8),
        "references": clean.clip(0, 255).round().astype(np.uint8),
    }


def images(random: np.random.Generator) -> dict[str, np.ndarray]:
    arrays = pairs(random, (1, 176, 180, 1))
    image, reference = arrays["images"][0], arrays["references"][0]
    window = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    x, y = (_channels_first(arrays[name]) for name in ("images", "references"))
    return arrays | {
        "ssim_skimage": structural_similarity(
            image, reference, data_range=255, channel_axis=-1, **window
        ),
        "ssim_monai": _ssim(x, y, 2, 11),
        "ms_ssim_monai": compute_ms_ssim(x, y, 2, data_range=255).numpy().ravel(),
        "psnr_skimage": peak_signal_noise_ratio(reference, image, data_range=255),
        "snr_torchmetrics": signal_noise_ratio(x.flatten(), y.flatten()).numpy(),
    }


def volumes(random: np.random.Generator) -> dict[str, np.ndarray]:
    arrays = pairs(random, (3, 20, 23, 22, 1))
    x, y = (_channels_first(arrays[name]) for name in ("images", "references"))
    weights = (0.1, 0.3, 0.6)
    return arrays | {
        "ssim_monai": _ssim(x, y, 3, 11),
        "ms_ssim_monai": compute_ms_ssim(x, y, 3, data_range=255, kernel_size=5, weights=weights)
        .numpy()
        .ravel(),
        "linear_mmd_monai": compute_mmd(y, x, None).numpy(),
    }


def _channels_first(batch: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(batch.astype(np.float64), -1, 1).copy())


def _ssim(x: torch.Tensor, y: torch.Tensor, dimensions: int, taps: int) -> np.ndarray:
    metric = SSIMMetric(dimensions, data_range=255, win_size=taps)
    return metric(x, y).numpy().ravel()


def labels(random: np.random.Generator) -> dict[str, np.ndarray]:
    """A plane and a volume of three structures, the prediction a distortion of the reference."""
    arrays = {}
    for name, shape, spacing in (
        ("plane", (40, 34), (0.5, 1.25)),
        ("volume", (16, 14, 18), (2.0, 0.75, 1.0)),
    ):
        field = gaussian_filter(random.normal(size=shape), 3)
        bent = field + 0.35 * field.std() * gaussian_filter(random.normal(size=shape), 1) / 0.3
        bounds = np.quantile(field, (0.4, 0.65, 0.85))
        prediction, reference = np.digitize(bent, bounds), np.digitize(field, bounds)
        arrays |= {
            f"{name}_prediction": prediction.astype(np.uint8),
            f"{name}_reference": reference.astype(np.uint8),
            f"{name}_spacing": np.array(spacing),
        }
        maps = [_one_hot(prediction), _one_hot(reference)]
        arrays |= {
            f"{name}_dice_monai": DiceMetric(include_background=False)(*maps).numpy()[0],
            f"{name}_iou_monai": MeanIoU(include_background=False)(*maps).numpy()[0],
        }
        for measure, metric in {
            "hausdorff": HausdorffDistanceMetric(),
            "hausdorff_95": HausdorffDistanceMetric(percentile=95),
            "asd": SurfaceDistanceMetric(),
            "assd": SurfaceDistanceMetric(symmetric=True),
        }.items():
            arrays[f"{name}_{measure}_pixels_monai"] = metric(*maps).numpy()[0]
            arrays[f"{name}_{measure}_mm_monai"] = metric(*maps, spacing=spacing).numpy()[0]
    return arrays


def _one_hot(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([labels == label for label in range(4)])[None].astype(float))


def classes(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Logits of 43 images over 5 classes, and the actual classes; class 4 occurs nowhere."""
    actual = random.integers(0, 4, 43)
    logits = random.normal(size=(43, 5)) + 2 * np.eye(5)[actual] - 9 * np.eye(5)[4]
    logits = logits.astype(np.float16)
    predicted = logits.argmax(1)
    scores = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    tensors = torch.from_numpy(predicted), torch.from_numpy(actual)
    return {
        "logits": logits,
        "actual": actual,
        "inception_score_torch_fidelity": np.array(list(scores.values())),
        "accuracy_torchmetrics": multiclass_accuracy(*tensors, 5, average="micro").numpy(),
        "macro_f1_torchmetrics": multiclass_f1_score(*tensors, 5, average="macro").numpy(),
        "f1_sklearn": f1_score(actual, predicted, labels=range(4), average=None),
        "confusion_sklearn": confusion_matrix(actual, predicted, labels=range(5)),
    }


def main() -> None:
    versions = np.array([f"{package} {version(package)}" for package in PACKAGES])
    for seed, make in enumerate((features, images, volumes, labels, classes)):
        arrays = make(np.random.default_rng(seed))
        path = Path(__file__).parent / f"{make.__name__}.npz"
        np.savez_compressed(path, versions=versions, **arrays)


if __name__ == "__main__":
    main()
