"""A folder in Kaggle layout, read once and checked: ids, targets, groups, image files, and what to submit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competition.csv_file import refuse_repeats
from src.competition.form import fitted_form
from src.competition.images import find_images, template_fields
from src.competition.kinds import KINDS
from src.competition.kinds.single import Single, sort_classes
from src.competition.links import ONE, TARGET, Links, filled, link
from src.competition.pixel_table import unpacked
from src.competition.sample import Sample
from src.competition.table_rows import Columns, open_sample, test_columns, training_columns, words_of_repeats
from src.competition.task import Task
from src.config import CompetitionConfig
from src.errors import UserError
from src.ids import differ


@dataclass(frozen=True)
class Rows:
    """The rows of a table in its order: N of the training table with targets, or M test rows without."""

    ids: np.ndarray  # (N,) str
    # Fixed-width bytes: an array of Python strings would be copied into every loader worker, page by page, as its
    # reference counts change.
    images: np.ndarray  # (N,) bytes (dtype S), utf-8, relative to the competition's root
    y: np.ndarray | None = None  # as the task encodes it
    groups: np.ndarray | None = None  # (N,) str
    submitted: np.ndarray | None = None  # (N,) str: the row of a submission that each would be part of; None: its own

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Competition:
    name: str
    root: Path
    task: Task
    train: Rows
    test: Rows
    id_column: str
    target_column: str | None  # None: the task's names are columns of their own
    sample: Sample
    links: Links | None = None  # None: each row of the sample is a picture
    targets: tuple[str, ...] = ()  # columns of the training table that are learnt from

    @property
    def y(self) -> np.ndarray:
        """Targets of the training rows."""
        assert self.train.y is not None
        return self.train.y


def load_competition(
    keys: CompetitionConfig, cache: Path | None = None, say: Callable[[str], None] = print
) -> Competition:
    """Read and check the tables and find every image; the images themselves are not opened.

    keys: the section `competition`. cache: a folder for pictures that are unpacked from tables. Labels that differ only
    in case or spaces are reported through `say`, or merged if `keys.merge_labels`.
    Whatever does not fit (a missing file, column or image, a repeated or empty id, an empty label, a sample that is
    not about the test rows, fewer than two classes) is a UserError.
    """
    root = Path(keys.root)
    if not root.is_dir():
        raise UserError(f"competition.root={root}: no such folder; point it at the folder that holds {keys.train_csv}")
    sample = open_sample(keys, root)
    id_column = sample.id_column if keys.id_column is None else keys.id_column

    # ---- training rows ----------------------------------------------------------------------------------------------
    place = str(root / (keys.train_csv or keys.train_images))
    columns, targets = training_columns(keys, root, id_column, sample)
    if keys.kind == "multi" and len(targets) == 1:
        columns = words_of_repeats(columns, id_column, targets)
    ids = columns[id_column]
    refuse_repeats(ids, place)
    if keys.classes:
        say(f"{place}: {len(keys.classes)} classes are given, also those of no training row (competition.classes)")
    task, y = KINDS[keys.kind].learn({name: columns[name] for name in targets}, place, keys.merge_labels, say)

    if keys.classes and isinstance(task, Single):
        cells = task.cells(y)
        task = Single(np.array(sort_classes({*task.names.tolist(), *keys.classes}), dtype=np.str_))
        y = task.encode(cells)

    sample = fitted_form(sample, task, keys, say)

    # ---- test rows and pictures -------------------------------------------------------------------------------------
    test, links = load_test_rows(keys, task, targets, id_column, sample, cache, say)
    fields = set(template_fields(keys.rows, "competition.rows"))
    pooled = keys.rows != ONE and TARGET not in fields and fields <= {"id", *columns}
    of_train = filled(keys.rows, ids, columns) if pooled else None
    if keys.pixels:
        train_images = unpacked(root / str(keys.train_csv), keys.pixels, keys.pixel_shape, ids, cache, "train")
    elif keys.train_csv is None:
        top = keys.train_images.split("{")[0].rpartition("/")[0]
        paths = [f"{top}/{name}" if top else name for name in columns["id"].tolist()]
        train_images = np.array([path.encode() for path in paths], dtype=np.bytes_)
    else:
        without = {"skip": "their rows are left out", "blank": "they are grey pictures"}.get(keys.on_bad_image)
        table = root / keys.train_csv
        train_images = _images(keys.train_images, "competition.train_images", root, ids, columns, table, say, without)
    return Competition(
        name=keys.name or root.resolve().name,
        root=root,
        task=task,
        train=Rows(ids, train_images, y, columns[keys.group_column] if keys.group_column else None, of_train),
        test=test,
        id_column=id_column,
        target_column=targets[0] if len(targets) == 1 else None,
        sample=sample,
        links=links,
        targets=tuple(targets),
    )


def load_test_rows(
    keys: CompetitionConfig,
    task: Task,
    targets: Sequence[str],
    id_column: str,
    sample: Sample,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Rows, Links | None]:
    """The test rows that are under `keys.root` now with their images, and how they make the rows of the sample.

    targets, id_column: of the training table, which is not looked at. A row without its image never ends a run; a
    folder without any of them does. Raises UserError like `load_competition`.
    """
    root = Path(keys.root)
    path, test = test_columns(keys, root, sample, id_column)
    ids = test["id"]
    names = np.array(list(targets) if len(targets) > 1 else task.names.tolist(), dtype=np.str_)
    links = link(sample, ids, test, keys.rows, names, keys.pool)
    if links is None:
        if text := differ(sample.ids, ids, "only in the sample", "only in the test rows"):
            both = f"{root / str(keys.sample_csv)} and {path}"
            raise UserError(f"{both} have different ids: {text}; use files of the same competition")
        task.submit(np.zeros((0, len(task.names))), sample)  # refused before training if it cannot be filled
    if keys.pixels:
        images = unpacked(path, keys.pixels, keys.pixel_shape, ids, cache, "test")
    else:
        without = "they get the prior of the training rows"
        images = _images(keys.test_images, "competition.test_images", root, ids, test, path, say, without)
    return Rows(ids, images), links


def _images(
    template: str,
    key: str,
    root: Path,
    ids: np.ndarray,
    columns: Columns,
    table: Path,
    say: Callable[[str], None],
    without: str | None,
) -> np.ndarray:
    return find_images(
        root=root, template=template, ids=ids, columns=columns, key=key, table=table, say=say, without=without
    )
