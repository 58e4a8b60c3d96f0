"""Writes what the PyTorch original computes, for small networks, to this folder.

    PYTHONPATH=tests/parity python tests/golden/make_golden.py [CASE ...]

in an environment with torch 2.13.0 (CPU), monai 1.6.1 and monai-generative 0.2.3; the versions are
written into each file. One case is one compressed .npz, see `torch_original.record`.
"""

import json
import re
import sys
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
    "per_level": (
        Structure(
            2,
            (4, 8),
            (2, 1),
            (True, True),
            2,
            num_classes=3,
            mask_channels=1,
            mask_width=4,
            head_dim=(2, 4),
        ),
        (10, 14),
    ),
    "unconditional_3d": (Structure(3, (4, 6), 1, (False, True), 2), (4, 8, 6)),
    "mask_class_3d": (
        Structure(3, (4, 4), 1, (False, True), 2, num_classes=3, mask_channels=1, mask_width=4),
        (6, 4, 8),
    ),
}

# With others some gradient cancels so far that PyTorch itself is 7e-4 off its float64 result.
SEED = 1


# What the original never applies; queries and keys of one token; what a softmax cancels; and, where
# a group of the normalisation is a single channel (case "mask"), what is constant in space.
WITHOUT_INFLUENCE = (
    r"proj_attn|attn2\.to_[qk]|transformer_blocks\.\d\.norm2|attention(s\.\d)?\.to_k\.bias"
)
CONSTANT_IN_SPACE = {"mask": r"_blocks\.\d\..*(bias|time_emb_proj\.weight)$"}


def check(case: str, arrays: dict[str, np.ndarray]) -> None:
    """Refuses a case in which an error of ours could stay unnoticed.

    Raises:
      ValueError: a parameter has no influence on the loss, or rounding decides to which of the
        1,000 levels a time is floored.
    """
    shapes = json.loads(str(arrays["shapes"]))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    largest = [np.abs(piece).max() for piece in np.split(arrays["gradient"], ends[:-1])]
    pattern = "|".join(filter(None, [WITHOUT_INFLUENCE, CONSTANT_IN_SPACE.get(case)]))
    silent = [
        name
        for name, value in zip(shapes, largest, strict=True)
        if value <= 1e-4 * max(largest) and not re.search(pattern, name)
    ]
    if silent:
        raise ValueError(f"{case}: parameters without influence: {', '.join(silent)}")
    steps = len(arrays["trajectory"]) - 1
    times = np.concatenate([arrays["t"], arrays["loss_t"], np.arange(1, steps) / steps])
    levels = 999 * times[(times > 0) & (times < 1)]
    if np.abs(levels - np.round(levels)).min() < 0.01:
        raise ValueError(f"{case}: a time lies on the edge of a level: {levels}")


def main() -> None:
    folder = Path(__file__).parent
    for case in sys.argv[1:] or CASES:
        structure, size = CASES[case]
        arrays = record(structure, size, SEED)
        # Parameters and inputs are exact in float16.
        for name in {"state", "x", "x0", "x1", "mask", "label"} & arrays.keys():
            arrays[name] = arrays[name].astype(np.float16)
        check(case, arrays)
        np.savez_compressed(folder / f"{case}.npz", **arrays)


if __name__ == "__main__":
    main()
