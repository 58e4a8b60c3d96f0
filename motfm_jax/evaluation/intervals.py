"""95% intervals, from random halves of the patients and of the generated images.

Patients are drawn, not images, because the images of one patient resemble each other; generated
images of one mask are drawn together for the same reason. Halves are drawn without replacement:
drawing with replacement would put some images into a set twice, which nearest neighbours and
covariances mistake for agreement. The spread over halves is that of the whole set, because
s^2 / (n / 2) (1 - 1 / 2) = s^2 / n; it is laid around the value of the whole set, since a half has
a bias of its own.

Source: McCarthy, "Pseudo-replication: half samples", 1969; Shao and Tu, "The jackknife and
bootstrap", 1995, section 5.2 (delete-d jackknife with random subsets).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

LEVEL = 0.95
FEWEST = 10  # patients, or generated images
MOST = 1000  # images of a subset: larger sets give smaller parts than halves
DRAWS = 100
SUFFIX = "_interval"
# How the names of measures from 0 to 1 begin.
SHARES = ("precision", "recall", "coverage", "faithful", "share", "ratio_share", "auc")

Measure = Callable[[Sequence[np.ndarray]], Mapping[str, float]]


def intervals(
    scores: Mapping[str, float],
    measure: Measure,
    units: Sequence[Sequence],
    draws: int,
    seed: int,
) -> dict[str, list[float]]:
    """Intervals of the scores that `measure` computes of a part of the images.

    Args:
      scores: of all images.
      measure: rows of each set -> scores by name.
      units: of each set, what each of its images belongs to: a patient, a condition, or itself.
      draws: how often parts are drawn.
      seed: of the draws.

    Returns:
      "NAME_interval": [low, high]; {} below 10 units of a set, or without draws.
    """
    numbered = [np.unique(np.asarray(each), return_inverse=True)[1] for each in units]
    counts = [int(each.max()) + 1 for each in numbered]
    if not draws or min(counts) < FEWEST:
        return {}
    part = max(min(0.5, MOST / max(map(len, numbered))), 2 / min(counts))  # two units or more
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(draws):
        rows = [
            np.flatnonzero(np.isin(each, random.permutation(count)[: round(part * count)]))
            for each, count in zip(numbered, counts)
        ]
        for name, value in measure(rows).items():
            drawn.setdefault(name, []).append(value)
    widen = np.sqrt(part / (1 - part))
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    laid = {}
    for name, values in drawn.items():
        interval = scores[name] + widen * (np.quantile(values, ends) - np.mean(values))
        if name.startswith(SHARES):
            interval = interval.clip(0, 1)
        laid[name + SUFFIX] = interval.tolist()
    return laid
