"""Every key of the pipeline: one frozen dataclass per section, with its default and what it means.

`configs/` only says what differs from these defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from src.attached import inputs_folder


@dataclass(frozen=True)
class CompetitionConfig:
    """What the task is: a folder in Kaggle layout."""

    name: str = ""  # empty: the name of the root folder
    root: str = ""  # the folder that holds the csv files and images
    # a table: csv, tsv, JSON (records, columns, COCO's images) or Parquet; null: the images that fit train_images
    train_csv: str | None = "train.csv"
    test_csv: str | None = "test.csv"  # null, or no such file: the sample submission names the test rows
    # null: a row per row of the test table, or without one per picture in test_images, with its label
    sample_csv: str | None = "sample_submission.csv"
    solution: str | None = None  # csv with the hidden labels, relative to root or absolute: for local scoring only
    # a folder, or a template with the table's columns: "images/{label}/{id}.png", "train.zip/{id:05}" (zeros before a
    # number), "train/**/{id}" (in any folder below), "train-*.tar/{id}" (in any such shard),
    # "{id}_{red|green|blue}.png" (one picture's channels)
    train_images: str = "train"
    test_images: str = "test"  # likewise, with the columns of the test table
    pixels: tuple[str, ...] = ()  # columns of the tables that hold the pictures themselves: [pixel*], [band_1, band_2]
    pixel_shape: tuple[int, int] | None = None  # rows and columns of these; None: square
    id_column: str | None = None  # of the training table; None: the sample's first column; "": rows are numbered
    test_id_column: str | None = None  # None: as in the training table or the sample; "": the sample's rows, in order
    sample_id_column: str | None = None  # None: id_column if the sample has it, else its first
    long: str | None = None  # a row per image and target: the column of targets' names, or the ids as "{id}_{target}"
    # what a row of the sample is: "{patient}_{side}" (several images, see pool) or "{id}_{target}" (a row per target)
    rows: str = "{id}"
    pool: Literal["mean", "max"] = "mean"  # of the predictions for the images of one submitted row
    # of the targets: single: one label per row; multi: several (words, 0/1 columns); number: one value or several;
    # targets: several columns, each with classes of its own. Grades are single, with loss.name=ordinal or as classes
    kind: Literal["single", "multi", "number", "targets"] = "single"
    target_column: str | None = None  # None: the sample submission's other column
    target_columns: tuple[str, ...] = ()  # several; none: the sample's value columns, where the training table has them
    classes: tuple[str, ...] = ()  # all of them, where the training rows lack some; none: those of the training rows
    group_column: str | None = None  # rows of one group (patient, scene) never straddle folds
    group_csv: str | None = None  # the table that has it, joined by the ids; None: the training table
    few: int = 0  # above 0: so many training rows of each class or stratum and 20 test rows, for a trial
    merge_labels: bool = False  # labels that differ only in case or spaces become one, spelt as most rows do
    on_bad_image: Literal["error", "skip", "blank"] = "error"  # training images that cannot be read: row out, or grey
    channels: int = 3  # of every image; 1: its luma; others: arrays, bands of TIFFs, alpha, several files per image
    samples: Literal["uint8", "uint16"] = "uint8"  # what they are kept as; uint16: where files have more than 8 bits
    # the numbers in files that become black and white, [0, 4095] for 12 bits in 16; null: by their type, or for DICOM
    # by the header; in DICOM it counts in the modality's units, [-160, 240] in a CT
    range: tuple[float, float] | None = None
    alpha: Literal["drop", "white", "black", "keep"] = "drop"  # over which colour, or kept as the last of 2, 4 channels
    dicom: Literal["window", "full"] = "window"  # the header's window where there is one, or all its bits can hold
    array: str | None = None  # of .npz files with several arrays: the name of the one that is the picture
    max_megapixels: float = 100.0  # an image that declares more counts as unreadable and is never decoded
    # what a submitted column holds; auto: by the sample submission. positive: the probability of one of two classes;
    # ranked: the best `guesses` classes; confident: a class and how sure
    submission: Literal["auto", "labels", "probabilities", "positive", "ranked", "confident"] = "auto"
    positive: str | None = None  # which of two classes a single column of probabilities means; None: the last
    guesses: int = 5  # submission=ranked: how many of the most probable classes, as words
    metric: str = "accuracy"  # the one that decides: a name, or FILE.py:FUNCTION (src/competition/metrics/own.py)
    # of classes, columns or targets in it, by name, the others 1: {any: 2}, {grapheme_root: 2}
    metric_weights: dict[str, float] = field(default_factory=dict)
    # thresholds, cut points and factors fitted on out-of-fold rows, where the metric takes labels; none: 0.5 and argmax
    decide: Literal["auto", "none"] = "auto"
    new: str | None = None  # the class of rows that show nobody known, whose place among the best k is fitted
    metrics: tuple[str, ...] = ("accuracy", "f1_macro", "log_loss")  # reported beside it


@dataclass(frozen=True)
class FoldsConfig:
    n: int = 5  # how many
    # auto: stratified, with whole groups where competition.group_column is set
    kind: Literal["auto", "stratified", "group", "stratified_group"] = "auto"
    seed: int = 0  # of the draw of the folds, which all runs of a competition share
    group_duplicates: bool = False  # copies of an image stay in one fold (`./run.sh prepare` shows them)
    file: str | None = None  # None: <paths.folds>/<competition>.csv


@dataclass(frozen=True)
class ModelConfig:
    name: str = "resnet18"  # any timm model, with or without tag (resnet18.a1_in1k, timm/resnet18, hf-hub:owner/model)
    # auto: a file, what lies attached, the hub's cache, a package of weights, the hub, else from scratch
    pretrained: Literal["auto", "never", "always"] = "auto"
    weights: str | None = None  # a .safetensors, .pth, .pth.tar, .pt, .bin or .ckpt file; another file is another run
    drop_rate: float = 0.0  # dropout before the classifier
    drop_path_rate: float = 0.0  # stochastic depth (1603.09382)
    freeze: str | None = None  # "2 epochs", "10%" of the run at its start: only the classifier is trained
    options: dict[str, Any] = field(default_factory=dict)  # passed on to timm.create_model
    output_stride: int | None = None  # 8 or 16: dilated last stages, where timm's model takes it
    stride_first: bool = False  # ResNet as of 1512.03385, the stride in a bottleneck's first 1x1; timm's is ResNet-B
    separable: bool = False  # every regular 3x3 convolution but the stem becomes depthwise + pointwise (1610.02357)
    separable_width: int = 1  # depthwise filters per channel
    acnet: bool = False  # 1x3 and 3x1 branches beside every 3x3, fused before prediction and saving (1908.03930)
    activation: str | None = None  # relu, leaky_relu, prelu, silu, mish, gelu, hard_swish ...; None: the model's own
    pool: Literal["default", "avg", "max", "avgmax", "catavgmax", "gem"] = "default"  # of the last maps
    head: Literal["linear", "cosface", "arcface"] = "linear"  # cosface (AM-softmax 1801.05599), arcface (1801.07698)
    margin: float = 0.3  # of these two, in the loss only: of the cosine, of the angle in radians
    scale: float = 30.0  # of these two: logits are scale times cosines
    subcentres: int = 1  # of these two: weight vectors per class
    # of a new classifier on pretrained weights: timm's draw, 0, or a linear model of the training rows' features
    start: Literal["default", "zero", "probe"] = "default"
    hold_norms: bool = False  # BatchNorm keeps its pretrained statistics, its weight and bias learn
    init: Literal["default", "he", "xavier"] = "default"  # of weights from scratch, biases 0; default: the model's own
    sync_bn: bool = False  # BatchNorm over the batches of all GPUs
    compile: bool = False  # torch.compile, once per size: minutes at the start, for long runs on a GPU


@dataclass(frozen=True)
class StageConfig:
    """One rung of scaling up. Relative values follow the keys `size` and `epochs`, so presets scale with them."""

    length: str = "100%"  # "30%" of the run's examples (epochs x training rows), "3 epochs" of this stage, "200 steps"
    size: float = 1.0  # up to 2.0: share of the key `size`; above: pixels
    rows: float = 1.0  # share of the fold's training rows, stratified; a later larger share contains it
    classes: int | None = None  # only the K most frequent classes
    batch_size: int | str | None = None  # images per process, or a share of the key batch_size: 200%; None: the key
    augment: float = 1.0  # strength of the augmentation, 0 (none) to 1 (as configured)
    # what is trained; head: the classifier, head+norm: and the last norm with its statistics (FixRes, 1906.06423)
    train: Literal["all", "head", "head+norm"] = "all"
    lr: float | None = None  # a constant rate of its own, per 256 examples; the schedule ends with the stages before


@dataclass(frozen=True)
class OptimizerConfig:
    name: str = "sgd"  # any optimiser of timm: sgd (with Nesterov momentum), adamw, lamb, lars, muon ...
    lr: float = 0.1  # for 256 examples per step, and scaled to the batch that there is, see scaling
    scaling: Literal["linear", "sqrt", "none"] = "linear"  # lr * total batch / 256 (1706.02677), or its root (Adam)
    momentum: float = 0.9  # of sgd and its kin
    weight_decay: float = 5e-4  # decoupled in adamw
    layer_decay: float = 1.0  # rate times this for each layer below the classifier (discriminative rates)
    fused: bool = False  # torch's fused kernels, for sgd and adamw
    decay_bias: bool = False  # True also decays biases and norm parameters (Bag of Tricks 3.1.4 says do not)
    clip: float | None = None  # largest norm of the gradient
    accumulate: int = 1  # micro-batches of batch_size per optimiser step


@dataclass(frozen=True)
class ScheduleConfig:
    # how the rate falls after its warm-up; one_cycle (1708.07120) rises and falls
    kind: Literal["cosine", "linear", "steps", "exponential", "constant", "one_cycle"] = "cosine"
    warmup: str = "5%"  # linear from 0 (one_cycle: cosine from `start`); a share of the run, "200 steps" or "2 epochs"
    final: float = 0.0  # cosine, linear and one_cycle end at this share of the peak rate
    start: float = 0.04  # one_cycle: share of the peak rate at the first step
    momentum: tuple[float, float] | None = None  # one_cycle: [at both ends, at the peak rate], e.g. [0.95, 0.85]
    drops: tuple[float, ...] = (0.33, 0.66, 0.9)  # steps: shares of the run at which the rate falls
    factor: float = 0.1  # steps: times this at each drop
    decay: float = 0.94  # exponential: times this every `every`
    every: str = "2 epochs"  # exponential: how often the rate falls


@dataclass(frozen=True)
class AugmentConfig:
    """Bag of Tricks 2.1 by default; sampled per image, at the strength of the stage."""

    crop_area: tuple[float, float] = (0.08, 1.0)  # share of the image's area
    crop_ratio: tuple[float, float] = (0.75, 1.3333)  # width by height of the crop
    flip: bool = True  # left-right, half of the time
    vflip: bool = False  # upside down, half of the time
    rotate: float = 0.0  # degrees, up to +-
    shear: float = 0.0  # degrees, up to +-
    zoom: float = 0.0  # size of the content times 1 +- this
    shift: float = 0.0  # share of the side, up to +-
    brightness: float = 0.4  # factor 1 +- this
    fit_brightness: bool = False  # the range of brightness is measured on the fold's training rows instead
    contrast: float = 0.0  # factor 1 +- this
    saturation: float = 0.4  # factor 1 +- this
    hue: float = 0.4  # turn of the colours in YIQ: +- this * 180 degrees (as MXNet, the paper's library)
    pca: float = 0.1  # standard deviation of the noise along the principal colours (AlexNet)
    erase: float = 0.0  # probability of a grey rectangle (random erasing, 1708.04896)
    # after crop and flip, e.g. [Transpose, {GaussianBlur: {p: 0.2}}]; OneOf, SomeOf and Sequential take such a list
    albumentations: tuple[dict[str, Any] | str, ...] = ()


@dataclass(frozen=True)
class MixConfig:
    mixup: float = 0.0  # alpha of Beta(alpha, alpha); 0 turns it off (1710.09412)
    cutmix: float = 0.0  # likewise (1905.04899); with both on, each batch draws one of them
    probability: float = 1.0  # share of the batches that are mixed
    stop: float = 1.0  # share of the run after which mixing ends


@dataclass(frozen=True)
class LossConfig:
    # auto: by competition.kind, single and targets: cross_entropy, multi: bce, number: mse. bce: each class against the
    # rest, of a number between the smallest and the largest; ordinal: above each of the grades, for classes in an order
    # (qwk); mse, mae, huber: of numbers, in standard deviations of the training rows
    name: Literal["auto", "cross_entropy", "focal", "bce", "ordinal", "mse", "mae", "huber"] = "auto"
    gamma: float = 2.0  # focal: cross-entropy times (1-p)^gamma (1708.02002)
    class_weights: Literal["none", "balanced"] = "none"  # balanced: N / (K · rows of the class)
    smoothing: float = 0.0  # epsilon of label smoothing; numbers have none
    smoothing_kind: Literal["others", "all"] = "others"  # eps/(K-1) on the others (Bag of Tricks 5.2), or eps/K on all
    # share of the fold's training labels replaced by another class: a known harm, to see whether ablate finds it
    flip_labels: float = 0.0


@dataclass(frozen=True)
class DistillConfig:
    """How a student learns from the run `teacher` (1503.02531, Bag of Tricks 5.3): CE + weight·T²·KL."""

    temperature: float = 5.0  # T, by which both sides' logits are divided
    weight: float = 1.0  # of the teacher's part, beside the loss of the labels
    # patient: the teacher looks at the very crop that the student sees, mixed images too (2106.05237); precomputed: its
    # mean over the TTA views `views` of each image, once before training
    targets: Literal["patient", "precomputed"] = "patient"
    views: str = "flip"  # precomputed: the TTA views that the teacher looks at
    unlabelled: bool = False  # test images join, labelled by the fold's own teacher (noisy student, 1911.04252) ...
    confidence: float = 0.9  # ... where it is at least this sure


@dataclass(frozen=True)
class PruneConfig:
    """Fold k starts with what is left of fold k of the run `run`; see src/model/pruning.py."""

    run: str | None = None  # the finished run whose networks are pruned
    ratio: float = (
        0.5  # share of the channels of every layer that is taken out; the rest: about (1 - ratio)² of the work
    )


@dataclass(frozen=True)
class AverageConfig:
    ema: float = 0.999  # decay of the moving average, warmed up; 0 turns it off
    ema_every: int = 4  # steps between two updates, which count for all of them
    swa: bool = True  # mean of the weights over the last part of the run, BN statistics recomputed (1803.05407)
    swa_start: float = 0.75  # share of the run
    swa_every: str = "1 epochs"  # distance of the weights that are averaged
    swa_lr: float | None = None  # constant rate during SWA, share of the peak; None keeps the schedule
    compare: bool = True  # raw, EMA and SWA weights on the held-out fold; false: the last of them that is on is kept
    bn_batches: int = 32  # batches (per process) that the fresh BN statistics are taken from (precise BN, 2105.07576)


@dataclass(frozen=True)
class EvalConfig:
    crop: float = 0.875  # short side resized to size/crop, then the centre (Bag of Tricks 2.1)
    batch_size: int | None = None  # None: twice the training batch
    every: int = 1  # epochs of a stage between two validations of the raw weights on the held-out fold
    # of the held-out rows that such a validation looks at, a stratified sample; the end looks at all
    rows: int = 10_000


@dataclass(frozen=True)
class CheckpointConfig:
    every: float = 60.0  # seconds of work; one is also written after the last step
    keep: int = 2  # checkpoints of a fold, the newest ones


@dataclass(frozen=True)
class SessionConfig:
    """What `time_budget=auto` plans for on Kaggle, counted from the start of the notebook's machine."""

    limit: str = "12h"  # of a CPU or GPU session; 9h in many code competitions
    tpu_limit: str = "9h"  # of a TPU session
    reserve: str = "10m"  # left for the other cells of the notebook


