"""Scores reader studies, from the answers that their page saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motfm_jax.evaluation.readers import GENERATED, REAL, SIDES
from motfm_jax.evaluation.tables import Table
from motfm_jax.io.folders import read_json, whole_file, write_json
from motfm_jax.metrics.readers import Estimate, area, fleiss_kappa, wilson

SURE = (1, 2, 3)  # a guess, probable, sure


class Answers(NamedTuple):
    """Of one reader, in the order of the trials; fewer where the reader has not finished.

    Attributes:
      reader: the name.
      right: whether each was right, [n] bool.
      ratings: how sure the reader is that an image is generated, -3 to 3, [n]; of pairs, that the
        right one is real.
      truth: whether each image is generated, [n] bool; of pairs, whether the right one is real.
      seconds: that it was looked at, [n].
    """

    reader: str
    right: np.ndarray
    ratings: np.ndarray
    truth: np.ndarray
    seconds: np.ndarray


def read_answers(path: Path, key: Mapping[str, Any]) -> Answers:
    """The answers that a reader saved; ValueError if they are not of this study."""
    saved = read_json(path, "give a file that the study's page saved")
    words = SIDES if key["mode"] == "pairs" else (REAL, GENERATED)
    try:
        study, reader = saved["study"], str(saved["reader"])
        rows = [(row["answer"], row["confidence"], row["seconds"]) for row in saved["answers"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not answers that the study's page saved") from error
    if study != key["study"]:
        raise ValueError(f"{path}: answers of another study; give the key that was made with it")
    fits = len(rows) <= len(key["truth"]) and all(
        answer in words and sure in SURE and isinstance(seconds, int | float) and seconds >= 0
        for answer, sure, seconds in rows
    )
    if not (rows and fits):
        raise ValueError(f"{path}: {len(rows)} answers, some of which no page saves; save it again")
    answers, sure, seconds = zip(*rows)
    second = np.array([answer == words[1] for answer in answers])
    truth = np.array([truth == words[1] for truth in key["truth"][: len(rows)]])
    ratings = np.where(second, 1, -1) * np.array(sure)
    return Answers(reader, second == truth, ratings, truth, np.array(seconds, float))


class Scores(NamedTuple):
    """Of all readers.

    Attributes:
      mode: "single" or "pairs".
      readers: their answers.
      kappa: Fleiss' kappa of the trials that all have answered; NaN for one reader.
      accuracy: mean over the readers, of the trials that all have answered. The interval is for
        other images and these readers: that of one reader, which is right where they agree, and
        too wide by what they disagree.
      common: how many trials all have answered.
    """

    mode: str
    readers: Sequence[Answers]
    kappa: float
    accuracy: Estimate
    common: int

    def rows(self) -> list[dict[str, Any]]:
        """One a reader: accuracy and, of single images, sensitivity (generated ones found),
        specificity (real ones left alone) and the area under the ROC curve."""
        rows = []
        for each in self.readers:
            row: dict[str, Any] = {"reader": each.reader, "answers": len(each.right)}
            measures = {"accuracy": wilson(int(each.right.sum()), len(each.right))}
            if self.mode != "pairs":
                for name, kind in (("sensitivity", True), ("specificity", False)):
                    own = each.right[each.truth == kind]
                    measures[name] = wilson(int(own.sum()), len(own))
                measures["AUC"] = area(each.ratings[~each.truth], each.ratings[each.truth])
            for name, (value, *ends) in measures.items():
                known = np.isfinite(ends).all()
                row |= {name: value if np.isfinite(value) else None}
                row |= {f"{name}_interval": ends} if known else {}
            rows.append(row | {"seconds": float(np.median(each.seconds))})
        return rows

    def sentence(self) -> str:
        """For a paper."""
        numbers, readers = self.rows(), len(self.readers)
        of = f"{self.common} {'pairs' if self.mode == 'pairs' else 'images'}"
        asked = (
            "Shown a real and a generated image side by side"
            if self.mode == "pairs"
            else "Shown real and generated images in random order"
        )
        accuracy = "{:.1%} (95% CI of these readers {:.1%} to {:.1%})".format(*self.accuracy)
        text = f"{asked}, {readers} reader{'s' * (readers > 1)} judged {of} with an accuracy of "
        text += f"{accuracy}; guessing gives 50%."
        areas = [row["AUC"] for row in numbers if row.get("AUC") is not None]
        if areas:
            mean = "mean " * (readers > 1)
            text += f" The {mean}area under the ROC curve was {np.mean(areas):.2f}."
        if np.isfinite(self.kappa):
            text += f" Fleiss' kappa between readers was {self.kappa:.2f}."
        seconds = np.median(np.concatenate([each.seconds for each in self.readers]))
        return text + f" Readers took {seconds:.1f} s (median)."


def score(key: Mapping[str, Any], readers: Sequence[Answers]) -> Scores:
    """Raises ValueError for two readers of one name, or none."""
    names = [each.reader for each in readers]
    twice = {name for name in names if names.count(name) > 1}
    if twice or not names:
        raise ValueError(
            f"readers {sorted(twice)} came twice: give one file of each; where two people gave one "
            'name, change "reader" in a file'
            if twice
            else "no answers"
        )
    common = min(len(each.right) for each in readers)
    chose = np.stack([each.ratings[:common] > 0 for each in readers])
    counts = np.stack([(~chose).sum(axis=0), chose.sum(axis=0)], axis=1)
    share = float(np.mean([each.right[:common] for each in readers]))
    return Scores(
        key["mode"],
        tuple(readers),
        fleiss_kappa(counts),
        wilson(share * common, common),
        common,
    )


def write(out: Path, scores: Scores) -> str:
    """Writes study.json, .md, .csv and .png to a folder; returns the text of study.md."""
    out.mkdir(parents=True, exist_ok=True)
    rows, caption = scores.rows(), scores.sentence()
    table = Table(caption, rows)
    table.write(out / "study")
    write_json(
        out / "study.json",
        {
            "sentence": caption,
            "accuracy": list(scores.accuracy),
            "fleiss_kappa": scores.kappa if np.isfinite(scores.kappa) else None,
            "readers": rows,
        },
    )
    _draw(out / "study.png", scores, rows)
    return table.markdown()


def _draw(path: Path, scores: Scores, rows: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy, sensitivity and specificity of each reader with intervals, and ROC curves."""
    from matplotlib.figure import Figure  # slow to import; needs no display

    single = scores.mode != "pairs"
    figure = Figure(figsize=(9 if single else 5, 4), layout="constrained")
    parts = figure.subplots(1, 2 if single else 1, squeeze=False)[0]
    shown = ("accuracy", "sensitivity", "specificity") if single else ("accuracy",)
    for offset, name in enumerate(shown):
        known = [(n, row) for n, row in enumerate(rows) if row.get(name) is not None]
        places = [n + 0.2 * (offset - (len(shown) - 1) / 2) for n, _ in known]
        values = np.array([row[name] for _, row in known])
        ends = np.array([row.get(f"{name}_interval", (row[name],) * 2) for _, row in known])
        parts[0].errorbar(places, values, np.abs(ends.T - values), fmt="o", capsize=3, label=name)
    parts[0].axhline(0.5, color="grey", linestyle=":", label="guessing")
    parts[0].set_xticks(range(len(rows)), [str(row["reader"]) for row in rows])
    parts[0].set(ylim=(-0.02, 1.02), ylabel="share, 95% interval")
    parts[0].legend(fontsize="small")
    if single:
        for each in scores.readers:
            parts[1].plot(*_curve(each), marker=".", label=each.reader)
        parts[1].plot((0, 1), (0, 1), color="grey", linestyle=":")
        parts[1].set(xlabel="real images called generated", ylabel="generated images found")
        parts[1].legend(fontsize="small")
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120)


def _curve(each: Answers) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, from the strictest threshold of the ratings to the laxest."""
    thresholds = np.array([4, 3, 2, 1, -1, -2, -3])
    false, true = (each.ratings[each.truth == kind] for kind in (False, True))
    return _rates(false, thresholds), _rates(true, thresholds)


def _rates(ratings: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of ratings at or above each threshold; 0 of none."""
    return (ratings[None] >= thresholds[:, None]).sum(axis=1) / max(len(ratings), 1)
