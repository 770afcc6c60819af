"""A folder in Kaggle layout, read once and checked: ids, labels, groups, image files, and what to submit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competition.csv_file import column_position, read_columns, read_header, refuse_repeats
from src.competition.images import find_images, template_fields
from src.competition.submission import Sample, match_classes, read_sample, require_two
from src.errors import UserError, first_few
from src.ids import differ


@dataclass(frozen=True)
class Competition:
    """N training rows in the order of train.csv, M test rows in the order of test.csv."""

    name: str
    root: Path
    classes: np.ndarray  # (C,) str, sorted; numerically if all are integers: "2" before "10"
    ids: np.ndarray  # (N,) str
    labels: np.ndarray  # (N,) int64, index into classes
    groups: np.ndarray | None  # (N,) str
    # Fixed-width bytes: an array of Python strings would be copied into every loader worker, page by page, as its
    # reference counts change.
    paths: np.ndarray  # (N,) bytes (dtype S), utf-8, relative to root
    test_ids: np.ndarray  # (M,) str
    test_paths: np.ndarray  # (M,) bytes (dtype S)
    id_column: str
    target_column: str
    sample: Sample


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
    say: Callable[[str], None] = print,
) -> Competition:
    """Read and check the tables and find every image; the images themselves are not opened.

    `train_images` and `test_images` are folders, or templates such as "images/{label}/{id}.png" with columns of
    their csv file; ids may lack the extension. `test_csv` may be missing: then the sample names the test rows.
    Labels that differ only in case or spaces are told to `say` in one line, or merged if `merge_labels`.
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
    target_column = _target(target_column, header, sample, train_path, id_column, group_column)
    used = [id_column, target_column, *([group_column] if group_column is not None else [])]
    columns = _columns(train_path, header, used, train_images, "competition.train_images", "competition.train_csv")
    ids = columns[id_column]
    refuse_repeats(ids, train_path)
    targets = columns[target_column]
    if alike := similar_labels(targets):
        if merge_labels:
            targets = np.array([alike.get(name, name) for name in targets.tolist()], dtype=np.str_)
        say(_describe(alike, columns[target_column], f"{train_path}: column {target_column!r}", merge_labels))
    classes, labels = encode(targets)
    if len(classes) < 2:
        raise UserError(
            f"{train_path}: column {target_column!r} holds only {str(classes[0])!r}; it takes two classes to learn "
            "(see competition.target_column=)"
        )
    if sample.kind == "probabilities":
        match_classes(sample.value_columns, classes.tolist())
    elif sample.kind == "positive":
        require_two(classes)

    test_path = root / test_csv
    test_columns = _test_columns(test_path, sample, id_column, test_images)
    test_ids = test_columns["id"]
    if not test_path.exists():
        test_path = root / sample_csv
    _compare(sample.ids, test_ids, root / sample_csv, test_path)
    return Competition(
        name=name,
        root=root,
        classes=classes,
        ids=ids,
        labels=labels,
        groups=columns[group_column] if group_column is not None else None,
        paths=find_images(
            root=root,
            template=train_images,
            ids=ids,
            columns=columns,
            key="competition.train_images",
            table=train_path,
        ),
        test_ids=test_ids,
        test_paths=find_images(
            root=root,
            template=test_images,
            ids=test_ids,
            columns=test_columns,
            key="competition.test_images",
            table=test_path,
        ),
        id_column=id_column,
        target_column=target_column,
        sample=sample,
    )


def sort_classes(names: Iterable[str]) -> list[str]:
    """Class names in their order: as numbers if all are integers, else as text."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in unique):
        unique.sort(key=int)
    return unique


def encode(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) str targets -> classes (C,) str in the order of sort_classes, labels (N,) int64 into them."""
    names = targets.tolist()
    classes = sort_classes(names)
    number = {name: position for position, name in enumerate(classes)}
    labels = np.fromiter((number[name] for name in names), dtype=np.int64, count=len(names))
    return np.array(classes, dtype=np.str_), labels


def similar_labels(targets: np.ndarray) -> dict[str, str]:
    """Labels of (N,) str that differ only in case or spaces -> the most frequent spelling (of equals, the first).

    Holds every spelling of each such group, the most frequent one included; empty if there are none.
    """
    counts = Counter(targets.tolist())
    groups: dict[str, list[str]] = {}
    for name in sorted(counts):
        groups.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    return {name: max(group, key=counts.__getitem__) for group in alike for name in group}


def _describe(alike: Mapping[str, str], targets: np.ndarray, place: str, merged: bool) -> str:
    counts = Counter(targets.tolist())
    spellings: dict[str, list[str]] = {}
    for name, usual in alike.items():
        spellings.setdefault(usual, []).append(f"{name!r} ({counts[name]} rows)")
    groups = first_few([" and ".join(names) for names in spellings.values()])
    what = "merged" if merged else "kept apart; competition.merge_labels=true merges them to the most frequent spelling"
    return f"{place}: labels differ only in case or spaces: {groups}: {what}"


def _target(
    column: str | None, header: tuple[str, ...], sample: Sample, path: Path, id_column: str, group_column: str | None
) -> str:
    """The target column: as told, else the sample's other column, else the only one that train.csv leaves."""
    if column is not None:
        column_position(column, header, path, "competition.target_column")
        return column
    if len(sample.columns) == 2 and sample.value_columns[0] in header:
        return sample.value_columns[0]
    candidates = [name for name in header if name not in (id_column, group_column)]
    if len(candidates) != 1:
        choices = (
            f"one of: {', '.join(candidates)}" if candidates else "the labels' column; there is none besides the ids"
        )
        raise UserError(f"{path}: which column is the target? Set competition.target_column= to {choices}")
    return candidates[0]


def _columns(
    path: Path, header: tuple[str, ...], used: list[str], template: str, images_key: str, key: str
) -> dict[str, np.ndarray]:
    """The columns in use, plus those that the image template names."""
    named = [field for field in template_fields(template, images_key) if field != "id"]
    for field in named:
        column_position(field, header, path, images_key)
    wanted = list(dict.fromkeys([*used, *named]))
    return read_columns(path, wanted, key, required=wanted)


def _test_columns(path: Path, sample: Sample, id_column: str, template: str) -> dict[str, np.ndarray]:
    """The columns of test.csv that are in use, the ids also as "id"; without the file, the sample's ids."""
    if not path.exists():
        return {"id": sample.ids}
    header = read_header(path, "competition.test_csv")
    column = id_column if id_column in header else sample.id_column
    column_position(column, header, path, "competition.id_column")
    columns = _columns(path, header, [column], template, "competition.test_images", "competition.test_csv")
    refuse_repeats(columns[column], path)
    return {**columns, "id": columns[column]}


def _compare(sample_ids: np.ndarray, test_ids: np.ndarray, sample_path: Path, test_path: Path) -> None:
    if text := differ(sample_ids, test_ids, "only in the sample", "only in the test rows"):
        raise UserError(f"{sample_path} and {test_path} have different ids: {text}; use files of the same competition")