@dataclass(frozen=True)
class WandbConfig:
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: WANDB_MODE, else online with an API key
    project: str | None = None  # None: the competition's name
    entity: str | None = None  # the team; None: your own


@dataclass(frozen=True)
class EnsembleConfig:
    method: Literal["vote", "soft", "geometric", "rank", "climb", "convex"] = "climb"  # soft: the mean
    rounds: int = 50  # climb: members taken one after the other, with replacement
    bags: int = 1  # climb: above 1, mean over climbs with half of the members and a bootstrap sample of the rows


@dataclass(frozen=True)
class SoupConfig:
    # greedy: a run joins if the soup is no worse with it on the other folds' rows; uniform: all join
    method: Literal["greedy", "uniform"] = "greedy"


@dataclass(frozen=True)
class StackConfig:
    # the second model; numbers have one of the last three; lightgbm is to be installed
    learner: Literal["logistic", "ridge", "lightgbm", "mlp"] = "logistic"
    # .npz files, folders with features.npz or fold<k>/features.npz, then columns of the tables: [F, columns:age, sex]
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class PathsConfig:
    runs: str = "runs"  # where runs are kept
    cache: str = "cache"  # decoded images, and what was found among them
    folds: str = "folds"  # which row is in which fold, by competition
    submissions: str = "submissions"  # where submissions are written
    # what is attached: competitions, runs and weights are looked for in it; KAGGLE_INPUT_DIR, else /kaggle/input
    input: str = field(default_factory=lambda: str(inputs_folder()))


