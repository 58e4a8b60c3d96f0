"""Checks shared by all measures: shapes, numbers of samples, finite values."""

import numpy as np


def feature_rows(name: str, features: np.ndarray, fewest: int) -> np.ndarray:
    """Features [N, F], any real type -> the same in float64.

    Raises:
      ValueError: not [N, F], fewer rows than `fewest`, or not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"{name} {features.shape}: needed [N, F], one row of features per image; "
            "reshape or pool them first"
        )
    if len(features) < fewest:
        raise ValueError(f"{name} {features.shape}: this measure needs at least {fewest} rows")
    features = features.astype(np.float64)
    finite(name, features)
    return features


def two_feature_sets(
    generated: np.ndarray, real: np.ndarray, fewest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets [N, F] and [M, F] in float64; ValueError as above or where F differs."""
    generated = feature_rows("generated features", generated, fewest)
    real = feature_rows("real features", real, fewest)
    same_width(generated, real)
    return generated, real


def same_width(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"{first.shape[-1]} and {second.shape[-1]} features per image: "
            "take both sets from the same layer of the same network"
        )


def finite(name: str, array: np.ndarray) -> None:
    array = np.asarray(array)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"{name} {array.shape}: {bad} values are not finite; find the images "
            "that they belong to and leave those out"
        )


def image_pairs(images: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets [B, *S, C] of the same shape, 2-D or 3-D, finite; else ValueError."""
    images, references = np.asarray(images), np.asarray(references)
    if images.shape != references.shape:
        raise ValueError(
            f"images {images.shape} and references {references.shape}: pairs need equal shapes"
        )
    if images.ndim not in (4, 5) or 0 in images.shape:
        raise ValueError(f"images {images.shape}: needed [B, H, W, C] or [B, D, H, W, C]")
    finite("images", images)
    finite("references", references)
    return images, references
