"""FID, KID, CMMD, IS and 3D-FID: distances in the features of published networks.

They go by these names only where the published weights are there; see `features.weights`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from motfm_jax import parallel
from motfm_jax.core import Params
from motfm_jax.evaluation.sets import ImageSet
from motfm_jax.features import weights
from motfm_jax.metrics import inception_score
from motfm_jax.metrics.frechet import frechet_distance, frechet_of_rows
from motfm_jax.metrics.inception_score import Answers
from motfm_jax.metrics.kernel import cmmd, cubic_mmd, kid
from motfm_jax.metrics.moments import Moments, merge, moments

NETWORKS = {2: ("inception", "clip"), 3: ("r3d",)}  # by dimensions
FID_LAYERS = ("64", "192", "768", "2048")  # the paper does not say which; pytorch-fid has 2048
FRECHET = {f"inception/{layer}": f"fid_{layer}" for layer in FID_LAYERS} | {"r3d/512": "fid_3d"}
KERNEL = ("inception/2048", "clip/clip")  # layers that KID and CMMD need whole
LOGITS = "inception/logits"
_BATCH = 16  # images a device


class Seen(NamedTuple):
    """Features of a set of images, as far as the distances need them.

    Attributes:
      moments: of the features that a Frechet distance is taken in, by "inception/2048", ..
      rows: [N, F] float32 of those that a kernel distance is taken in.
      answers: of the classifier; None without it.
    """

    moments: dict[str, Moments]
    rows: dict[str, np.ndarray]
    answers: Answers | None


class Networks:
    """Those whose weights are there.

    Args:
      folder: of `motfm convert features`.
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

    def look(self, units: ImageSet, seed: int) -> Seen:
        """Looks at each image once, batch by batch.

        Args:
          units: from 0 to 1.
          seed: of the order in which IS splits the images.
        """
        splits = min(10, len(units))
        split_of_each = inception_score.split_of_each(len(units), seed, splits)
        totals: dict[str, Moments] = {}
        rows: dict[str, list[np.ndarray]] = {}
        answers, done = None, 0
        for batch in units.batches() if self._look else ():
            features = {
                f"{name}/{layer}": values
                for name, look in self._look.items()
                for layer, values in look(batch).items()
            }
            for layer in FRECHET.keys() & features:
                new = moments(features[layer])
                totals[layer] = merge(totals[layer], new) if layer in totals else new
            for layer in features.keys() & KERNEL:
                rows.setdefault(layer, []).append(features[layer])
            if LOGITS in features:
                new = inception_score.answers(
                    features[LOGITS], split_of_each[done : done + len(batch)], splits
                )
                answers = new if answers is None else Answers(*map(np.add, answers, new))
            done += len(batch)
        return Seen(
            totals, {layer: np.concatenate(parts) for layer, parts in rows.items()}, answers
        )


def _looker(apply: Callable, params: Params) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    mapped, params = parallel.map_batches(apply), parallel.replicate(params)

    def look(units: np.ndarray) -> dict[str, np.ndarray]:
        batch, parts = _BATCH * jax.local_device_count(), []
        for start in range(0, len(units), batch):
            rows = np.minimum(np.arange(start, start + batch), len(units) - 1)
            results = mapped(params, np.asarray(units[rows], np.float32))
            parts.append(jax.tree.map(lambda leaf: leaf[: len(units) - start], results))  # noqa: B023
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return look


def compare_rows(
    generated: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Those of `compare` that the kept rows allow, the kernel distance over all rows at once."""
    scores = {}
    if "inception/2048" in generated:
        sets = generated["inception/2048"], real["inception/2048"]
        scores |= {"fid_2048": frechet_of_rows(*sets), "kid": cubic_mmd(*sets)}
    if "clip/clip" in generated:
        scores["cmmd"] = cmmd(generated["clip/clip"], real["clip/clip"])
    return scores


def compare(generated: Seen, real: Seen, seed: int) -> dict[str, float]:
    """The scores that the features allow.

    Args:
      generated, real: of `Networks.look`.
      seed: of KID's subsets.

    Returns:
      "fid_64" .. "fid_2048", "kid" with "kid_std", "is" with "is_std", "cmmd", or "fid_3d".
    """
    scores = {}
    for layer, title in FRECHET.items():
        if layer in generated.moments:
            scores[title] = frechet_distance(generated.moments[layer], real.moments[layer])
    if "inception/2048" in generated.rows:
        distance = kid(generated.rows["inception/2048"], real.rows["inception/2048"], seed)
        scores |= {"kid": distance.mean, "kid_std": distance.std}
    if generated.answers is not None:
        variety = inception_score.score(generated.answers)
        scores |= {"is": variety.mean, "is_std": variety.std}
    if "clip/clip" in generated.rows:
        scores["cmmd"] = cmmd(generated.rows["clip/clip"], real.rows["clip/clip"])
    return scores
