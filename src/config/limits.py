"""What the values of the keys may be beyond their types, and mutually exclusive settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from src.errors import UserError

# By competition.kind what loss.name may be, the one of loss.name=auto first. Of several labels, cross_entropy is that
# of each column, bce by another name: runs of before loss.name=auto have it.
LOSSES: dict[str, tuple[str, ...]] = {
    "single": ("cross_entropy", "focal", "bce", "ordinal"),
    "multi": ("bce", "cross_entropy", "focal"),
    "number": ("mse", "mae", "huber", "bce"),
    "targets": ("cross_entropy", "focal"),
}


def loss_for(kind: str, name: str) -> str:
    """The loss that loss.name=`name` means for a kind of target. Raises UserError with the choices."""
    if name != "auto" and name not in LOSSES[kind]:
        raise UserError(f"loss.name={name}: not for competition.kind={kind}; choose auto, {', '.join(LOSSES[kind])}")
    return LOSSES[kind][0] if name == "auto" else name


def _range(low: float, high: float, text: str) -> tuple[Callable[[Any], bool], str]:
    return lambda pair: low < pair[0] <= pair[1] <= high, text


POSITIVE = (lambda value: 0 < value < math.inf, "must be above 0")
NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "must not be negative")
AT_LEAST_1 = (lambda value: value >= 1, "must be at least 1")
SHARE = (lambda value: 0 <= value <= 1, "must be from 0 to 1")
BELOW_1 = (lambda value: 0 <= value < 1, "must be from 0, below 1")
# What a value may be beyond its type; None is always let through where the type has it.
LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            "epochs", "size", "optimizer.clip", "checkpoint.every", "distill.temperature",
            "competition.max_megapixels", "model.scale", "cache_gb",
        ),
        POSITIVE,
    ),
    **dict.fromkeys(
        (
            "seed", "distill.weight", "loss.gamma", "optimizer.lr", "optimizer.weight_decay", "mix.mixup", "mix.cutmix",
            "augment.rotate", "augment.shear", "augment.shift", "augment.brightness", "augment.contrast",
            "augment.saturation", "augment.hue", "augment.pca",
        ),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        (
            "average.bn_batches", "average.ema_every", "checkpoint.keep", "eval.every", "eval.rows", "eval.batch_size",
            "optimizer.accumulate", "ensemble.rounds", "ensemble.bags", "model.separable_width", "model.subcentres",
            "competition.channels",
        ),
        AT_LEAST_1,
    ),
    **dict.fromkeys(
        (
            "mix.probability", "mix.stop", "average.swa_start", "schedule.final", "schedule.start", "augment.erase",
            "loss.smoothing", "loss.flip_labels", "distill.confidence", "balance",
        ),
        SHARE,
    ),
    **dict.fromkeys(
        (
            "optimizer.momentum", "model.drop_rate", "model.drop_path_rate", "model.margin", "average.ema",
            "augment.zoom",
        ),
        BELOW_1,
    ),
    "model.output_stride": (lambda value: value in (8, 16, 32), "choose 8, 16 or 32"),
    "batch_size": (
        lambda value: value == "auto" or (isinstance(value, int) and value > 0), "must be above 0, or auto"
    ),
    "prune.ratio": (lambda value: 0 < value < 1, "must be above 0, below 1"),
    "folds.n": (lambda value: value >= 2, "it takes at least 2 folds"),
    "optimizer.layer_decay": (lambda value: 0 < value <= 1, "must be above 0, up to 1"),
    "schedule.momentum": (
        lambda pair: all(0 <= value < 1 for value in pair), "expected [at both ends, at the peak rate], from 0, below 1"
    ),
    "eval.crop": (lambda value: 0 < value <= 1, "must be above 0, up to 1"),
    "competition.range": (
        lambda pair: -math.inf < pair[0] < pair[1] < math.inf, "expected [black, white], the second above the first"
    ),
    "augment.crop_area": _range(0, 1, "expected [smallest, largest] share of the image, above 0, up to 1"),
    "augment.crop_ratio": _range(0, math.inf, "expected [smallest, largest] width / height, above 0"),
}  # fmt: skip
# Combinations that cannot both be meant: whether a configuration has it, and what to do.
CONTRADICTIONS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda c: c.schedule.kind == "one_cycle" and c.average.swa and c.average.swa_lr is not None,
        "average.swa_lr: one_cycle ends at its lowest rate, not at a constant one; "
        "use average.swa_lr=null or schedule.kind=cosine",
    ),
    (
        lambda c: c.schedule.momentum is not None and c.schedule.kind != "one_cycle",
        "schedule.momentum: only one_cycle changes the momentum; use schedule.kind=one_cycle or schedule.momentum=null",
    ),
    (
        lambda c: c.optimizer.lr == 0 and any(stage.lr is not None for stage in c.stages),
        "stages.lr: counts as a multiple of optimizer.lr, which is 0; set optimizer.lr",
    ),
    (
        lambda c: c.balance > 0 and c.loss.class_weights == "balanced",
        "balance: evens out the classes, and so does loss.class_weights=balanced; leave one of them out",
    ),
    (
        lambda c: c.loss.name == "focal" and (c.mix.mixup > 0 or c.mix.cutmix > 0),
        "loss.name=focal: tells easy images from hard ones, which mixed images are not; "
        "set mix.mixup=0 mix.cutmix=0 or take another loss",
    ),
    (
        lambda c: c.loss.name == "focal" and c.loss.smoothing > 0,
        "loss.smoothing: the focal loss of a label smoothed to .9 is least at .68; set loss.smoothing=0 with it",
    ),
    (
        lambda c: c.competition.kind == "number" and c.loss.class_weights == "balanced",
        "loss.class_weights=balanced: numbers have no classes; leave it out",
    ),
    (
        lambda c: c.competition.kind == "number" and any(stage.classes is not None for stage in c.stages),
        "stages.classes: numbers have no classes; use stages.rows",
    ),
    (
        lambda c: c.prune.run is not None and c.model.acnet,
        "model.acnet=true: its branches are fused in the run that is pruned; set model.acnet=false",
    ),
    (
        lambda c: c.combined is not None and not (c.runs or c.stack.features),
        "combined: is set by ./run.sh ensemble, stack and soup; leave it out",
    ),
)
