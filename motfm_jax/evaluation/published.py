"""FID, KID, CMMD, IS and 3D-FID: distances in the features of published networks.

They go by these names only where the published weights are there; see `features.weights`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from motfm_jax.arrays import Params
from motfm_jax.features import weights
from motfm_jax.metrics.frechet import frechet_distance
from motfm_jax.metrics.inception_score import inception_score
from motfm_jax.metrics.kernel import cmmd, kid
from motfm_jax.metrics.moments import moments
from motfm_jax.training import parallel

NETWORKS = {2: ("inception", "clip"), 3: ("r3d",)}  # by dimensions
FID_LAYERS = ("64", "192", "768", "2048")  # the paper does not say which; pytorch-fid has 2048
_BATCH = 16  # images a device


class Networks:
    """Those whose weights are there.

    Args:
      folder: of `scripts/convert.py features`.
      dims: 2 or 3.
    """

    def __init__(self, folder: Path, dims: int):
        self.hashes: dict[str, str] = {}
        self.missing: list[str] = []
        self._look: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {}
        for name in NETWORKS[dims]:
            if not weights.path_of(folder, name).is_file():
                self.missing.append(name)
                continue
            params, self.hashes[name] = weights.read(folder, name)
            self._look[name] = _looker(weights.network(name), params)

    def features(self, units: np.ndarray) -> dict[str, np.ndarray]:
        """What all networks make of images from 0 to 1: {"inception/2048": [N, 2048], ..}."""
        return {f"{name}/{layer}": rows for name, look in self._look.items()
                for layer, rows in look(units).items()}


def _looker(apply: Callable, params: Params) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    mapped, params = parallel.map_batches(apply), parallel.replicate(params)

    def look(units: np.ndarray) -> dict[str, np.ndarray]:
        batch, parts = _BATCH * jax.local_device_count(), []
        for start in range(0, len(units), batch):
            rows = np.minimum(np.arange(start, start + batch), len(units) - 1)
            made = mapped(params, np.asarray(units[rows], np.float32))
            parts.append(jax.tree.map(lambda leaf: leaf[: len(units) - start], made))  # noqa: B023
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return look


def compare(
    generated: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray], seed: int
) -> dict[str, float]:
    """The scores that the features allow.

    Args:
      generated, real: of `Networks.features`.
      seed: of KID's subsets and the order of IS.

    Returns:
      "fid_64" .. "fid_2048", "kid" with "kid_std", "is" with "is_std", "cmmd", or "fid_3d".
    """
    scores = {}
    frechet = {f"inception/{layer}": f"fid_{layer}" for layer in FID_LAYERS} | {"r3d/512": "fid_3d"}
    for layer, title in frechet.items():
        if layer in generated:
            scores[title] = frechet_distance(
                moments(generated[layer]), moments(real[layer])).distance
    if "inception/2048" in generated:
        distance = kid(generated["inception/2048"], real["inception/2048"], seed)
        variety = inception_score(
            generated["inception/logits"], seed, min(10, len(generated["inception/logits"])))
        scores |= {"kid": distance.mean, "kid_std": distance.std}
        scores |= {"is": variety.mean, "is_std": variety.std}
    if "clip/clip" in generated:
        scores["cmmd"] = cmmd(generated["clip/clip"], real["clip/clip"])
    return scores
