"""Train one fold: build, plan, run, choose the weights, predict, save. Top to bottom, this is the whole run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.competition.folds import Fold, halves_of
from src.competition.metrics import scores
from src.competition.tables import Competition
from src.config import Config
from src.errors import counted
from src.fold.choose import choose_weights
from src.fold.deadline import Turn, affordable_views, costs_of, plan_in_time, shortened
from src.fold.explain import explain
from src.fold.in_time import Around, after_steps, train_in_time
from src.fold.lesson import open_lesson
from src.fold.look_on import open_tracker
from src.fold.network import make_learner
from src.fold.plan import plan_fold, watched_rows
from src.fold.predictor import make_predictor, predict_test
from src.fold.probe import start_from_probe
from src.fold.pruned import before_and_after
from src.fold.resident import open_resident
from src.fold.resume import crops, described, precisions, unfinished
from src.fold.setup import set_up
from src.inference.tta import parse_views
from src.log import clock, say
from src.model.backbone import check_sizes
from src.model.report import inspect
from src.predictions import Predictions
from src.runs.decided import quote
from src.runs.folder import finished_folds, open_runs
from src.runs.made_by import made_by
from src.runs.opening import groups_of
from src.runs.output import FoldSummary, save_fold
from src.runs.scoring import metric_of, reported
from src.training.checkpoint import CheckpointWriter, remove_checkpoints
from src.training.device import from_main
from src.training.memory import count_memory
from src.training.session import Progress


def train_fold(
    config: Config,
    competition: Competition,
    fold: Fold,
    k: int,
    run: Path,
    accelerator: Any,
    turn: Turn | None = None,
) -> bool:
    """Everything of fold k in the folder `run`, from the weights' source to the manifest.

    turn: until when, with what others. Returns False, with nothing written, if there is not enough time to begin.
    """
    began, folder, peak_memory = time.monotonic(), run / f"fold{k}", count_memory(accelerator.device)
    task, metric, runs = competition.task, metric_of(config, competition), open_runs(config.paths)
    say(f"{run.name}/fold{k}: {counted(len(fold.train), 'row')} to train on, {len(fold.val)} held out")

    # ---- network, images, what to learn -----------------------------------------------------------------------------
    start = set_up(config, competition, fold, k, run, accelerator)
    train_rows, held_out, spec = start.fold.train, start.fold.val, start.train.spec
    probabilities = make_predictor(config, accelerator, start.preprocess, start.outputs.predict)
    lesson = open_lesson(config, competition, start, k, runs, accelerator, probabilities)

    # ---- plan -------------------------------------------------------------------------------------------------------
    strata, world = lesson.strata[lesson.rows], accelerator.num_processes
    whole = plan_fold(config, lesson.rows, strata, start.augment, world, start.hold_norms)
    alone = [stage.size for stage in whole.stages if stage.batch_size == 1 and not start.hold_norms]
    check_sizes(config.model.name, start.network, [stage.size for stage in whole.stages], spec, alone)
    state = unfinished(config, folder / "checkpoints", whole, accelerator)
    knows = start.source.kind == "run"  # the classes, before the first step
    if state is None:
        knows |= start_from_probe(config, competition, start, whole.stages[0].size, metric, accelerator)
    lesson = dataclasses.replace(lesson, resident=open_resident(config, start, lesson, whole, state, accelerator))
    so_far = Progress(0, [], 0.0) if state is None else Progress(*(state[key] for key in Progress._fields))
    cuts: list[list[float]] = [] if state is None else state["cuts"]  # [step, factor]: how a time budget changed it
    ended = finished_folds(run.parent, run.name)
    timing = (
        None
        if turn is None
        else plan_in_time(config, start, lesson, whole, cuts, so_far.step, accelerator, turn, ended, knows)
    )
    if turn is not None and timing is None:
        return False
    plan = shortened(whole, cuts)
    costs = timing.cost.steps if timing is not None else costs_of(config, start, lesson, plan, accelerator)
    for stage in plan.stages:
        say(stage.describe())
    report = inspect(start.network, plan.stages[-1].size, spec)
    if report is not None:
        say(report.line(plan.stages[-1].size))

    # ---- train ------------------------------------------------------------------------------------------------------
    learner = make_learner(config, start.network, accelerator)
    if state is not None:
        learner.restore(state)
        say(f"going on at step {so_far.step + 1} of {plan.steps} from {folder / 'checkpoints'}")
    tracker = open_tracker(config, competition.name, folder, lesson, plan, state, accelerator)
    writer = CheckpointWriter(folder / "checkpoints", config.checkpoint.keep)
    metrics = reported(config, competition)

    watched = watched_rows(config, held_out, lesson.strata[held_out])
    if len(watched) < len(held_out):
        say(f"scores amid training are of {len(watched)} of the {len(held_out)} rows held out (eval.rows)")

    def validate(network: nn.Module, size: int) -> Mapping[str, float]:
        pred = probabilities(network, start.train, watched, size=size, views=parse_views("none"))
        return scores(metrics, competition.y[watched], pred, strict=False)

    after = after_steps(config, learner, plan, len(watched), len(held_out), len(competition.test))
    made_on = crops(state, "workers" if lesson.resident is None else "device")
    around = Around(config, tracker, writer, metric.name, precisions(state, accelerator), made_on, after, costs)
    done, final = train_in_time(learner, lesson, start.preprocess, whole, cuts, timing, validate, around, so_far)
    writer.wait()  # what fails from here on, or is to be done with other words, goes on from the end of training

    # ---- choose the weights -----------------------------------------------------------------------------------------
    choosing, size = time.monotonic(), final.stages[-1].size
    in_time = from_main(accelerator, timing is None or time.time() + timing.after < timing.end)
    y_held, groups = competition.y[held_out], groups_of(config, competition, held_out)
    halves = halves_of(task.strata(y_held), groups, config.seed)
    plain = partial(probabilities, store=start.train, rows=held_out, size=size, views=parse_views("none"))
    kept = choose_weights(learner, lesson, final, start.preprocess, metric, y_held, halves, plain, in_time)

    # ---- predict ----------------------------------------------------------------------------------------------------
    image = (time.monotonic() - choosing) / len(kept.scores) / len(held_out)
    views = affordable_views(config.tta, timing, image * (len(held_out) + len(competition.test)), accelerator)
    oof = kept.held_out(
        lambda network, rows: probabilities(network, start.train, rows, size=size, views=views), held_out
    )
    prior, test_ids = task.prior(competition.y[train_rows], metric.name), competition.test.ids
    test, unreadable = predict_test(probabilities, kept.network, start.test, test_ids, prior, size=size, views=views)
    if not accelerator.is_main_process:
        return True

    # ---- look and save ----------------------------------------------------------------------------------------------
    targets = task.cells(y_held)
    ids, columns = competition.train.ids[held_out], task.names
    predicted = Predictions(ids, oof, columns, np.full(len(oof), k), targets, task.kind)
    quoted = quote(config, competition, predicted)
    if timing is None or time.time() < timing.end:
        picture, crop = folder / "figures" / "grad-cam.png", config.eval.crop
        seen = explain(picture, kept.network, start, predicted, task, size, crop, f"{run.name}/fold{k}")
        tracker.image("grad-cam", seen)
    else:
        say("time_budget: no time for figures/grad-cam.png")
    normalisation = start.preprocess.normalisation
    summary = FoldSummary(
        run=run.name,
        fold=k,
        competition=competition.name,
        metric=metric,
        scores=quoted.scores,
        plain=quoted.plain,
        decision=quoted.decision,
        kept=kept.kind,
        weights=kept.scores,
        notes={
            "tta": config.tta,
            "views": len(views),
            "kept_by_half": [str(kept.by_row[half].tolist()[0]) for half in (halves, ~halves) if half.any()],
            "teacher": config.teacher,
            "model": config.model.name,
            "source": start.source.why,
            "pruned": before_and_after(
                runs,
                config.prune,
                k,
                kept.network,
                size,
                quoted.scores[metric.name],
                accelerator,
                spec,
            ),
            "size": size,
            "short_side": start.test.short_side,
            "batch_size": final.stages[-1].batch_size,
            "crop": config.eval.crop,
            "normalisation": {"mean": normalisation.mean, "std": normalisation.std},
            "brightness": start.augment.brightness,
            "prior": prior.tolist(),
            "scaling": start.outputs.scaling,
            "stages": [stage.describe() for stage in final.stages],
            "shortened_to": final.steps / whole.steps,
            "unreadable_test_ids": test_ids[unreadable].tolist(),
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "precision": described(around.precisions),
            "augment_on": described(made_on),
            "seconds": {"training": done.spent, "total": so_far.spent + time.monotonic() - began},
            "memory": peak_memory(),
            "torch": torch.__version__,
            "made_by": made_by(),
        },
    )
    sync = save_fold(
        folder,
        summary,
        task,
        oof=predicted,
        test=Predictions(test_ids, test, columns, np.full(len(test), k), kind=task.kind),
        weights=kept.network.state_dict(),
        history=done.history,
        tracker=tracker,
    )
    remove_checkpoints(folder / "checkpoints")
    say(f"fold {k}: {metric.name} {summary.score:.4f}, trained in {clock(done.spent)}")
    if sync:
        say(f"to upload: {sync}")
    return True
