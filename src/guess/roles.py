"""Which table of a folder is which: the sample submission, the training rows, the test rows."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competition.long_table import names_in
from src.competition.sample import INDEX, numbers_rows
from src.guess.finding import Finding
from src.guess.folder import Folder, Table, open_table, read_table
from src.guess.locate import locate
from src.guess.rows import Rows, unfolded, what_rows_are
from src.guess.templates import Place, split_of

MOST = 40  # tables that are read
SAMPLE = re.compile(r"sample|submission|submit|benchmark|example", re.IGNORECASE)
ANSWERS = re.compile(r"solution\.csv$|answers?\b", re.IGNORECASE)  # hidden labels beside the data, as ours


@dataclass(frozen=True)
class Roles:
    """sample, train, test: tables or None. train_place, test_place: where their pictures are, None for tables that
    hold the pictures themselves, or without a table.
    rows: what a row of the sample stands for. long: (id column, `competition.long`, column of the values) of a training
    table with a row per picture and target, which `train` has become one with a row per picture of."""

    sample: Table | None
    train: Table | None
    test: Table | None
    train_place: Place | None
    test_place: Place | None
    rows: Rows | None = None
    long: tuple[str, str, str] | None = None
    others: tuple[Table, ...] = ()


def cast(folder: Folder) -> tuple[Roles, list[Finding]]:
    """The tables of a folder by role, and what was decided."""
    tables = [table for file in _in_order(folder)[:MOST] if (table := read_table(folder.root, file)) is not None]
    tables = [table for table in tables if len(table)]
    findings: list[Finding] = []

    sample = find_sample(tables, folder)
    if sample[0] is None:
        refuse_unread_sample(folder, {table.file for table in tables})
    left = [table for table in tables if sample[0] is None or table.file != sample[0].file]
    if sample[0] is not None:
        others = tuple(table.file for table in left if SAMPLE.search(_name(table.file)))
        findings.append(Finding("sample_csv", sample[0].file, "sample submission", sample[1], others))
        left = [table for table in left if table.file not in others]

    test, why = find_test(left, sample[0], folder)
    left = [table for table in left if table is not test]
    if test is not None:
        findings.append(Finding("test_csv", test.file, "test table", why))

    rows = None
    if sample[0] is not None:
        ids = next(iter(sample[0].columns.values()))
        named = set().union(*(set(table.columns) for table in left)) if left else set()
        known = set(folder.names) | set(folder.stems)
        rows = what_rows_are(ids, None if test is None else test.columns, named, known)
        if rows is None and test is not None and set(ids.tolist()) <= known:  # "a" where the test table has "a.jpg"
            findings = [finding for finding in findings if finding.key != "test_csv"]
            why = f"the sample's ids name pictures, those of {test.file} are written in another way"
            findings.append(Finding("test_csv", None, "no test table", why, (test.file,)))
            test, rows = None, what_rows_are(ids, None, named, known)
    names = rows.names if rows is not None else ()
    train, place, why, long = find_train(left, test, sample[0], folder, names)
    if train is not None:
        spare = tuple(t.file for t in left if t is not train and "train" in t.file.lower())
        findings.append(Finding("train_csv", train.file, "training table", why, spare))
    beside = tuple(table for table in left if table.file != (train.file if train else None) and not table.pixels)
    test_place = locate_test(folder, test, sample[0], rows)
    return Roles(sample[0], train, test, place, test_place, rows, long, beside), findings


def _in_order(folder: Folder) -> list[str]:
    """The files that are most likely tables of the competition first: high in the folder, with a telling name."""

    def rank(file: str) -> tuple[int, bool, str]:
        telling = re.search(r"train|test|sample|submission|label|solution", _name(file), re.IGNORECASE)
        return (file.count("/"), telling is None, file)

    return sorted((file for file in folder.tables if not ANSWERS.search(_name(file))), key=rank)


def _name(file: str) -> str:
    return os.path.basename(file)


# ---- sample ---------------------------------------------------------------------------------------------------------


def find_sample(tables: list[Table], folder: Folder) -> tuple[Table | None, str]:
    """The table that shows what is to be submitted: by its name, else the one whose first column are test pictures and
    whose rows no other table has."""
    named = [table for table in tables if SAMPLE.search(_name(table.file)) and len(table.columns) >= 2]
    if named:
        best = max(
            named, key=lambda t: ("sample" in t.file.lower(), "sub" in t.file.lower(), len(t), -t.file.count("/"))
        )
        best = ids_first(best, folder, [table for table in tables if table not in named])
        return best, f"its name; {len(best)} rows, columns {', '.join(list(best.columns)[:6])}"
    for table in tables:
        if len(table.columns) < 2 or table.pixels:
            continue
        names = list(table.columns)
        ids = {names[0]: table.columns[names[0]]}
        if split_of(_name(table.file)) == "train" or len(set(table.columns[names[0]].tolist())) < len(table):
            continue
        place = locate(folder, ids, "test")
        if place is not None and split_of(place.template) == "test":
            rest = [table.columns[name] for name in names[1:]]
            dull = all(
                len(set(cells.tolist())) <= max(2, len(table) // 20) or name[:1].isalpha()
                for name, cells in zip(names[1:], rest, strict=True)
            )
            if dull and split_of(_name(table.file)) != "test":
                return table, f"its ids name the test pictures in {place.template}"
    return None, ""


def ids_first(sample: Table, folder: Folder, others: Sequence[Table]) -> Table:
    """The sample with its ids as the first column, the first that names pictures, or is a column of another table, and
    without columns that only number its rows; else as it is."""
    elsewhere = [set(cells.tolist()) for table in others for cells in table.columns.values()]
    for name, cells in sample.columns.items():
        ids = set(cells.tolist())
        if len(ids) == len(cells) and (
            all(cell in folder.names or cell in folder.stems for cell in list(ids)[:50]) or ids in elsewhere
        ):
            rest = {other: column for other, column in sample.columns.items() if other != name}
            numbered = [other for other, column in rest.items() if INDEX.fullmatch(other) and numbers_rows(column)]
            if len(numbered) < len(rest):  # they come back when a submission is written
                rest = {other: column for other, column in rest.items() if other not in numbered}
            return Table(sample.file, {name: cells, **rest}, sample.pixels)
    return sample


# ---- test -----------------------------------------------------------------------------------------------------------


def find_test(tables: list[Table], sample: Table | None, folder: Folder) -> tuple[Table | None, str]:
    """The table with the sample's ids in a column, else the one with test in its name."""
    if sample is not None:
        ids = set(next(iter(sample.columns.values())).tolist())
        for table in tables:
            if split_of(_name(table.file)) == "train":
                continue
            for name in filter(None, table.holding(ids)):
                return table, f"column {name} holds the sample's {len(ids)} ids"
    named = [table for table in tables if split_of(_name(table.file)) == "test"]
    if named:
        best = max(named, key=lambda table: ("test" in _name(table.file).lower(), len(table)))
        return best, f"its name; {len(best)} rows"
    return None, ""