@dataclass(frozen=True)
class Config:
    fold: int | str = 0  # a number, or all
    run: str | None = None  # None: <competition>-<model>
    seed: int = 0  # of weights, order of the rows, augmentation; the folds have folds.seed
    epochs: float = 10.0  # passes over the fold's training rows, all stages together
    least_steps: int = 0  # of a preset: where rows are few, as many epochs as make so many steps; with epochs= none
    size: int = 128  # pixels, of the last stage and of prediction
    batch_size: int | str = 64  # per process; auto: the largest that fits at the largest stage
    stages: tuple[StageConfig, ...] = (StageConfig(),)  # the plan: length, size, share of the rows ... of each
    normalise: Literal["model", "data"] = "model"  # as the weights expect, or mean and std of the fold's training rows
    balance: float = 0.0  # classes are drawn by their share of the rows (0), alike (1), or in between
    tta: str | list[Any] = "flip"  # none, flip, d4, crops, scales, or a list of views
    time_budget: str | None = "auto"  # "8.5h", "300s": ends in time, with a submission; auto: the notebook's session
    device: Literal["auto", "cpu", "cuda", "mps", "tpu"] = "auto"  # auto: the fastest that is there
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  # auto: what the device is fast in
    processes: int | str = "auto"  # auto: one per GPU or TPU core, one on a CPU
    # several processes and fold=all: a fold for each of them (folds), or all of them on one fold, each with batch_size
    # images of a step (data); auto: folds, where they keep three quarters of the devices busy
    parallel: Literal["auto", "folds", "data"] = "auto"
    start: int = 0  # of several starts of one command by a launcher, start=0,1,2 -m: which; decides nothing
    workers: int | str = "auto"  # loader processes per training process
    # who makes the training crops: the workers, or the device from images that stay there; auto: a GPU that has room
    augment_on: Literal["auto", "workers", "device"] = "auto"
    resume: Literal["auto", "never"] = "auto"  # never: an unfinished fold starts afresh
    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = ()  # beside W&B (wandb.mode), where they are installed
    teacher: str | None = None  # a run, single or an ensemble, that the student learns from, fold by fold
    report: bool = True  # of all folds, also of an ensemble, a stack or a soup: at the end runs/<run>/report.html
    cache: bool = True  # keep decoded images on disk, shared by all folds and runs
    # of disk that these may take in paths.cache, all competitions together; null: all but the last GB of the disk. What
    # has no room is decoded anew each time
    cache_gb: float | None = None
    runs: tuple[str, ...] = ()  # ensemble, stack, soup: the runs to combine; sizes: drawn beside the run
    combined: Literal["ensemble", "stack", "soup"] | None = None  # by which verb this run was made of others; set by it
    sizes: tuple[int, ...] = ()  # sizes: the pixels to try
    competition: CompetitionConfig = field(default_factory=CompetitionConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    soup: SoupConfig = field(default_factory=SoupConfig)
    stack: StackConfig = field(default_factory=StackConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
