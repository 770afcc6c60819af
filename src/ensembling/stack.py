"""Stacking: a second model on the members' log-odds (of numbers, their values), on feature matrices, or on both.

For fold k the model, its hyper-parameters and the blocks' weights are fitted on the other folds' rows and applied to
fold k (src/ensembling/nested.py). Within those rows the hyper-parameters are chosen by another cross-validation whose
parts are the remaining folds, each scored with that fold's own features.

Features of a backbone that was trained fold by fold exist once per fold, as two backbones' spaces have nothing to do
with each other. Fold k's backbone has seen the labels of the rows that the second model learns from, which therefore
look better separated than fold k's rows will: the score stays honest, the model is too sure of itself. Members'
out-of-fold predictions and backbones that have not seen the competition (fold=-1) have no such gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits  # scikit-learn needs it too

from src.competition.metrics import Metric
from src.competition.task import Task
from src.ensembling.learners import Model, Tree, train
from src.ensembling.nested import Split, nested, splits
from src.errors import UserError, counted, first_few
from src.ids import only_in
from src.predictions import Features

# For fold k: features of all N rows that the out-of-fold predictions are about, and of the M test rows.
FeaturesFor = Callable[[int], tuple[np.ndarray, np.ndarray]]  # (N, D), (M, D) float32
Options = dict[str, float]

# What is tried, weakest model first: of equal scores the first is taken.
GRID: dict[str, tuple[Options, ...]] = {
    "logistic": tuple({"C": c} for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
    "ridge": tuple({"alpha": alpha} for alpha in (1e5, 1e4, 1e3, 1e2, 1e1, 1.0)),
    "lightgbm": tuple({"num_leaves": leaves, "n_estimators": trees} for leaves in (4, 15) for trees in (50, 200)),
    "mlp": tuple({"alpha": alpha} for alpha in (10.0, 1.0, 1e-1, 1e-3)),
}
LEARNERS = tuple(GRID)
OF_NUMBERS = ("ridge", "lightgbm", "mlp")
SCALED = ("logistic", "ridge", "mlp")  # learners to which the scale of a feature matters
COLUMNS = "columns:"  # before the first name of a table's columns among the features; then the name of their block
MEMBERS = "members"  # the block of all runs' log-odds, beside the blocks of features
# Deviations from the mean that count at most. A unit that is silent for all but a few of the rows that were fitted has
# hardly any deviation, and a row in which it speaks would be hundreds of them away: of 300 rows of a number, linear
# models of a backbone's features had 401 predicted on a scale of 1 to 100.
FARTHEST = 5.0
# Cells of features below which one thread multiplies matrices. NumPy and SciPy each bring a pool of threads, which wait
# for each other's processors between the steps of a fit: for 1,728 rows of 2,570 columns, on two busy cores, 2 to 4 s
# of processor time in place of 0.1 to 0.3 s.
LARGE = 1 << 26
SMALLEST = 1e-6  # probabilities are cut off here and at 1 - this before their log-odds are taken


@dataclass(frozen=True)
class Choice:
    """What was fitted for a fold: the options from GRID, the blocks' weights, how each block is scaled, its columns'
    mean and deviation (D_b,), and the model behind them."""

    options: Options
    weights: np.ndarray  # (B,) float64
    statistics: Sequence[tuple[np.ndarray, np.ndarray]]
    model: Model

    def predict(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Blocks (n, D_b) -> (n, C) float32."""
        scaled = [_scaled(x, s) for x, s in zip(blocks, self.statistics, strict=True)]
        return self.model(_joined(scaled, self.weights))

    def tree(self) -> Tree:
        """As `learners.save_tree` writes it."""
        return {
            "options": dict(self.options),
            "weights": self.weights,
            "statistics": [list(each) for each in self.statistics],
            "model": self.model.tree,
        }

    @classmethod
    def of(cls, tree: Tree) -> Choice:
        """The inverse of `tree`."""
        statistics = [(mean, std) for mean, std in tree["statistics"]]
        return cls(tree["options"], tree["weights"], statistics, Model(tree["model"]))


@dataclass(frozen=True)
class Stacked:
    pred: np.ndarray  # (N, C) float32, nested; NaN in folds that were not wanted
    test: dict[int, np.ndarray]  # by fold, (M, C) float32
    chosen: dict[int, Choice]  # by fold: fitted without it
    plain_pred: np.ndarray  # (N, C) float32: one model fitted on all rows, applied to the same


