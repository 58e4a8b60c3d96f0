"""Writes what the PyTorch original computes, for small networks, to this folder.

    PYTHONPATH=tests/parity python tests/golden/make_golden.py

in an environment with torch 2.13.0 (CPU), monai 1.6.1 and monai-generative 0.2.3; the versions are
written into each file. One case is one compressed .npz, see `torch_original.record`.
"""

from pathlib import Path

import numpy as np
from torch_original import Structure, record

# Two and three levels, with every kind of block; no two axes of an image have the same size.
CASES = {
    "unconditional": (Structure(2, (4, 6, 8), 2, (False, True, True), 2), (12, 20)),
    "class": (
        Structure(2, (4, 4, 8), 1, (False, False, True), 2, num_classes=4, transformer_layers=2),
        (16, 12),
    ),
    "mask": (Structure(2, (4, 8), 1, (False, True), 4, mask_channels=2, mask_width=4), (10, 14)),
    "mask_class": (
        Structure(2, (4, 8), 1, (True, True), 2, num_classes=3, mask_channels=1, mask_width=4),
        (14, 10),
    ),
    "unconditional_3d": (Structure(3, (4, 6), 1, (False, True), 2), (4, 8, 6)),
    "mask_class_3d": (
        Structure(3, (4, 4), 1, (False, True), 2, num_classes=3, mask_channels=1, mask_width=4),
        (6, 4, 8),
    ),
}

# With others some gradient cancels so far that PyTorch itself is 7e-4 off its float64 result.
SEED = 1


def main() -> None:
    folder = Path(__file__).parent
    for case, (structure, size) in CASES.items():
        arrays = record(structure, size, SEED)
        # Parameters and inputs are exact in float16.
        for name in {"state", "x", "x0", "x1", "mask", "label"} & arrays.keys():
            arrays[name] = arrays[name].astype(np.float16)
        np.savez_compressed(folder / f"{case}.npz", **arrays)


if __name__ == "__main__":
    main()
