"""What every recipe starts from: the competition, its folds and its images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from src.competition.digits import make_digits
from src.competition.few import few_rows
from src.competition.folds import elsewhere, load_folds
from src.competition.splitting import merge_groups
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig, Config, loss_for
from src.data.cache import ImageStore
from src.data.disk_budget import GB, DiskBudget
from src.data.duplicates import Duplicates, open_duplicates, stored_duplicates
from src.data.spec import ImageSpec
from src.errors import UserError
from src.log import say_once
from src.runs.scoring import reported
from src.training.device import loader_workers

DIGITS, DIGITS_PLACE = "digits", Path("cache/competitions/digits")  # as in configs/competition/digits.yaml
TEST_ROWS = 20  # where there are to be few


def open_competition(config: Config) -> Competition:
    """The checked tables of `config.competition`; the embedded digits are made at their own place, and nowhere else, if
    need be."""
    task = config.competition
    if not task.root:
        raise UserError(f"competition.root: where is {task.name}? Give its folder, competition.root=DIR")
    embed_digits(task)
    competition = load_competition(task, Path(config.paths.cache) / task.name)
    if task.few:
        competition = few_rows(competition, task.few, TEST_ROWS)
    loss_for(competition.task.kind, config.loss.name)
    reported(config, competition)
    return competition


def embed_digits(task: CompetitionConfig) -> None:
    """Make the embedded digits at their own place, if they are meant; nowhere else is anything ever written."""
    if task.name == DIGITS and Path(task.root).resolve() == DIGITS_PLACE.resolve():
        make_digits(DIGITS_PLACE)


def open_folds(config: Config, competition: Competition) -> np.ndarray:
    """(N,) int64 fold of each training row, from the fold file or written to it."""
    path = Path(config.folds.file or Path(config.paths.folds) / f"{competition.name}.csv")
    if config.folds.file and not path.exists() and path.resolve().is_relative_to(competition.root.resolve()):
        cure = elsewhere(path, competition.root)
        raise UserError(f"folds.file={path}: no such file, and none is made in the competition's folder; {cure}")
    duplicates = find_copies(config, competition).groups if config.folds.group_duplicates else None
    return load_folds(path, competition, config.folds.n, config.folds.seed, config.folds.kind, duplicates)


def find_copies(config: Config, competition: Competition) -> Duplicates:
    """Duplicates among the training and test images, searched once per state of the files and kept in the cache."""
    folder, workers = Path(config.paths.cache) / competition.name, loader_workers(config.workers)
    return open_duplicates(
        competition.root,
        competition.train.images,
        competition.test.images,
        folder,
        workers,
        print,
        image_spec(config.competition),
    )


def known_copies(config: Config, competition: Competition) -> Duplicates | None:
    """`find_copies` of an earlier search; None if the images as they are have not been searched."""
    folder, spec = Path(config.paths.cache) / competition.name, image_spec(config.competition)
    return stored_duplicates(competition.root, competition.train.images, competition.test.images, folder, spec)


def groups_of(config: Config, competition: Competition, rows: np.ndarray) -> np.ndarray | None:
    """The groups of training rows (n,) int64, with copies of an image together if `folds.group_duplicates`; None where
    nothing is to be kept together."""
    groups = competition.train.groups
    if config.folds.group_duplicates:
        groups = merge_groups(groups, find_copies(config, competition).groups)
    return None if groups is None else groups[rows]


def names_of(competition: Competition, rows: np.ndarray) -> np.ndarray:
    """The target of training rows (n,) int64 in words, (n,) str; of numbers nothing, as each has its own."""
    cells = competition.task.cells(competition.y[rows])
    return np.full(len(rows), "") if competition.task.numeric else cells


def solution_path(config: Config) -> Path | None:
    """The hidden labels, if they are configured and there; a relative path counts from the competition's root."""
    if config.competition.solution is None:
        return None
    path = Path(config.competition.root) / config.competition.solution
    return path if path.is_file() else None


def image_spec(config: CompetitionConfig) -> ImageSpec:
    """What the competition's pictures are. Raises UserError for an alpha that is kept and has no channel, or the other
    way round."""
    has_channel = config.channels in (2, 4)
    if config.alpha == "keep" and not has_channel:
        raise UserError("competition.alpha=keep: is the last of 2 or 4 channels; set competition.channels=4")
    if config.alpha in ("white", "black") and has_channel:
        raise UserError(
            f"competition.alpha={config.alpha}: nothing of alpha is left for a channel; set competition.channels=3, or "
            "competition.alpha=keep"
        )
    return ImageSpec(config.channels, config.samples, config.range, config.alpha, config.dicom, config.array)


def open_images(
    config: Config,
    competition: Competition,
    paths: np.ndarray,
    *,
    short_side: int,
    unreadable: Literal["error", "blank", "mark"] = "error",
) -> ImageStore:
    """The images `paths` (N,) of the competition, decoded to `short_side` once and kept while there is room."""
    folder = Path(config.paths.cache) / competition.name if config.cache else None
    limit, spec, budget = config.competition.max_megapixels, image_spec(config.competition), cache_budget(config)
    store = ImageStore(competition.root, paths, short_side, folder, unreadable, limit, spec, budget)
    if folder is not None and store.file is not None and (share := store.share()) < 1:
        say_once(
            f"{folder}: room for about {share:.0%} of {len(paths)} decoded images; the others are decoded each time"
        )
    return store


def cache_budget(config: Config) -> DiskBudget:
    """What decoded images may take of the disk."""
    return DiskBudget(Path(config.paths.cache), None if config.cache_gb is None else round(config.cache_gb * GB))
