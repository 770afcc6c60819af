"""A folder in Kaggle layout, read once and checked: ids, targets, groups, image files, and what to submit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competition.csv_file import column_position, read_columns, read_header, refuse_repeats
from src.competition.images import find_images, template_fields
from src.competition.kinds import KINDS
from src.competition.sample import Sample, read_sample
from src.competition.task import Task
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

    @property
    def y(self) -> np.ndarray:
        """Targets of the training rows."""
        assert self.train.y is not None
        return self.train.y


def load_competition(
    *,
    name: str,
    root: str | Path,
    train_csv: str = "train.csv",
    test_csv: str = "test.csv",
    sample_csv: str = "sample_submission.csv",
    train_images: str = "train",
    test_images: str = "test",
    id_column: str | None = None,
    target_column: str | None = None,
    group_column: str | None = None,
    submission: str = "auto",
    merge_labels: bool = False,
    kind: str = "single",
    say: Callable[[str], None] = print,
) -> Competition:
    """Read and check the tables and find every image; the images themselves are not opened.

    `train_images` and `test_images` are folders, or templates such as "images/{label}/{id}.png" with columns of
    their csv file; ids may lack the extension. `test_csv` may be missing: then the sample names the test rows.
    Labels that differ only in case or spaces are reported through `say`, or merged if `merge_labels`.
    Whatever does not fit (a missing file, column or image, a repeated or empty id, an empty label, a sample that is
    not about the test rows, fewer than two classes) is a UserError.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"competition.root={root}: no such folder; point it at the folder that holds {train_csv}")
    sample = read_sample(root / sample_csv, id_column, submission)
    id_column = id_column or sample.id_column

    train_path = root / train_csv
    header = read_header(train_path, "competition.train_csv")
    column_position(id_column, header, train_path, "competition.id_column")
    if group_column is not None:
        column_position(group_column, header, train_path, "competition.group_column")
    if target_column is not None:
        column_position(target_column, header, train_path, "competition.target_column")
    others = [name for name in header if name not in (id_column, group_column)]
    target_columns = KINDS[kind].target_columns(target_column, others, sample, train_path)
    used = [id_column, *target_columns, *([group_column] if group_column is not None else [])]
    required = used if KINDS[kind].needs_a_cell else [name for name in used if name not in target_columns]
    columns = _columns(
        train_path, header, used, required, train_images, "competition.train_images", "competition.train_csv"
    )
    ids = columns[id_column]
    refuse_repeats(ids, train_path)
    task, y = KINDS[kind].learn({name: columns[name] for name in target_columns}, str(train_path), merge_labels, say)
    task.submit(np.zeros((0, len(task.names))), sample)  # refused before training if it cannot be filled

    test_path = root / test_csv
    test_columns = _test_columns(test_path, sample, id_column, test_images)
    test_ids = test_columns["id"]
    if not test_path.exists():
        test_path = root / sample_csv
    _compare(sample.ids, test_ids, root / sample_csv, test_path)
    return Competition(
        name=name,
        root=root,
        task=task,
        train=Rows(
            ids,
            find_images(
                root=root,
                template=train_images,
                ids=ids,
                columns=columns,
                key="competition.train_images",
                table=train_path,
            ),
            y,
            columns[group_column] if group_column is not None else None,
        ),
        test=Rows(
            test_ids,
            find_images(
                root=root,
                template=test_images,
                ids=test_ids,
                columns=test_columns,
                key="competition.test_images",
                table=test_path,
            ),
        ),
        id_column=id_column,
        target_column=target_columns[0] if len(target_columns) == 1 else None,
        sample=sample,
    )


def _columns(
    path: Path,
    header: tuple[str, ...],
    used: list[str],
    required: list[str],
    template: str,
    images_key: str,
    key: str,
) -> dict[str, np.ndarray]:
    """The columns in use, plus those that the image template names; all but those not `required` have no empty cell."""
    named = [field for field in template_fields(template, images_key) if field != "id"]
    for field in named:
        column_position(field, header, path, images_key)
    wanted = list(dict.fromkeys([*used, *named]))
    return read_columns(path, wanted, key, required=list(dict.fromkeys([*required, *named])))


def _test_columns(path: Path, sample: Sample, id_column: str, template: str) -> dict[str, np.ndarray]:
    """The columns of test.csv that are in use, the ids also as "id"; without the file, the sample's ids."""
    if not path.exists():
        return {"id": sample.ids}
    header = read_header(path, "competition.test_csv")
    column = id_column if id_column in header else sample.id_column
    column_position(column, header, path, "competition.id_column")
    columns = _columns(path, header, [column], [column], template, "competition.test_images", "competition.test_csv")
    refuse_repeats(columns[column], path)
    return {**columns, "id": columns[column]}


def _compare(sample_ids: np.ndarray, test_ids: np.ndarray, sample_path: Path, test_path: Path) -> None:
    if text := differ(sample_ids, test_ids, "only in the sample", "only in the test rows"):
        raise UserError(f"{sample_path} and {test_path} have different ids: {text}; use files of the same competition")
