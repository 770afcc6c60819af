"""Look at the data before training: rows and classes, unreadable images, duplicates that leak or contradict."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np

from src.archives import read_files, shown
from src.competition.folds import elsewhere
from src.competition.tables import Competition
from src.config import Config
from src.data.duplicates import Duplicates
from src.data.sight import doubts, see
from src.data.spec import ImageSpec
from src.errors import UserError, first_few
from src.files import replacing
from src.reporting.figures import image_pairs
from src.reporting.report.copies import ACROSS, CONTRARY, TEST, kinds_of_copies, worst_first
from src.runs.opening import find_copies, image_spec, names_of, open_competition, open_folds, open_images

SHOWN = 30  # pairs in the picture
CLASSES = 10  # whose mean colours are printed
SIDE = 64  # pixels of the short side, of the pictures that are looked at


def prepare(config: Config) -> None:
    """Print what is in the competition and what is wrong with it; writes duplicates.csv and .png into the cache."""
    competition = open_competition(config)
    folds = open_folds(config, competition)
    print(f"{competition.name}: {len(competition.train.ids)} training rows, {len(competition.test.ids)} test rows")
    for line in competition.task.describe(competition.y):
        print(f"  {line}")
    only = f", in training only: {(folds < 0).sum()}" if (folds < 0).any() else ""
    print("  folds    " + ", ".join(f"{k}: {n}" for k, n in enumerate(np.bincount(folds[folds >= 0]))) + only)

    report_sight(config, competition)
    found = find_copies(config, competition)
    report_unreadable(competition, found.unreadable)
    report_duplicates(config, competition, folds, found)


def report_unreadable(competition: Competition, rows: np.ndarray) -> None:
    """The one place for images that cannot be read; rows (U,) int64, the test rows after the training rows."""
    paths = [*competition.train.images.tolist(), *competition.test.images.tolist()]
    names = [paths[row].decode().replace("\n", " + ") for row in rows]
    print(f"  unreadable images: {len(rows)}" + (f" ({first_few(names, 10)})" if names else ""))


def report_sight(config: Config, competition: Competition) -> None:
    """What a network would see: levels, flat pictures, and the mean colour of each of the largest classes."""
    uncached = dataclasses.replace(config, cache=False)
    store = open_images(uncached, competition, competition.train.images, short_side=SIDE, unreadable="blank")
    sight = see(store, np.arange(len(competition.train)))
    if sight is None:
        return
    print(f"  {sight.line()}")
    names = names_of(competition, sight.rows)
    classes, counts = np.unique(names, return_counts=True)
    for name in classes[np.argsort(-counts, kind="stable")][: CLASSES if len(classes) > 1 else 0].tolist():
        own = sight.colours[names == name]
        print(f"    {name[:40]}: mean " + " ".join(f"{value:.2f}" for value in own.mean(axis=0)) + f" of {len(own)}")
    for line in doubts(sight, store, names):
        print(f"  {line}")


def report_duplicates(config: Config, competition: Competition, folds: np.ndarray, found: Duplicates) -> None:
    """Counts, the cure, a csv of all pairs and a picture of the worst. folds: (N,) int64."""
    rows = len(competition.train.ids)
    place = np.concatenate([folds, np.full(len(competition.test.ids), -1)])
    names = _all_labels(competition)
    kinds = kinds_of_copies(found, place, names)
    across, contrary, test = kinds[ACROSS], kinds[CONTRARY], kinds[TEST]

    print("  duplicates                   exact   near")
    for text, which in kinds.items():
        print(f"    {text:<23} {(which & found.exact).sum():7} {(which & ~found.exact).sum():6}")
    if not len(found.first):
        print("  no duplicates found")
    if across.any():
        file = Path(config.folds.file or Path(config.paths.folds) / f"{competition.name}.csv")
        cure = f"set folds.group_duplicates=true and {elsewhere(file, competition.root)}"
        print(f"  copies across folds make scores too good: {cure}")
    if contrary.any():
        print(
            "  copies with other labels are wrong in at least one row: look at them, correct or drop rows of train.csv"
        )

    folder = Path(config.paths.cache) / competition.name
    worst = worst_first(found, kinds)
    write_pairs(folder / "duplicates.csv", competition, place, names, found, worst)
    print(f"wrote {folder / 'duplicates.csv'}" + (f" and {folder / 'duplicates.png'}" if len(worst) else ""))
    if not len(worst):
        (folder / "duplicates.png").unlink(missing_ok=True)  # of an earlier state of the data
        return
    ids = _all_ids(competition)

    def caption(row: int) -> str:
        where = f"fold {place[row]}" if row < rows else "test"
        return f"{ids[row]}\n{names[row] or '?'}, {where}"

    pairs, spec = [], image_spec(config.competition)
    for pair in worst[:SHOWN].tolist():
        one, other = int(found.first[pair]), int(found.second[pair])
        kind = "exact" if found.exact[pair] else f"near {found.distance[pair]:.3f}"
        flags = ("mirrored", found.flipped), ("OTHER LABEL", contrary), ("ACROSS FOLDS", across), ("TRAIN-TEST", test)
        title = ", ".join([kind, *(text for text, which in flags if which[pair])])
        pictures = (_picture(competition, spec, one), _picture(competition, spec, other))
        pairs.append((title, pictures, (caption(one), caption(other))))
    image_pairs(folder / "duplicates.png", pairs, f"{len(worst)} pairs in {competition.name}, {len(pairs)} shown")


def write_pairs(
    path: Path, competition: Competition, place: np.ndarray, names: np.ndarray, found: Duplicates, order: np.ndarray
) -> None:
    """All pairs as csv, in the given order (P,): ids, kind, distance, mirrored, labels and folds (test has neither)."""
    ids = _all_ids(competition)
    spot = np.where(place < 0, "test", place.astype(np.str_))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["id", "other_id", "kind", "distance", "mirrored", "label", "other_label", "fold", "other_fold"]
        )
        for pair in order.tolist():
            one, other = int(found.first[pair]), int(found.second[pair])
            kind = "exact" if found.exact[pair] else "near"
            what = [kind, f"{found.distance[pair]:.4f}", int(found.flipped[pair])]
            writer.writerow([ids[one], ids[other], *what, names[one], names[other], spot[one], spot[other]])


def _all_ids(competition: Competition) -> np.ndarray:
    return np.concatenate([competition.train.ids, competition.test.ids])


def _all_labels(competition: Competition) -> np.ndarray:
    """(N + M,) str, empty for the test rows."""
    return np.concatenate([competition.task.cells(competition.y), np.full(len(competition.test), "")])


def _picture(competition: Competition, spec: ImageSpec, row: int) -> np.ndarray:
    train = len(competition.train.ids)
    path = competition.train.images[row] if row < train else competition.test.images[row - train]
    try:
        files = read_files(competition.root, path)
        return spec.visible(spec.read_files(files, 160, name=shown(competition.root, path)))
    except UserError:  # gone or damaged since the search
        return np.full((160, 160, 3), 127, np.uint8)
