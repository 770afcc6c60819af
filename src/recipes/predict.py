"""Predict whatever test rows are there with any run, student, soup, ensemble or stack, down to its networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.competition.beside import columns_of_test_rows
from src.competition.tables import Competition
from src.config import Config, build, migrate
from src.errors import UserError, counted
from src.files import read_config, read_json
from src.log import say
from src.predictions import Predictions, fold_mean
from src.runs.claims import run_name
from src.runs.decided import load_decision
from src.runs.folder import finished_folds, open_runs, run_folder
from src.runs.kept import open_test
from src.runs.published import Published
from src.training.interrupt import Interrupted, StopWish, stop_on_signals

if TYPE_CHECKING:  # loading torch takes seconds, and a submission is written before
    from src.fold.passes import Passes
    from src.fold.pipeline import Network, Part


def predict_run(config: Config, began: float) -> None:
    """Write submissions/<run>.csv and .npz for the test rows that are under `competition.root` now; nothing else.

    Training rows are not needed. A valid submission is there from the first seconds on, of priors and then of the folds
    that are done; within a time budget views and then folds are left out. began: time.time() of the command's start.
    """
    run, runs = run_name(config), open_runs(config.paths)
    if not finished_folds(runs, run):
        raise UserError(f"run={run}: no fold is finished; train it first")
    folder = run_folder(runs, run)
    with stop_on_signals() as wish:
        if os.environ.get("RANK", "0") != "0":
            follow(config, folder, run, began, wish)
            return
        competition, prior = open_test(config, folder)
        decision = None if config.competition.decide == "none" else load_decision(folder)
        output = Published(Path(config.paths.submissions), run, competition, decision)
        output.write_prior(prior)  # before torch is loaded, which takes its time
        try:
            predict_folds(config, run, competition, prior, began, wish, output)
        except UserError:
            output.withdraw()
            raise
        except Interrupted as stop:
            raise Interrupted(stop.exit_code - 128, f"stopped; {output.csv} {output.holds}") from None
        if decision is not None:
            print(f"decided: {decision.note}")
        print(f"wrote {output.csv} and {output.npz}" if output.fresh else f"{output.csv} {output.holds}")


def follow(config: Config, folder: Path, run: str, began: float, wish: StopWish) -> None:
    """What every process but the first does: its share of the rows."""
    competition, prior = open_test(config, folder)
    predict_folds(config, run, competition, prior, began, wish, None)


def predict_folds(
    config: Config,
    run: str,
    competition: Competition,
    prior: np.ndarray,
    began: float,
    wish: StopWish,
    output: Published | None,
) -> None:
    """Go fold by fold through all networks that `run` is made of; the first process has an `output`, which is written
    after each of them."""
    from src.data.loader import kept_workers
    from src.fold.combine import TestRows, combine, stopgap
    from src.fold.deadline import deadline
    from src.fold.passes import Passes, open_stores
    from src.fold.pipeline import Asked, columns_of, networks_of, parts_of

    # ---- what there is to do ----------------------------------------------------------------------------------------
    folder, task, ids = run_folder(open_runs(config.paths), run), competition.task, competition.test.ids
    parts = parts_of(Asked(config, build(migrate(read_config(folder / "config.yaml")))), run)
    needs = {k: networks_of(part) for k, part in parts.items()}
    every = list({network.key: network for needed in needs.values() for network in needed}.values())
    for network in every:
        check_classes(network, competition)
    beside = sorted({name for part in parts.values() for name in columns_of(part)})
    cells = columns_of_test_rows(config.competition, competition, beside) if beside else {}
    rows = TestRows(ids, task, {}, cells)
    passes = Passes(competition, prior, deadline(config, began), wish)
    accelerator = passes.prepare(every[0].config if every else config)
    accelerator.wait_for_everyone()

    # ---- fold by fold -----------------------------------------------------------------------------------------------
    done: list[Predictions] = []
    left_out = ""
    with open_stores(config, competition, every, accelerator) as stores, kept_workers():
        if passes.end is not None and passes.go_on():
            passes.try_out(every, stores)
        for number, (k, part) in enumerate(parts.items()):
            if not passes.go_on():
                left_out = f"over before fold {k} was begun"
                break
            coming = [[n for n in needed if n.key not in rows.done] for needed in list(needs.values())[number:]]
            count, views = passes.affordable(coming)
            if (text := shortage(views, list(parts)[number + (count or not number) :], every)) != left_out:
                left_out = text
                say(f"time_budget: {text or 'time for all of it'}")

            def show(part: Part = part) -> None:
                if output is not None and not done and (early := stopgap(part, rows)) is not None:
                    output.write(early, -1, last=False, holds="holds what is there of the first fold")

            if number and not count:
                break
            if not predict_fold(coming[0], stores, passes, views, rows.done, number == 0, show):
                left_out = f"over before fold {k} was predicted"
                break
            if output is not None:
                pred = combine(part, rows)
                done.append(Predictions(ids, pred, task.names, np.full(len(ids), k), kind=task.kind))
                if len(done) < len(parts):
                    publish(output, done, len(parts), last=False)
            say(f"fold {k}: {counted(len(ids), 'test row')} predicted")
            for key in rows.done.keys() - {n.key for needed in list(needs.values())[number + 1 :] for n in needed}:
                del rows.done[key]
    if output is not None and done:
        publish(output, done, len(parts), last=True)
    if output is not None and len(done) < len(parts):
        say(f"time_budget: {left_out}; {output.csv} {output.holds}")


def predict_fold(
    networks: Sequence[Network],
    stores: Any,
    passes: Passes,
    views: int,
    done: dict[Any, np.ndarray],
    first: bool,
    show: Callable[[], None],
) -> bool:
    """Fill `done` by network, and `show` what is there after each; whether all went over all rows in time. Of the first
    fold, also rows that were reached before the time was over count, as there is nothing better."""
    for network in networks:
        pred, whole = passes.over(network, stores[network.key], views)
        if whole or (first and not network.features):
            done[network.key] = pred
            show()
        if not whole:
            return False
    return True


def publish(output: Published, done: Sequence[Predictions], folds: int, last: bool) -> None:
    mean = fold_mean(done)
    fold = int(mean.fold[0]) if len(mean.fold) else -1
    output.write(mean.pred, fold, last, holds=f"holds {len(done)} of {folds} folds")


def shortage(views: int, folds: Sequence[int], networks: Sequence[Network]) -> str:
    """What there is no time for, in words; "" for nothing."""
    most = max((len(network.views) for network in networks), default=1)
    words = [f"{views} of {most} TTA views"] if views < most else []
    if folds:
        words.append(f"no time for fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}")
    return ", ".join(words)


def check_classes(network: Network, competition: Competition) -> None:
    """UserError for a network that knows other classes than the run that it is part of."""
    if network.fold < 0 or network.features:
        return
    classes = read_json(network.place / "manifest.json").get("classes")
    if classes != competition.task.names.tolist():
        raise UserError(f"run={network.run}: was trained on other classes than {competition.root} has")
