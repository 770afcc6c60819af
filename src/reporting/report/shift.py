"""Whether the test set looks like the training set: how well a linear model tells them apart by features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.competition.metrics import area_under_curve
from src.reporting.report import charts
from src.reporting.report.section import Block, Card, Cards, Note, Picture, Section

LEAST = 20  # rows of each side
PARTS = 5


@dataclass(frozen=True)
class Shift:
    """auc: out-of-sample, 0.5 where nothing tells them apart. train, test: (n,) and (m,) float64 probabilities of being
    a test row, by a model that has not seen the row."""

    auc: float
    train: np.ndarray
    test: np.ndarray


def tell_apart(train: np.ndarray, test: np.ndarray, seed: int = 0) -> Shift:
    """Cross-validated logistic regression of features train (n, D) against test (m, D), both at least LEAST rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert min(len(train), len(test)) >= LEAST
    x = np.concatenate([train, test]).astype(np.float64)
    side = np.repeat([0, 1], [len(train), len(test)])
    # strongly regularised: as many features as rows would tell any two samples apart in training
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, class_weight="balanced"))
    share, areas = np.empty(len(x)), []
    for learnt, held in StratifiedKFold(PARTS, shuffle=True, random_state=seed).split(x, side):
        share[held] = model.fit(x[learnt], side[learnt]).predict_proba(x[held])[:, 1]
        areas.append(area_under_curve(side[held] == 1, share[held]))
    return Shift(float(np.mean(areas)), share[side == 0], share[side == 1])


def shift(found: Shift, source: str, unlike: Sequence[Card], like: Sequence[Card]) -> Section:
    """unlike: test rows that give the test set away. like: training rows that look most like test rows."""
    blocks: list[Block] = [
        Note(f"AUC {found.auc:.3f}: {_verdict(found.auc)} {source}", warning=found.auc >= 0.7),
        Picture(
            charts.drawn(7.0, 2.8, lambda axes: _histogram(axes, found)),
            f"Histogram of the probability of being a test row, of training and of test rows; AUC {found.auc:.3f}",
            "The more the two stand apart, the less a validation on training rows says about the test rows.",
        ),
    ]
    if unlike:
        blocks.append(Cards("shift-test", "Test rows that give it away: surest not to be training rows", unlike))
    if like:
        blocks.append(Cards("shift-train", "Training rows that look most like test rows", like))
    return Section("shift", "Does the test set look like the training set?", blocks)


def no_shift(why: str) -> Section:
    return Section("shift", "Does the test set look like the training set?", [Note(f"Not looked at: {why}.")])


def _histogram(axes: object, found: Shift) -> None:
    bins = np.linspace(0, 1, 26)
    for values, name, colour in ((found.train, "training", charts.COLOURS[0]), (found.test, "test", charts.COLOURS[1])):
        weights = np.full(len(values), 1 / len(values))
        axes.hist(values, bins, weights=weights, alpha=0.55, label=name, color=colour)  # type: ignore[attr-defined]
    axes.set(xlabel="probability of being a test row", ylabel="share of the rows")  # type: ignore[attr-defined]
    axes.legend(fontsize=8, frameon=False)  # type: ignore[attr-defined]


def _verdict(auc: float) -> str:
    if auc < 0.6:
        return "the two can hardly be told apart (0.5 is chance, and rows that were drawn evenly come out below it)."
    if auc < 0.7:
        return "they differ a little."
    if auc < 0.9:
        return "they differ: the score on training rows may not hold for the test rows."
    return "they are easily told apart: what the score says about training rows need not hold for the test rows."
