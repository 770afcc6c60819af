"""Train a fold, or all of them: build, run, save. Read from top to bottom, this is the whole run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.artefacts import Predictions, finished
from src.competition.folds import Fold, fold_rows
from src.competition.metrics import find_metric, scores
from src.competition.tables import Competition
from src.config import Config, plain
from src.data.augment import Augment
from src.data.cache import ImageStore, has_room
from src.data.loader import batches, to_input
from src.errors import UserError
from src.inference.predict import predict
from src.inference.tta import parse_views
from src.model.backbone import build_model, check_sizes
from src.model.weights import find_weights
from src.recipes.cv import summarise_run
from src.recipes.fold_output import save_fold
from src.recipes.task import claim_run, open_competition, open_folds, run_name
from src.reporting.figures import augmentation_grid
from src.tracking import NoTracker, start_tracking
from src.training import device
from src.training.averaging import Ema, average_buffers, make_swa, refresh_batchnorm
from src.training.budget import measure_steps
from src.training.checkpoint import load_checkpoint, remove_checkpoints
from src.training.device import loader_workers, make_accelerator
from src.training.engine import fit, restore
from src.training.interrupt import stop_on_signals
from src.training.losses import cross_entropy, soft_targets
from src.training.mixing import Mix, draw_mix
from src.training.optimizer import build_optimizer
from src.training.progress import Progress, clock
from src.training.schedule import duration, multiplier, seconds
from src.training.stages import fit_to_budget, plan, training_orders

# Share of a time budget that is kept for what comes after the last step: averages, out-of-fold and test predictions.
BUDGET_RESERVE = 0.2
# Below this share of its epochs a fold is not begun: it would count as finished, and drag the mean down.
LEAST_SCALE = 0.05


def train(config: Config) -> None:
    """Fold `config.fold`, or every unfinished fold; then the CV table and the submission of what is finished."""
    accelerator = make_accelerator(config.device, config.precision, config.optimizer.accumulate)
    with accelerator.main_process_first():  # the first process makes the digits and the fold file
        competition = open_competition(config)
        folds = open_folds(config, competition)
    run = run_name(config)
    wanted = list(range(config.folds.n)) if config.fold == "all" else [int(config.fold)]
    for k in wanted:
        fold_rows(folds, k)  # a fold that does not exist is refused before anything is written
    with accelerator.main_process_first():
        folder = claim_run(config, run)
    todo = [k for k in wanted if not finished(folder / f"fold{k}")]
    budget = seconds(config.time_budget) if config.time_budget else None
    began = time.monotonic()
    for k in wanted:
        if k not in todo:
            device.say(accelerator, f"{folder}/fold{k} is finished already: skipped")
            continue
        left = None if budget is None else (budget - (time.monotonic() - began)) / (len(todo) - todo.index(k))
        if not train_fold(config, competition, fold_rows(folds, k), k, folder / f"fold{k}", accelerator, left):
            break
        accelerator.free_memory()  # it keeps the models it has prepared; the next fold starts with a new loss scale
        accelerator = make_accelerator(config.device, config.precision, config.optimizer.accumulate)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and any(finished(folder / f"fold{k}") for k in range(config.folds.n)):
        summarise_run(config, competition, run)


def train_fold(
    config: Config, competition: Competition, fold: Fold, k: int, folder: Path, accelerator: Any, budget: float | None
) -> bool:
    """Everything of one fold, from the weights' source to the manifest; False if `budget` (seconds) is too short."""
    began = time.monotonic()
    say = partial(device.say, accelerator)
    say(f"{folder.parent.name}/fold{k}: {len(fold.train)} rows to train on, {len(fold.val)} held out")

    # ---- model ------------------------------------------------------------------------------------------------------
    source = find_weights(config.model.name, config.model.pretrained, config.model.weights, Path(config.paths.input))
    model, normalisation = build_model(
        config.model.name,
        len(competition.classes),
        source,
        drop_rate=config.model.drop_rate,
        drop_path_rate=config.model.drop_path_rate,
        options=config.model.options,
        seed=config.seed,
    )
    say(f"{config.model.name}: {source.why}")
    say(f"{accelerator.num_processes} x {accelerator.device}, {precision_of(accelerator)}")
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(v, device=accelerator.device) for v in (normalisation.mean, normalisation.std))

    # ---- plan -------------------------------------------------------------------------------------------------------
    checkpoints = folder / "checkpoints"
    if config.resume == "never" and accelerator.is_main_process:
        remove_checkpoints(checkpoints)
    accelerator.wait_for_everyone()
    state = load_checkpoint(checkpoints, say)

    def planned(scale: float) -> list[Any]:
        return plan(
            config.stages,
            rows=fold.train,
            labels=competition.labels[fold.train],
            epochs=config.epochs,
            size=config.size,
            batch_size=config.batch_size,
            processes=accelerator.num_processes,
            accumulate=config.optimizer.accumulate,
            seed=config.seed,
            scale=scale,
        )

    stages, scale = planned(1.0), 1.0
    check_sizes(config.model.name, model, [stage.size for stage in stages])
    if state is not None:
        scale = state["scale"]
        if state["batches"] != [stage.total_batch for stage in stages]:
            raise UserError(
                f"processes={accelerator.num_processes}: {checkpoints} belong to another total batch; "
                f"use processes={state['processes']} again, or resume=never to start afresh"
            )
    elif budget is not None:
        step_seconds = measure_steps(model, stages, len(competition.classes), accelerator)
        scale = fit_to_budget(stages, step_seconds, budget * (1 - BUDGET_RESERVE) - (time.monotonic() - began))
        # clocks differ between processes, the number of steps must not
        scale = float(accelerator.gather(torch.tensor([scale], device=accelerator.device)).min())
        if scale < LEAST_SCALE:
            say(f"time_budget: {clock(max(0.0, budget))} left, too little for fold {k}; start again to go on")
            return False
        say(f"time_budget: {clock(budget)} for this fold, so {scale:.0%} of the epochs")
    stages = planned(scale) if scale < 1 else stages
    for stage in stages:
        say(stage.describe())
    total, last = stages[-1].stop, stages[-1]

    # ---- data -------------------------------------------------------------------------------------------------------
    short_side = round(max(stage.size for stage in stages) / config.eval.crop)
    cache = Path(config.paths.cache) / competition.name if config.cache else None
    if cache is not None and not has_room(cache, len(competition.ids) + len(competition.test_ids), short_side):
        say(f"{cache}: the disk is too full for decoded images; decoding anew each time")
        cache = None
    train_store = ImageStore(competition.root, competition.paths, short_side, cache)
    test_store = ImageStore(competition.root, competition.test_paths, short_side, cache)
    workers = loader_workers(config.workers)
    place = (accelerator.process_index, accelerator.num_processes)
    augment = Augment(**vars(config.augment))
    labels = torch.from_numpy(competition.labels).to(accelerator.device)

    def targets(rows: torch.Tensor) -> torch.Tensor:
        return soft_targets(labels[rows], len(competition.classes), config.loss.smoothing, config.loss.smoothing_kind)

    # ---- optimiser, schedule, averages ------------------------------------------------------------------------------
    optimizer = build_optimizer(
        model,
        config.optimizer.name,
        weight_decay=config.optimizer.weight_decay,
        momentum=config.optimizer.momentum,
        decay_bias=config.optimizer.decay_bias,
    )
    run_epoch = len(fold.train) / last.total_batch
    swa_start = round(total * config.average.swa_start)
    swa_every = max(1, duration(config.average.swa_every, total=total, epoch=last.epoch_steps, key="average.swa_every"))
    rate = multiplier(
        config.schedule.kind,
        total,
        duration(config.schedule.warmup, total=total, epoch=run_epoch, key="schedule.warmup"),
        final=config.schedule.final,
        drops=config.schedule.drops,
        factor=config.schedule.factor,
        decay=config.schedule.decay,
        every=max(1, duration(config.schedule.every, total=total, epoch=run_epoch, key="schedule.every")),
        swa_start=swa_start,
        swa_lr=config.average.swa_lr if config.average.swa else None,
    )
    ema = Ema(model, config.average.ema) if config.average.ema else None  # copies: made before `prepare`
    swa = make_swa(model) if config.average.swa else None
    model, optimizer = accelerator.prepare(model, optimizer)
    network = accelerator.unwrap_model(model)
    first, history, spent, wandb_id = 0, [], 0.0, None
    loss_so_far, resumed_after = (0.0, 0), 0.0
    if state is not None:
        restore(state, accelerator, network, optimizer, ema, swa)
        first, history, spent, wandb_id = state["step"], state["history"], state["spent"], state["wandb"] or None
        loss_so_far, resumed_after = tuple(state["loss_so_far"]), spent
        say(f"going on at step {first + 1} of {total} from {checkpoints}")

    # ---- look on ----------------------------------------------------------------------------------------------------
    tracker = NoTracker()
    if accelerator.is_main_process:
        tracker = start_tracking(
            config.wandb.mode,
            project=config.wandb.project or competition.name,
            entity=config.wandb.entity,
            run=folder.parent.name,
            fold=k,
            folder=folder,
            config=plain(config),
            id=wandb_id,
        )
        if not first:
            for stage in stages:
                grid = folder / "figures" / f"augment-stage{stage.number + 1}-{stage.size}px.png"
                picked = stage.rows[np.linspace(0, len(stage.rows) - 1, 6).astype(int)]
                augmentation_grid(
                    grid, train_store, picked, stage.size, augment.at_strength(stage.augment), config.seed
                )
                tracker.image(grid.stem, grid)

    def probabilities(net: torch.nn.Module, store: ImageStore, rows: np.ndarray, size: int, tta: Any) -> np.ndarray:
        return predict(
            net,
            store,
            rows,
            accelerator=accelerator,
            views=parse_views(tta),
            size=size,
            crop=config.eval.crop,
            batch_size=config.eval.batch_size or 2 * config.batch_size,
            workers=workers,
            mean=mean,
            std=std,
        )

    def training_inputs() -> Iterator[torch.Tensor]:
        """Augmented batches of the last stage, unmixed, for fresh BatchNorm statistics."""
        orders = training_orders([last], augment, config.seed, last.start, *place)
        for batch in batches(train_store, islice(orders, config.average.bn_batches), 0, accelerator.device):
            assert batch.colour is not None
            yield to_input(batch.images[0].to(mean.device), mean, std, batch.colour.to(mean.device))

    def mix_at(step: int, count: int, size: int) -> Mix | None:
        if step >= config.mix.stop * total:
            return None
        rng = np.random.default_rng((config.seed, 5, step, accelerator.process_index))
        return draw_mix(rng, count, size, config.mix.mixup, config.mix.cutmix, config.mix.probability)

    metric = find_metric(config.competition.metric)
    metrics = list(dict.fromkeys([metric.name, *config.competition.metrics]))
    held_out = competition.labels[fold.val]

    def validate(net: torch.nn.Module, size: int) -> Mapping[str, float]:
        return scores(metrics, held_out, probabilities(net, train_store, fold.val, size, "none"))

    # ---- train ------------------------------------------------------------------------------------------------------
    parse_views(config.tta)  # a mistake in it should not wait for the end of the run
    progress = Progress(stages, first, metric.name, accelerator.is_main_process, tracker.log)
    with stop_on_signals() as wish:
        history, spent = fit(
            accelerator=accelerator,
            model=model,
            optimizer=optimizer,
            stages=stages,
            batches=batches(
                train_store,
                training_orders(stages, augment, config.seed, first, *place),
                workers,
                accelerator.device,
            ),
            targets=targets,
            loss_function=cross_entropy,
            rate=rate,
            base_lr=config.optimizer.lr,
            mean=mean,
            std=std,
            draw_mix=mix_at,
            clip=config.optimizer.clip,
            ema=ema,
            swa=swa,
            swa_at=lambda step: step + 1 == total or (step >= swa_start and (total - 1 - step) % swa_every == 0),
            validate=validate,
            validate_every=config.eval.every,
            wish=wish,
            progress=progress,
            folder=checkpoints,
            checkpoint_every=config.checkpoint.every,
            keep=config.checkpoint.keep,
            seed=config.seed,
            notes={
                "scale": scale,
                "wandb": tracker.id or "",
                "processes": accelerator.num_processes,
                "batches": [stage.total_batch for stage in stages],
            },
            first=first,
            history=history,
            spent=spent,
            loss_so_far=loss_so_far,
        )
    progress.close()

    # ---- choose the weights -----------------------------------------------------------------------------------------
    average_buffers(network, accelerator)
    candidates = {"raw": network}
    if ema is not None:
        average_buffers(ema.module, accelerator)
        candidates["ema"] = ema.module
    if swa is not None:
        refresh_batchnorm(swa.module, training_inputs(), accelerator.reduce if accelerator.num_processes > 1 else None)
        candidates["swa"] = swa.module
    compared = {name: validate(net, last.size)[metric.name] for name, net in candidates.items()}
    best = (max if metric.greater_is_better else min)(compared, key=compared.__getitem__)
    chosen = candidates[best]
    say(f"{metric.name} of the weights: " + ", ".join(f"{n} {s:.4f}" for n, s in compared.items()) + f"; {best} kept")

    # ---- predict and save -------------------------------------------------------------------------------------------
    oof = probabilities(chosen, train_store, fold.val, last.size, config.tta)
    test = probabilities(chosen, test_store, np.arange(len(competition.test_ids)), last.size, config.tta)
    final = scores(metrics, held_out, oof)
    if accelerator.is_main_process:
        classes, names = competition.classes, competition.classes[held_out]
        sync = save_fold(
            folder,
            oof=Predictions(competition.ids[fold.val], oof, classes, np.full(len(oof), k), names),
            test=Predictions(competition.test_ids, test, classes, np.full(len(test), k)),
            weights=chosen.state_dict(),
            history=history,
            tracker=tracker,
            manifest={
                "run": folder.parent.name,
                "fold": k,
                "competition": competition.name,
                "metric": metric.name,
                "greater_is_better": metric.greater_is_better,
                "score": final[metric.name],
                "scores": final,
                "weights": compared,
                "kept": best,
                "tta": config.tta,
                "model": config.model.name,
                "classes": classes.tolist(),
                "source": source.why,
                "size": last.size,
                "crop": config.eval.crop,
                "normalisation": {"mean": normalisation.mean, "std": normalisation.std},
                "stages": [stage.describe() for stage in stages],
                "shortened_to": scale,
                "device": str(accelerator.device),
                "processes": accelerator.num_processes,
                "precision": precision_of(accelerator),
                "seconds": {"training": spent, "total": resumed_after + time.monotonic() - began},
                "torch": torch.__version__,
            },
        )
        remove_checkpoints(checkpoints)
        say(f"fold {k}: {metric.name} {final[metric.name]:.4f}, trained in {clock(spent)}")
        if sync:
            say(f"to upload: {sync}")
    return True


def precision_of(accelerator: Any) -> str:
    return {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
