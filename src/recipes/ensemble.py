"""Combine finished runs into one more run: load, fit weights nested, report, save."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from src.competition.metrics import Metric
from src.config import Config
from src.ensembling.blend import FITTED, Blend, blend, error_correlations, mix
from src.errors import UserError, counted
from src.files import write_json
from src.predictions import Predictions
from src.recipes.report import report_at_end
from src.reporting.figures import correlation_matrix
from src.runs.combined import FoldResult, compared, named, open_members, rows_of, save_run
from src.runs.folder import open_runs
from src.runs.members import Members, load_test
from src.runs.opening import groups_of, open_competition
from src.runs.scoring import metric_of


def ensemble(config: Config) -> None:
    """Blend `config.runs` by `config.ensemble.method`, write the result like a run's, and a report of it.

    oof.npz holds the nested predictions, so that scores of the ensemble are honest and it can itself be a member;
    test.npz of fold k holds the members' fold-k predictions with the weights that were fitted without fold k.
    """
    began = time.monotonic()
    method = config.ensemble.method
    competition = open_competition(config)
    config = named(config, "ensemble", f"{competition.name}-{method}")
    members = open_members(config, competition)
    task, metric = competition.task, metric_of(config, competition)
    if config.ensemble.method not in task.blends:
        choices = ", ".join(task.blends)
        raise UserError(f"ensemble.method={config.ensemble.method}: not for this kind of target; choose {choices}")
    rows, folds = counted(len(members.ids), "row"), counted(len(members.folds), "fold")
    print(f"{counted(len(members.names), 'member')}, {rows} of {folds}", flush=True)

    found = blend(
        method,
        members.oof,
        members.y,
        members.fold,
        metric,
        rounds=config.ensemble.rounds,
        bags=config.ensemble.bags,
        seed=config.seed,
        groups=groups_of(config, competition, rows_of(competition, members.ids)),
        strata=task.strata(members.y),
        columns=() if task.exclusive else task.groups,
    )
    results = {}
    for k in members.folds:
        weights = found.weights[k]
        results[k] = FoldResult(
            test=mix(method, load_test(open_runs(config.paths), members, k), weights),
            kept=method,
            weights=dict(zip(members.names, weights.tolist(), strict=True)),
            notes={"model": method, "fitted_on_itself": method in FITTED and len(members.folds) == 1},
        )
    target = task.cells(members.y)
    oof = Predictions(members.ids, found.pred, task.names, members.fold, target, task.kind)
    folder = save_run(config, competition, oof, members.test_ids, results, began)
    print_worth(folder, members, found, metric)
    report_at_end(config)


def print_worth(folder: Path, members: Members, found: Blend, metric: Metric) -> None:
    """Print what each member is worth, and keep it in members.json and figures/correlation.png."""
    score = {name: metric.function(members.y, pred) for name, pred in zip(members.names, members.oof, strict=True)}
    nested, plain = (metric.function(members.y, pred) for pred in (found.pred, found.plain_pred))
    table = error_correlations(np.stack([members.task.credit(members.y, pred) for pred in members.oof]))
    weights = np.mean(list(found.weights.values()), axis=0)
    others = len(members.names) - 1
    rows = [
        {
            "run": name,
            "score": score[name],
            "weight": float(weights[r]),
            "correlation": float((table[r].sum() - 1) / others) if others else None,
            "loss_without": metric.sign * (nested - metric.function(members.y, found.without[r])) if others else None,
        }
        for r, name in enumerate(members.names)
    ]
    write_json(folder / "members.json", {"metric": metric.name, "nested": nested, "plain": plain, "members": rows})
    title = f"{folder.name}: errors of its members"
    picture = correlation_matrix(folder / "figures" / "correlation.png", table, members.names, title)

    width = max(len("member"), *map(len, members.names))
    print(f"\n{'member':<{width}}  {metric.name:>12}  weight  correlation of errors  ensemble loses without it")
    for row in rows:
        alike, loss = (row["correlation"], row["loss_without"])
        end = f"{alike:>21.3f}  {loss:>+25.4f}" if alike is not None else f"{'-':>21}  {'-':>25}"
        print(f"{row['run']:<{width}}  {row['score']:>12.4f}  {row['weight']:>6.3f}  {end}")
    print(compared(metric, score, nested, plain))
    print(f"wrote {picture}", flush=True)
