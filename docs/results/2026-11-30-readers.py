"""Three made-up readers of a study, and its statistics by other packages.

    motfm study make --run=RUN --samples=SAMPLES --num=30 --out=study
    python docs/results/2026-11-30-readers.py study
    motfm study score --key=study/key.json --answers study/answers-*.json --out=study/scores

It needs statsmodels and scikit-learn. One reader is right three times in four, and surer then; one
guesses; one calls nine in ten of the images real.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from statsmodels.stats.inter_rater import fleiss_kappa
from statsmodels.stats.proportion import proportion_confint

WORDS = ("real", "generated")


def answers(reader: str, truth: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(whether it is called generated, how sure) of each image."""
    real, made = {"careful": (0.25, 0.75), "guessing": (0.5, 0.5), "trusting": (0.1, 0.1)}[reader]
    called = (rng.random(len(truth)) < np.where(truth == 1, made, real)).astype(int)
    sure = rng.integers(1, 4, len(truth))
    if reader == "careful":
        sure = rng.integers(1, 3, len(truth)) + (called == truth)
    return list(zip(called.tolist(), sure.tolist()))


def main() -> None:
    folder = Path(sys.argv[1])
    key = json.loads((folder / "key.json").read_text())
    truth = np.array([WORDS.index(word) for word in key["truth"]])
    rng, calls = np.random.default_rng(0), []
    for reader in ("careful", "guessing", "trusting"):
        given = answers(reader, truth, rng)
        saved = {"study": key["study"], "mode": key["mode"], "reader": reader}
        saved["answers"] = [
            {"answer": WORDS[called], "confidence": sure, "seconds": float(rng.uniform(2, 8))}
            for called, sure in given
        ]
        (folder / f"answers-{reader}.json").write_text(json.dumps(saved))
        called, sure = np.array(given).T
        calls.append(called)
        rating = np.where(called == 1, sure, -sure)
        print(reader, f"AUC {roc_auc_score(truth, rating):.4f}", end="")
        for name, right in (
            ("accuracy", called == truth),
            ("sensitivity", called[truth == 1] == 1),
            ("specificity", called[truth == 0] == 0),
        ):
            low, high = proportion_confint(right.sum(), len(right), method="wilson")
            print(f", {name} {right.mean():.4f} [{low:.4f}, {high:.4f}]", end="")
        print()
    counts = np.stack([(np.array(calls) == kind).sum(axis=0) for kind in (0, 1)], axis=1)
    print(f"kappa {fleiss_kappa(counts):.4f}")


if __name__ == "__main__":
    main()