def stack(
    learner: str,
    blocks: Sequence[FeaturesFor],
    y: np.ndarray,
    folds: np.ndarray,
    task: Task,
    metric: Metric,
    *,
    seed: int = 0,
    groups: np.ndarray | None = None,
    wanted: Sequence[int] = (),
) -> Stacked:
    """Fit `learner` (of LEARNERS) on blocks of features side by side, nested; see `splits` for one fold alone.

    y (N, …) of the task, folds (N,) int64, groups (N,) or None; `wanted` folds are predicted, default all. With several
    blocks, [a * F1, b * F2, …], their weights are fitted too. Raises UserError if lightgbm is not installed.
    """
    outer = splits(folds, task.strata(y), seed, groups, wanted)

    def fit(fold: int, rows: np.ndarray) -> Choice:
        return choose(learner, blocks, y, folds, rows, fold, task, metric, seed, groups)

    def predict(choice: Choice, fold: int, rows: np.ndarray) -> np.ndarray:
        return choice.predict([features(fold)[0][rows] for features in blocks])

    first, everything = outer[0].fold, np.arange(len(y))
    cells = sum(features(first)[0].size for features in blocks)
    with threadpool_limits(1 if cells < LARGE else None, user_api="blas"):
        found = nested(outer, fit, predict, len(y), len(task.names))
        plain = choose(learner, blocks, y, folds, everything, first, task, metric, seed, groups)
    test = {k: choice.predict([features(k)[1] for features in blocks]) for k, choice in found.fitted.items()}
    return Stacked(found.pred, test, found.fitted, predict(plain, first, everything))


