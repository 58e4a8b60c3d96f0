"""Writes manifolds.npz: what PyPI's prdc computes on the features of features.npz.

    python tests/golden/metrics/make_prdc.py

in an environment with prdc 0.2 and scikit-learn 1.9.1; the versions are written into the file.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from prdc import compute_prdc


def main() -> None:
    folder = Path(__file__).parent
    with np.load(folder / "features.npz") as arrays:
        generated, real = (arrays[name].astype(np.float64) for name in ("generated", "real"))
    answers = {
        f"{name}_of_{len(rows)}_k{k}_prdc": value
        for k in (3, 5)
        for rows in (generated, generated[:25])
        for name, value in compute_prdc(real, rows, k).items()
    }
    versions = np.array([f"{package} {version(package)}" for package in ("prdc", "scikit-learn")])
    np.savez_compressed(folder / "manifolds.npz", versions=versions, **answers)


if __name__ == "__main__":
    main()