def locate_test(folder: Folder, test: Table | None, sample: Table | None, rows: Rows | None) -> Place | None:
    """Where the test pictures are: by the test table, else by the sample's ids or their pictures."""
    if test is not None and (test.pixels or not folder.images):
        return None
    if test is not None and (place := locate(folder, test.columns, "test")) is not None:
        return place
    if sample is not None:
        name, ids = next(iter(sample.columns.items()))
        if rows is not None and rows.names:
            return locate(folder, {"id": np.unique(names_in(ids, rows.template)[0])}, "test")
        return locate(folder, {name: ids}, "test")
    return None


# ---- train ----------------------------------------------------------------------------------------------------------


def find_train(
    tables: list[Table], test: Table | None, sample: Table | None, folder: Folder, names: tuple[str, ...]
) -> tuple[Table | None, Place | None, str, tuple[str, str, str] | None]:
    """The table with a picture per row and most to tell about it; one with columns that the test rows lack.

    names: of targets that have a row each in the sample, and may have one in the table too."""
    lacking = set(test.columns) if test is not None else set()
    ids = set(next(iter(sample.columns.values())).tolist()) if sample is not None else set()
    found: list[tuple[tuple[bool, bool, int, int, str], Table, Place | None, tuple[str, str, str] | None]] = []
    for table in tables:
        long = None
        if names and not set(names) <= set(table.columns) and (wide := unfolded(table.columns, table.file, names)):
            table, long = Table(table.file, wide[0], table.pixels), wide[1:]
        place = None if table.pixels else locate(folder, table.columns, "train")
        if place is None and not table.pixels:
            continue
        new = [name for name in table.columns if name not in lacking]
        if not (new or long) or (place is not None and len(table.columns) < 2):
            continue
        if place is not None and ids and set(table.columns[place.column].tolist()) <= ids:  # test rows once more
            continue
        named = split_of(_name(table.file)) == "train" or "label" in table.file.lower()
        rank = (named, split_of(_name(table.file)) != "test", len(table), -table.file.count("/"), table.file)
        found.append((rank, table, place, long))
    if not found:
        return None, None, "", None
    _, table, place, long = max(found, key=lambda item: item[0])
    if place is None:
        return table, None, f"{len(table)} rows that hold the pictures' values", long
    many = f", a row for each of {len(names)} targets" if long else ""
    return table, place, f"{len(table)} pictures{many}; its column {place.column} names them ({place.way})", long


def unused_train(folder: Folder) -> str:
    """What is seen of the table that is called so, which has no row per training picture; nothing where none is. Raises
    UserError if it cannot be read."""
    named = [file for file in _in_order(folder) if split_of(_name(file)) == "train" or "label" in file.lower()]
    if not named:
        return ""
    table = open_table(folder.root, named[0], "competition.train_csv")
    if table is None or not table.columns:
        return ""
    cells = ", ".join(f"{name} {str(column[0])[:60]!r}" for name, column in list(table.columns.items())[:4])
    return f" (no column of {named[0]} names pictures; its first row: {cells})"


def refuse_unread_sample(folder: Folder, read: Collection[str]) -> None:
    """UserError for a sample submission by its name that cannot be read; read: the files that could be."""
    for file in folder.tables:
        if file not in read and re.search(r"sample|submi", _name(file), re.IGNORECASE):
            open_table(folder.root, file, "competition.sample_csv")


def hidden_labels(root: Path) -> str | None:
    """A file with the test rows' labels beside the data, for scoring at home."""
    return next((name for name in ("solution.csv",) if (root / name).is_file()), None)