def choose(
    learner: str,
    blocks: Sequence[FeaturesFor],
    y: np.ndarray,
    folds: np.ndarray,
    rows: np.ndarray,
    fold: int,
    task: Task,
    metric: Metric,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Choice:
    """Hyper-parameters by cross-validation within `rows` (n,), then a fit on all of them with `fold`'s features.

    Equal scores are decided by the task's loss. Weights of several blocks are those with the least inner loss, found
    by Nelder-Mead on their logarithms at the chosen options, which are then chosen again.
    """
    own, truth, classes, loss = folds[rows], y[rows], len(task.names), task.loss
    inner = splits(own, task.strata(truth), seed, None if groups is None else groups[rows])
    prepared = [_standardised(blocks, rows, part) for part in inner]
    scored = np.sort(np.concatenate([part.score for part in inner]))  # all but those that are only ever learnt from

    last: list[Model | None] = [None] * len(inner)  # begun from: options and weights are tried near each other

    def predicted(options: Options, weights: np.ndarray) -> np.ndarray:
        pred = np.empty((len(rows), classes), np.float32)
        for number, (part, (fit_blocks, score_blocks)) in enumerate(zip(inner, prepared, strict=True)):
            x, labels = _joined(fit_blocks, weights), truth[part.fit]
            last[number] = model = train(learner, options, x, labels, classes, seed, task.groups, last[number])
            pred[part.score] = model(_joined(score_blocks, weights))
        return pred[scored]

    def best(weights: np.ndarray) -> Options:
        def quality(options: Options) -> tuple[float, float]:
            pred = predicted(options, weights)
            return metric.sign * metric.function(truth[scored], pred), -loss(truth[scored], pred)

        return max(GRID[learner], key=quality)

    weights = np.ones(len(blocks))
    options = best(weights)
    if len(blocks) > 1 and learner in SCALED:
        weights = search_weights(lambda w: loss(truth[scored], predicted(options, w)), len(blocks))
        options = best(weights)

    raw = [features(fold)[0][rows] for features in blocks]
    statistics = [_statistics(x) for x in raw]
    joined = _joined([_scaled(x, s) for x, s in zip(raw, statistics, strict=True)], weights)
    model = train(learner, options, joined, truth, classes, seed, task.groups)
    return Choice(options, weights, statistics, model)


def search_weights(loss: Callable[[np.ndarray], float], count: int) -> np.ndarray:
    """Weights (B,) of blocks with the least `loss`, by Nelder-Mead from equal weights, with geometric mean 1.

    Each is within 1/16 … 16 of the first. Their common scale is left to the strength of the model, which does the
    same: searched as well, both ran into their bounds on real data.
    """
    from scipy.optimize import minimize

    def weights(power: np.ndarray) -> np.ndarray:
        every = np.concatenate([[0.0], power])
        return 2.0 ** (every - every.mean())

    free = count - 1
    found = minimize(
        lambda power: loss(weights(power)),
        np.zeros(free),
        method="Nelder-Mead",
        bounds=[(-4, 4)] * free,
        # steps of a factor of 4 to begin with: the default steps from 0 are too small to see beyond the noise
        options={
            "initial_simplex": np.vstack([np.zeros(free), 2 * np.eye(free)]),
            "maxfev": 12 * count,
            "xatol": 0.2,
            "fatol": 1e-5,
        },
    )
    return weights(found.x)


def said_by(pred: np.ndarray, task: Task) -> np.ndarray:
    """What members say (R, N, C) as features (N, R * C) float32: the log-odds of probabilities, numbers as they are."""
    return pred.transpose(1, 0, 2).reshape(pred.shape[1], -1) if task.numeric else log_odds(pred)


def log_odds(pred: np.ndarray) -> np.ndarray:
    """Members' probabilities (R, N, C) as features (N, R * C) float32."""
    kept = np.clip(pred.astype(np.float64), SMALLEST, 1 - SMALLEST)
    odds = np.log(kept / (1 - kept)).astype(np.float32)
    return odds.transpose(1, 0, 2).reshape(pred.shape[1], -1)


def features_of(
    files: Sequence[Features], ids: np.ndarray, folds: np.ndarray, test_ids: np.ndarray, name: str
) -> FeaturesFor:
    """The function of a set of feature files: one for all folds (fold=-1), or one per fold.

    ids (N,) str and their folds (N,) int64, test_ids (M,) str; other ids in the files are left out. The function raises
    UserError that names the feature set if there is no file for the fold, if its backbone has seen labels of the fold's
    rows, or if it lacks ids.
    """
    by_fold = {file.fold: file for file in files}

    def features_for(k: int) -> tuple[np.ndarray, np.ndarray]:
        file = by_fold.get(k, by_fold.get(-1))
        if file is None:
            raise UserError(f"features: {name!r} has no file of fold {k}, only of {sorted(by_fold)}; make that one too")
        if file.fold >= 0:
            seen = only_in(ids[folds == k], np.array([], np.str_) if file.held_out is None else file.held_out)
            if seen:
                raise UserError(
                    f"features: {name!r} of fold {k} were made by a network that was trained on "
                    f"{counted(len(seen), 'row')} that fold {k} holds out here ({first_few(seen)}); "
                    "both need the same fold file, or, if they are of an "
                    f"older version, make the features again"
                )
        both = []
        for wanted, what in ((ids, "training"), (test_ids, "test")):
            x, missing = file.of(wanted, test=what == "test")
            if missing:
                raise UserError(
                    f"features: {name!r} lacks {len(missing)} of {len(wanted)} {what} ids ({first_few(missing)}); "
                    "make the features again from the present rows"
                )
            both.append(x)
        return both[0], both[1]

    return features_for


def _standardised(
    blocks: Sequence[FeaturesFor], rows: np.ndarray, part: Split
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For an inner part the blocks of the rows to fit on and of those to score, with the former's statistics."""
    fit_blocks, score_blocks = [], []
    for features in blocks:
        x = features(part.fold)[0][rows]
        statistics = _statistics(x[part.fit])
        fit_blocks.append(_scaled(x[part.fit], statistics))
        score_blocks.append(_scaled(x[part.score], statistics))
    return fit_blocks, score_blocks


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, (D,) float64; 1 where a column never varies."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    return mean, np.where(std > 1e-6 * (1 + np.abs(mean)), std, 1.0)


def _scaled(x: np.ndarray, statistics: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """In deviations from the mean, cut off at FARTHEST."""
    return np.clip((x - statistics[0]) / statistics[1], -FARTHEST, FARTHEST).astype(np.float32)


def _joined(blocks: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Blocks (n, D_b) side by side, times their weights. Equal weights are equal shares of the variance: a block of
    2,048 columns would otherwise drown one of ten."""
    mean_width = np.mean([block.shape[1] for block in blocks])
    factors = weights * np.sqrt(mean_width / np.array([block.shape[1] for block in blocks]))
    return np.concatenate([np.float32(f) * block for f, block in zip(factors, blocks, strict=True)], axis=1)
