"""Train one fold: build, plan, run, choose the weights, predict, save. Top to bottom, this is the whole run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.artefacts import Predictions, finished_folds
from src.competition.folds import Fold
from src.competition.metrics import find_metric, scores
from src.competition.tables import Competition
from src.config import Config, plain
from src.data.bad_images import unreadable_rows
from src.data.cache import ImageStore
from src.data.loader import batches
from src.errors import UserError
from src.inference.tta import parse_views
from src.model.backbone import check_sizes
from src.model.convolutions import fused
from src.model.pruning import prune
from src.model.report import inspect
from src.model.weights import find_weights
from src.recipes.batch_size import settled
from src.recipes.deadline import FoldTime, time_for_fold
from src.recipes.fitted import fitted
from src.recipes.fold_output import save_fold
from src.recipes.lesson import augmented_inputs, from_labels, from_teacher, with_margin
from src.recipes.look import look
from src.recipes.network import build_from, optimizer_from
from src.recipes.predict import make_predictor, predict_test
from src.recipes.prune import before_and_after, weights_to_prune
from src.recipes.rates import plan_over_steps, rates
from src.recipes.start import claim_start
from src.recipes.task import image_cache
from src.recipes.teacher import load_teacher
from src.reporting.figures import augmentation_grid, schedule_picture
from src.tracking import NoTracker, start_tracking
from src.training import device
from src.training.averaging import Ema, average_buffers, make_swa, refresh_batchnorm
from src.training.budget import Watch, views_in_time
from src.training.checkpoint import CheckpointWriter, load_checkpoint, remove_checkpoints
from src.training.device import loader_workers
from src.training.engine import Trained, fit, restore
from src.training.interrupt import stop_on_signals
from src.training.memory import count_memory
from src.training.mixing import Mix, draw_mix
from src.training.progress import Progress, clock
from src.training.schedule import duration
from src.training.stages import Stage, pixels, plan, shorten, training_orders


def train_fold(
    config: Config,
    competition: Competition,
    fold: Fold,
    k: int,
    run: Path,
    accelerator: Any,
    end: float | None = None,
    waiting: int = 1,
) -> bool:
    """Everything of fold k in the folder `run`, from the weights' source to the manifest.

    end: time.time() at which this and the other folds that are `waiting` (this one included) have to be over. Returns
    False, with nothing written, if there is not enough time to begin this one.
    """
    began = time.monotonic()
    folder, say = run / f"fold{k}", partial(device.say, accelerator)
    peak_memory = count_memory(accelerator.device)
    say(f"{run.name}/fold{k}: {len(fold.train)} rows to train on, {len(fold.val)} held out")

    # ---- model ------------------------------------------------------------------------------------------------------
    if config.prune.run is not None:
        source = weights_to_prune(run.parent, config.prune.run, k, competition.classes, competition.ids[fold.val])
    else:
        source = find_weights(
            config.model.name, config.model.pretrained, config.model.weights, Path(config.paths.input)
        )
    model, normalisation = build_from(config.model, len(competition.classes), source, seed=config.seed)
    if config.prune.run is not None:
        prune(model, config.prune.ratio, pixels(config.stages[-1].size, config.size))
    else:
        claim_start(run, k, source, config.model.name)
    say(f"{config.model.name}: {source.why}")
    say(f"{accelerator.num_processes} x {accelerator.device}, {precision_of(accelerator)}")
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    config = settled(config, model, run, len(fold.train), accelerator, say)

    # ---- what to learn from -----------------------------------------------------------------------------------------
    short_side = round(max(pixels(stage.size, config.size) for stage in config.stages) / config.eval.crop)
    cache = device.from_main(accelerator, image_cache(config, competition, short_side))
    limit, policy = config.competition.max_megapixels, config.competition.on_bad_image
    train_store = ImageStore(
        competition.root, competition.paths, short_side, cache, "blank" if policy == "blank" else "error", limit
    )
    test_store = ImageStore(competition.root, competition.test_paths, short_side, cache, "mark", limit)
    if policy == "skip":
        with accelerator.main_process_first():  # which decodes all images into the cache
            rows = np.concatenate([fold.train, fold.val])
            found = unreadable_rows(train_store, rows, loader_workers(config.workers))
        bad = [row for row, _ in found]
        fold = Fold(np.setdiff1d(fold.train, bad), np.setdiff1d(fold.val, bad))
        say(f"competition.on_bad_image=skip: {len(bad)} rows left out" + "".join(f"\n  {why}" for _, why in found[:5]))
    normalisation, augment = fitted(config, train_store, fold.train, normalisation)
    mean, std = (torch.tensor(v, device=accelerator.device) for v in (normalisation.mean, normalisation.std))
    probabilities = make_predictor(config, accelerator, normalisation)
    lesson = from_labels(competition, fold, train_store, config.loss, accelerator.device, config.seed)
    lesson = with_margin(lesson, config.model)
    if config.teacher is not None:
        teacher = load_teacher(
            run.parent,
            config.teacher,
            k,
            inputs=normalisation,
            classes=competition.classes,
            held_out=competition.ids[fold.val],
        )
        lesson = from_teacher(
            lesson,
            teacher.to(accelerator.device, memory_format=torch.channels_last),
            config.distill,
            competition,
            test_store=test_store,
            cache=cache,
            predict=probabilities,
            size=pixels(config.stages[-1].size, config.size),
            device=accelerator.device,
            say=say,
        )
        say(f"taught by fold {k} of {config.teacher}")

    # ---- plan -------------------------------------------------------------------------------------------------------
    whole = plan(
        config.stages,
        rows=lesson.rows,
        labels=lesson.labels[lesson.rows],
        epochs=config.epochs,
        size=config.size,
        batch_size=config.batch_size,
        processes=accelerator.num_processes,
        accumulate=config.optimizer.accumulate,
        seed=config.seed,
        balance=config.balance,
    )
    check_sizes(config.model.name, model, [stage.size for stage in whole])
    checkpoints = folder / "checkpoints"
    if config.resume == "never" and accelerator.is_main_process:
        remove_checkpoints(checkpoints)
    accelerator.wait_for_everyone()
    state = load_checkpoint(checkpoints, (*Trained._fields, "cuts", "batches", "processes", "wandb"), say)
    if state is not None and state["batches"] != [stage.total_batch for stage in whole]:
        raise UserError(
            f"processes={accelerator.num_processes}: {checkpoints} belong to another total batch; "
            f"use processes={state['processes']} again, or resume=never to start afresh"
        )
    so_far = Trained(0, [], 0.0) if state is None else Trained(*(state[key] for key in Trained._fields))
    earlier = so_far.spent  # seconds of work of sessions before this one
    cuts: list[list[float]] = [] if state is None else state["cuts"]  # [step, factor]: how a time budget changed it
    views = parse_views(config.tta)
    timing: FoldTime | None = None
    watch: Watch | None = None
    if end is not None:
        timing = time_for_fold(
            model,
            whole,
            so_far.step,
            classes=len(competition.classes),
            held_out=len(fold.val),
            test=len(competition.test_ids),
            views=len(views),
            config=config,
            accelerator=accelerator,
            end=end,
            waiting=waiting,
            may_wait=bool(finished_folds(run.parent, run.name)),
            say=say,
        )
        if timing is None:
            return False
        factor = timing.watch(stages_of(whole, cuts), so_far.step).factor(so_far.step)
        factor = device.from_main(accelerator, factor)
        if factor < 1:
            cuts.append([so_far.step, factor])
            say(f"time_budget: {factor:.0%} of the steps still to come")
    stages = stages_of(whole, cuts)
    for stage in stages:
        say(stage.describe())
    report = inspect(model, stages[-1].size)
    if report is not None:
        say(report.line(stages[-1].size))

    # ---- optimiser and averages -------------------------------------------------------------------------------------
    if config.model.sync_bn:
        model = device.sync_batchnorm(model, accelerator)
    optimizer = optimizer_from(config.optimizer, model)
    place = (accelerator.process_index, accelerator.num_processes)
    average = config.average
    ema = Ema(model, average.ema, average.ema_every) if average.ema else None  # copies: made before `prepare`
    swa = make_swa(model) if average.swa else None
    model, optimizer = accelerator.prepare(model, optimizer)
    network = accelerator.unwrap_model(model)
    if config.model.compile:  # in place, so that names and copies of the weights stay as they are
        model.compile(dynamic=False)
    if state is not None:
        restore(state, accelerator, network, optimizer, ema, swa)
        say(f"going on at step {so_far.step + 1} of {stages[-1].stop} from {checkpoints}")

    # ---- look on ----------------------------------------------------------------------------------------------------
    tracker = NoTracker()
    if accelerator.is_main_process:
        tracker = start_tracking(
            config.wandb.mode,
            project=config.wandb.project or competition.name,
            entity=config.wandb.entity,
            run=run.name,
            fold=k,
            folder=folder,
            config=plain(config),  # with the batch size that was found, if it was to be
            id=(state or {}).get("wandb") or None,
        )
        if state is None:
            for stage in stages:
                grid = folder / "figures" / f"augment-stage{stage.number + 1}-{stage.size}px.png"
                picked = stage.rows[np.linspace(0, len(stage.rows) - 1, 6).astype(int)]
                augmentation_grid(
                    grid, lesson.store, picked, stage.size, augment.at_strength(stage.augment), config.seed
                )
                tracker.image(grid.stem, grid)
            steps, columns = plan_over_steps(config, stages, len(lesson.rows))
            picture = folder / "figures" / "schedule.png"
            starts = [stage.start for stage in stages]
            tracker.image("schedule", schedule_picture(picture, steps, columns, starts, f"{run.name}/fold{k}"))

    metric = find_metric(config.competition.metric)
    metrics = list(dict.fromkeys([metric.name, *config.competition.metrics]))
    held_out = competition.labels[fold.val]

    def validate(net: torch.nn.Module, size: int) -> Mapping[str, float]:
        began = time.monotonic()
        pred = probabilities(net, train_store, fold.val, size=size, views=parse_views("none"))
        if watch is not None:
            watch.validated(time.monotonic() - began)
        return scores(metrics, held_out, pred)

    # ---- train ------------------------------------------------------------------------------------------------------
    writer = CheckpointWriter(checkpoints, config.checkpoint.keep, say)
    while so_far.step < stages[-1].stop:  # once, unless the time budget asks for a shorter plan on the way
        total, last = stages[-1].stop, stages[-1]
        swa_start = round(total * config.average.swa_start)
        swa_every = max(
            1, duration(config.average.swa_every, total=total, epoch=last.epoch_steps, key="average.swa_every")
        )
        planned = rates(config, stages, len(lesson.rows))

        def swa_at(step: int, total: int = total, start: int = swa_start, every: int = swa_every) -> bool:
            return step + 1 == total or (step >= start and (total - 1 - step) % every == 0)

        def mix_at(step: int, count: int, size: int, total: int = total) -> Mix | None:
            if step >= config.mix.stop * total:
                return None
            rng = np.random.default_rng((config.seed, 5, step, accelerator.process_index))
            return draw_mix(rng, count, size, config.mix.mixup, config.mix.cutmix, config.mix.probability)

        watch = timing.watch(stages, so_far.step) if timing is not None else None
        orders = training_orders(stages, augment, config.seed, so_far.step, *place)
        progress = Progress(stages, so_far.step, metric.name, accelerator.is_main_process, tracker.log)
        with stop_on_signals() as wish:
            so_far = fit(
                accelerator=accelerator,
                model=model,
                optimizer=optimizer,
                stages=stages,
                batches=batches(lesson.store, orders, probabilities.keywords["workers"], accelerator.device),
                targets=lesson.targets,
                loss_function=lesson.loss,
                rate=planned.rate,
                base_lr=config.optimizer.lr,
                momentum=planned.momentum,
                trains=planned.trains,
                mean=mean,
                std=std,
                draw_mix=mix_at,
                clip=config.optimizer.clip,
                ema=ema,
                swa=swa,
                swa_at=swa_at,
                validate=validate,
                validate_every=config.eval.every,
                wish=wish,
                late=watch.late if watch else lambda step: False,
                progress=progress,
                checkpoints=writer,
                checkpoint_every=config.checkpoint.every,
                seed=config.seed,
                notes={
                    "cuts": cuts,
                    "wandb": tracker.id or "",
                    "processes": accelerator.num_processes,
                    "batches": [stage.total_batch for stage in stages],
                },
                so_far=so_far,
            )
        progress.close()
        if watch and so_far.step < total:
            cuts.append([so_far.step, device.from_main(accelerator, watch.factor(so_far.step))])
            stages = stages_of(whole, cuts)
            say(f"time_budget: behind the plan at step {so_far.step}; {stages[-1].stop} steps instead of {total}")

    # ---- choose the weights -----------------------------------------------------------------------------------------
    last = stages[-1]
    choosing = time.monotonic()
    average_buffers(network, accelerator)
    candidates = {"raw": network}
    if ema is not None:
        average_buffers(ema.module, accelerator)
        candidates["ema"] = ema.module
    in_time = device.from_main(accelerator, timing is None or time.time() + timing.after < timing.end)
    if swa is not None and in_time:
        inputs = augmented_inputs(
            lesson.store, last, augment, config.seed, config.average.bn_batches, accelerator, normalisation
        )
        device.seed_torch(config.seed, accelerator.device)  # drop path draws here too, and a resumed run draws the same
        refresh_batchnorm(swa.module, inputs, accelerator.reduce if accelerator.num_processes > 1 else None)
        candidates["swa"] = swa.module
    if not in_time:
        say("time_budget: no time to compare the weights; their moving average is taken if there is one")
        candidates = dict([list(candidates.items())[-1]])
    candidates = {name: fused(net) for name, net in candidates.items()}  # plain convolutions, where ACNet trained
    compared = {name: validate(net, last.size)[metric.name] for name, net in candidates.items()}
    best = (max if metric.greater_is_better else min)(compared, key=compared.__getitem__)
    chosen = candidates[best]
    say(f"{metric.name} of the weights: " + ", ".join(f"{n} {s:.4f}" for n, s in compared.items()) + f"; {best} kept")

    # ---- predict and save -------------------------------------------------------------------------------------------
    if timing is not None:
        image = (time.monotonic() - choosing) / len(candidates) / len(fold.val)
        view = image * (len(fold.val) + len(competition.test_ids))
        fitting = views_in_time(views, timing.end - time.time(), view)
        kept = device.from_main(accelerator, len(fitting))
        if kept < len(views):
            say(f"time_budget: {kept} of {len(views)} TTA views")
        views = views[:kept]
    oof = probabilities(chosen, train_store, fold.val, size=last.size, views=views)
    test, unreadable = predict_test(
        probabilities,
        chosen,
        test_store,
        competition,
        competition.labels[fold.train],
        size=last.size,
        views=views,
        say=say,
    )
    final = scores(metrics, held_out, oof)
    if accelerator.is_main_process:
        classes, names = competition.classes, competition.classes[held_out]
        predicted = Predictions(competition.ids[fold.val], oof, classes, np.full(len(oof), k), names)
        if timing is None or time.time() < timing.end:
            seen = look(
                folder / "figures" / "grad-cam.png",
                chosen,
                train_store,
                fold.val,
                predicted,
                size=last.size,
                crop=config.eval.crop,
                normalisation=normalisation,
                title=f"{run.name}/fold{k}: surest predictions (true → predicted, probability) and what decided them",
                say=say,
            )
            if seen is not None:
                tracker.image("grad-cam", seen)
        else:
            say("time_budget: no time for figures/grad-cam.png")
        writer.wait()
        sync = save_fold(
            folder,
            oof=predicted,
            test=Predictions(competition.test_ids, test, classes, np.full(len(test), k)),
            weights=chosen.state_dict(),
            history=so_far.history,
            tracker=tracker,
            manifest={
                "run": run.name,
                "fold": k,
                "competition": competition.name,
                "metric": metric.name,
                "greater_is_better": metric.greater_is_better,
                "score": final[metric.name],
                "scores": final,
                "weights": compared,
                "kept": best,
                "tta": config.tta,
                "views": len(views),
                "teacher": config.teacher,
                "model": config.model.name,
                "classes": classes.tolist(),
                "source": source.why,
                "pruned": before_and_after(
                    run.parent, config.prune, k, chosen, last.size, final[metric.name], accelerator
                ),
                "size": last.size,
                "batch_size": last.batch_size,
                "crop": config.eval.crop,
                "normalisation": {"mean": normalisation.mean, "std": normalisation.std},
                "brightness": augment.brightness,
                "stages": [stage.describe() for stage in stages],
                "shortened_to": stages[-1].stop / whole[-1].stop,
                "unreadable_test_ids": competition.test_ids[unreadable].tolist(),
                "device": str(accelerator.device),
                "processes": accelerator.num_processes,
                "precision": precision_of(accelerator),
                "seconds": {"training": so_far.spent, "total": earlier + time.monotonic() - began},
                "memory": peak_memory(),
                "torch": torch.__version__,
            },
        )
        remove_checkpoints(checkpoints)
        say(f"fold {k}: {metric.name} {final[metric.name]:.4f}, trained in {clock(so_far.spent)}")
        if sync:
            say(f"to upload: {sync}")
    return True


def stages_of(whole: list[Stage], cuts: list[list[float]]) -> list[Stage]:
    """The plan after the cuts that a time budget made, each [step, factor], in their order."""
    for step, factor in cuts:
        whole = shorten(whole, int(step), factor)
    return whole


def precision_of(accelerator: Any) -> str:
    return {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
