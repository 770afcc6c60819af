"""Blending: one prediction from several members', by fixed rules or by weights fitted on out-of-fold rows.

What is reported and kept is nested (see src/ensembling/nested.py): weights for fold k are fitted on the other folds'
rows, so that an ensemble's out-of-fold predictions are as honest as a run's, and another ensemble may take them as a
member's. Test rows of fold k are the members' fold-k predictions under the same weights; the submission is the mean
over the folds, as with any run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.competition.metrics import Metric
from src.ensembling.nested import Split, nested, splits
from src.ensembling.pool import Mixture, Pool, add, make_pool, members_of, mixture, quality, take
from src.seeds import Stream, generator

METHODS = ("vote", "soft", "geometric", "rank", "climb", "convex")
FITTED = ("climb", "convex")  # weights are fitted; the others take the members as equals
SAMPLE = 10_000  # rows that the weights without a member are fitted on
SMALLEST = 1e-7  # floor of probabilities in the geometric mean, so that one zero does not veto a class


@dataclass(frozen=True)
class Blend:
    pred: np.ndarray  # (N, C) float32, nested
    weights: dict[int, np.ndarray]  # by fold, (R,) float64, sum 1: fitted without the fold
    plain_pred: np.ndarray  # (N, C) float32: weights fitted on the very rows they are applied to
    plain_weights: np.ndarray  # (R,) float64
    without: tuple[np.ndarray, ...]  # per member the nested (N, C) predictions of the others; empty for one member


def blend(
    method: str,
    oof: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    metric: Metric,
    *,
    strata: np.ndarray | None = None,
    rounds: int = 50,
    bags: int = 1,
    seed: int = 0,
    groups: np.ndarray | None = None,
    columns: Sequence[int] = (),
    leave_out: bool = True,
) -> Blend:
    """Blend members, nested. oof (R, N, C) float32, y as the task encodes it (see `make_pool`), folds (N,) int64,
    groups (N,) or None. strata (N,) int64: what parts of a single fold share evenly, None for y itself. columns: how
    many each of several targets has.

    With `leave_out` also what remains without each member, as many fits again as there are members; these take at
    most SAMPLE rows each, evenly spread, because they only say what a member is worth.
    """
    pool = make_pool(metric, oof, y, columns) if method in FITTED else None
    # a fixed rule needs no parts, and `rank` ranks a fold as a whole, as it does the test rows
    parts = splits(folds, y if strata is None else strata, seed, groups) if pool else _whole(folds)

    def fit(rows: np.ndarray, allowed: Sequence[int]) -> np.ndarray:
        if pool is None:
            return np.bincount(allowed, minlength=len(oof)) / len(allowed)
        if len(allowed) < len(oof):
            rows = rows[:: -(-len(rows) // SAMPLE)]
        return fit_weights(method, take(pool, rows), allowed=allowed, rounds=rounds, bags=bags, seed=seed)

    def run(allowed: Sequence[int]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        found = nested(
            parts,
            lambda fold, rows: fit(rows, allowed),
            lambda weights, fold, rows: mix(method, oof, weights, rows),
            len(y),
            oof.shape[2],
            threads=2,  # each has its own copy of its rows, so not as many as there are cores
        )
        return found.pred, found.fitted

    everyone = list(range(len(oof)))
    pred, weights = run(everyone)
    plain_weights = fit(np.arange(len(y)), everyone)
    plain_pred = np.empty_like(pred)
    for part in _whole(folds):
        plain_pred[part.score] = mix(method, oof, plain_weights, part.score)
    without: tuple[np.ndarray, ...] = ()
    if leave_out and len(oof) > 1:
        without = tuple(run([r for r in everyone if r != left])[0] for left in everyone)
    return Blend(pred, weights, plain_pred, plain_weights, without)


def _whole(folds: np.ndarray) -> list[Split]:
    return [Split(k, np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in np.unique(folds).tolist()]


def mix(method: str, pred: np.ndarray, weights: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """(M, C) float32 from members' pred (R, M, C) with weights (R,), sum 1; a member of weight 0 is left out.

    vote: share of the votes; equal numbers are decided by the mean probability, which counts as one vote more.
    geometric: weighted mean of the logarithms, rows scaled to sum 1. rank: each class's probabilities become ranks
    among these rows, (rank - 1/2) / M with ties in the middle; rows of three or more classes do not sum to 1, and
    rare classes are as likely to lead as frequent ones, so it is for auc. soft, climb, convex: weighted mean.
    """
    chosen = np.flatnonzero(weights)
    total = np.zeros(pred.shape[1:] if rows is None else (len(rows), pred.shape[2]))
    for r in chosen.tolist():
        member = pred[r] if rows is None else pred[r][rows]
        if method == "vote":
            total[np.arange(len(member)), member.argmax(axis=1)] += weights[r]
            total += weights[r] / len(chosen) * member
        elif method == "geometric":
            total += weights[r] * np.log(np.maximum(member, SMALLEST))
        elif method == "rank":
            total += weights[r] * _rank(member)
        else:
            total += weights[r] * member
    if method == "geometric":
        total = np.exp(total - total.max(axis=1, keepdims=True))
        total /= total.sum(axis=1, keepdims=True)
    elif method == "vote":
        total /= 1 + 1 / len(chosen)
    return total.astype(np.float32)


def _rank(member: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return (rankdata(member, axis=0) - 0.5) / len(member)


def fit_weights(
    method: str, pool: Pool, *, allowed: Sequence[int] | None = None, rounds: int = 50, bags: int = 1, seed: int = 0
) -> np.ndarray:
    """(R,) float64 weights, sum 1, of `climb` or `convex` on the rows of the pool; 0 for members not `allowed`."""
    if method == "climb":
        return climb(pool, rounds=rounds, bags=bags, seed=seed, allowed=allowed)
    assert method == "convex", method
    return convex(pool, allowed=allowed)


def climb(
    pool: Pool, *, rounds: int = 50, bags: int = 1, seed: int = 0, allowed: Sequence[int] | None = None
) -> np.ndarray:
    """Hill climbing with replacement (Caruana et al. 2004): again and again add the member that helps the mean most.

    Returns how often each was taken by the best of the `rounds` means, as shares, (R,) float64. Equal scores are
    decided by log loss, so that the order of the members does not count. `bags` above 1: mean over climbs, each with
    a random half of the members and a bootstrap sample of the rows.
    """
    members = members_of(pool, allowed)
    if bags == 1:
        return _climb(pool, rounds, members)
    random = generator(seed, Stream.BAGS)
    weights = np.zeros(len(pool.own))
    for _ in range(bags):
        half = np.sort(random.permutation(members)[: (len(members) + 1) // 2]).tolist()
        rows = random.integers(0, len(pool.y), len(pool.y))
        weights += _climb(take(pool, rows), rounds, half)
    return weights / bags


def _climb(pool: Pool, rounds: int, members: Sequence[int]) -> np.ndarray:
    counts = np.zeros(len(pool.own))
    base: Mixture = mixture(pool, counts)
    best, kept = (-np.inf, -np.inf), counts
    for _ in range(rounds):
        tried = [quality(pool, base, r, b=1.0) for r in members]
        reached = max(tried)
        chosen = members[tried.index(reached)]
        base = add(pool, base, chosen)
        counts[chosen] += 1
        if reached > best:
            best, kept = reached, counts.copy()
    return kept / kept.sum()


def convex(pool: Pool, *, allowed: Sequence[int] | None = None) -> np.ndarray:
    """Weights on the simplex with the best metric, (R,) float64.

    Log loss and squared error are convex in them: SLSQP with the gradient finds their minimum. For other metrics,
    often steps, Nelder-Mead goes on with the metric itself, from there and from equal weights. (Moving weight to and
    from one member at a time reached the same, 0.797 on fresh rows for ten members, in the same time.)
    """
    members = members_of(pool, allowed)
    smooth = _least_loss(pool, members)
    one_number = pool.truth is not None and pool.truth.shape[1] == 1
    if pool.metric.name in (("rmse", "r2") if one_number else ("log_loss",)) or len(members) == 1:
        return smooth
    equal = np.bincount(members, minlength=len(pool.own)) / len(members)
    found = [smooth, equal, *(_best_metric(pool, start, members) for start in (smooth, equal))]
    return max(found, key=lambda weights: quality(pool, mixture(pool, weights)))


def _best_metric(pool: Pool, start: np.ndarray, members: Sequence[int]) -> np.ndarray:
    from scipy.optimize import minimize

    def spread(values: np.ndarray) -> np.ndarray:
        weights = np.zeros(len(pool.own))
        weights[members] = np.abs(values)
        return weights

    first = start[members]
    # first steps as large as a third of the sum: a metric of steps does not feel the default ones of 5 %
    simplex = np.vstack([first, first + np.eye(len(members)) / 3])
    found = minimize(
        lambda values: -quality(pool, mixture(pool, spread(values)))[0],
        first,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": 60 * len(members)},
    )
    weights = spread(found.x)
    return weights / weights.sum()


def _least_loss(pool: Pool, members: Sequence[int]) -> np.ndarray:
    """The weights with the least log loss, or of numbers the least squared error."""
    from scipy.optimize import minimize

    own, total = (values[members].reshape(len(members), -1) for values in (pool.own, pool.total))
    truth = None if pool.truth is None else pool.truth.reshape(-1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        if truth is not None:
            error = weights @ own - truth
            return float(np.square(error).mean()), 2 * own @ error / len(error)
        mixed, scale = np.maximum(weights @ own, 1e-15), np.maximum(weights @ total, 1e-15)
        value = np.log(scale / mixed).mean()
        gradient = (total @ (1 / scale) - own @ (1 / mixed)) / own.shape[1]
        return float(value), gradient

    start = np.full(len(members), 1 / len(members))
    if len(members) > 1:
        result = minimize(
            loss,
            start,
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * len(members),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-10, "maxiter": 300},
        )
        found = np.clip(result.x, 0, None)
        found[found < 1e-6] = 0
        found /= found.sum()
        if loss(found)[0] <= loss(start)[0]:
            start = found
    weights = np.zeros(len(pool.own))
    weights[members] = start
    return weights


def error_correlations(credits: np.ndarray) -> np.ndarray:
    """(R, R) float64: correlation over the rows of 1 - the probability that each member gives to what is true, credits
    (R, N) as `Task.credit` has them; 0 where a member never varies."""
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.atleast_2d(np.corrcoef(1 - credits))
    table = np.nan_to_num(table, nan=0.0)
    np.fill_diagonal(table, 1.0)
    return table
