"""Look at an unknown competition folder: what everything in it is, by rules that are printed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.archives import unread_archive
from src.competition.images import rows_from_images
from src.competition.table_rows import words_of_repeats
from src.errors import UserError
from src.guess.finding import Finding
from src.guess.folder import look_at
from src.guess.groups import find_groups
from src.guess.pictures import find_labelled_pictures
from src.guess.pixels import of_pixels
from src.guess.roles import Roles, cast, hidden_labels, unused_train
from src.guess.seen import Seen
from src.guess.submitted import first_column, submitted, test_folder, test_table, usual_metric
from src.guess.target import find_target
from src.guess.templates import Place

GENERIC = ("public", "data", "input", "dataset", "train", "raw", "competition", "competitions", "images", "files", "")


def guess(root: Path, metric: str | None = None, given: Mapping[str, Any] | None = None) -> list[Finding]:
    """Findings on the keys of the section `competition`, in the order in which they were decided.

    metric: as the user calls it; it tells kinds of target apart that look alike. given: keys that the user has set,
    which decide instead of a rule. Raises UserError where there is no folder, no picture, or nothing to learn.
    """
    given = dict(given or {})
    if not root.is_dir():
        raise UserError(f"competition.root={root}: no such folder; give the folder that holds the tables and images")
    folder = look_at(root)
    roles, findings = cast(folder)
    pixels = roles.train is not None and bool(roles.train.pixels)
    if not folder.images and not pixels:
        why = unread_archive(root) or "is it the right folder?"
        raise UserError(f"competition.root={root}: no image below it, nor a table that holds pixels; {why}")
    findings = [Finding("name", name_of(root), "the folder's name", str(root)), *findings]

    # ---- training rows ----------------------------------------------------------------------------------------------
    if roles.train is None:
        labelled = find_labelled_pictures(folder)
        if not labelled:
            if why := unread_archive(root):
                raise UserError(f"{root}: no pictures of training rows were found, and {why}")
            if folder.label_file:
                raise UserError(
                    f"{root}: labels in a file beside each picture, as {folder.label_file}, are not read; write a "
                    "train.csv into it, a line id,label and then one for each picture: its name without the extension, "
                    "and what is in that file"
                )
            raise UserError(
                f"{root}: no table has a row per training picture, and neither folders nor names of files tell their "
                f"labels{unused_train(folder)}; give competition.train_csv= and competition.train_images="
            )
        findings += labelled
        template = next(found.value for found in labelled if found.key == "train_images")
        train = rows_from_images(root, template, "competition.train_images")
        train_id: str | None = "id"
        train_place: Place | None = Place(template, "id", "")
    else:
        train, train_place = dict(roles.train.columns), roles.train_place
        if train_place is not None and roles.long is None:
            train = one_row_each(train, train_place.column)
        train_id = roles.long[0] if roles.long is not None else identity(train, roles, train_place)
        if train_place is not None:
            train_place = named_by(train_place, train_id)
            findings.append(pictures_in("train_images", train_place))
        if roles.train.pixels:
            findings.append(
                Finding(
                    "pixels",
                    list(compact(roles.train.pixels)),
                    "pixels in the table",
                    f"{len(roles.train.pixels)} columns of values",
                )
            )

    # ---- test rows and what is submitted ----------------------------------------------------------------------------
    test, rows = (dict(roles.test.columns) if roles.test is not None else None), roles.rows
    findings += submitted(roles, train_id)
    if roles.sample is not None and (first := next(iter(roles.sample.columns))) != first_column(
        root, roles.sample.file
    ):
        findings.append(
            Finding("sample_id_column", first, "ids of the sample", "not its first column, but the rows' names")
        )
    test_place = roles.test_place
    if test_place is not None:
        if test is not None and test_place.column in test and roles.sample is not None:
            keys = {finding.key: finding.value for finding in findings}
            usual = train_id if train_id in test else next(iter(roles.sample.columns))
            test_place = named_by(test_place, keys.get("test_id_column") or usual)
        findings.append(pictures_in("test_images", test_place))
    if roles.sample is None:
        findings += test_folder(folder) if roles.test is None else test_table(roles.test, test_place)
    if roles.train is not None:
        how = f"column {train_id} of {roles.train.file}" if train_id else "no column names the rows: they are numbered"
        findings.append(Finding("id_column", train_id or "", "one per picture", how))

    # ---- target -----------------------------------------------------------------------------------------------------
    sample = roles.sample.columns if roles.sample is not None else {}
    values = dict(list(sample.items())[1:])
    spent = {name for name in (train_id, train_place.column if train_place else None) if name}
    if given.get("target_column") in train and len(values) == 1:
        values = {given["target_column"]: next(iter(values.values()))}
    spent |= picture_names(train, spent) - set(values)
    if roles.long is not None:
        found_long = Finding("target_column", roles.long[2], "values of a long table", "beside the targets' names")
        findings.append(found_long)
    if roles.train is not None:
        seen = Seen(
            train, None if test is None else list(test), values, rows.names if rows else (), tuple(spent), metric
        )
        found = find_target(seen)
    else:
        seen = Seen({"label": train["label"]}, None, values, rows.names if rows else (), (), metric)
        found = [f for f in find_target(seen) if f.key not in {g.key for g in findings}]
    findings += [f for f in found if not (roles.long and f.key == "target_column")]
    targets = {
        name
        for f in findings
        if f.key in ("target_column", "target_columns")
        for name in ([f.value] if isinstance(f.value, str) else f.value)
    }
    if not targets:
        where = roles.train.file if roles.train else "the pictures"
        raise UserError(f"{root}: no column of {where} looks like a target; give competition.target_column=")

    if metric is not None:
        findings.append(Finding("metric", metric, "given", "by you"))
    else:
        findings.append(usual_metric({finding.key: finding.value for finding in findings}, len(values)))

    # ---- groups, pixels ---------------------------------------------------------------------------------------------
    if roles.train is not None:
        groups = find_groups(train, test, spent | targets | twins(train, targets))
        findings += groups or groups_beside(roles, train, train_id, test, spent | targets)
        findings += left_out(train, test, spent | targets | {f.value for f in findings if f.key == "group_column"})
    findings += of_pixels(folder, findings, roles)
    if (labels := hidden_labels(root)) is not None:
        findings.append(Finding("solution", labels, "hidden labels beside the data", "its name"))
    return [given_instead(finding, given) for finding in findings]


def name_of(root: Path) -> str:
    """The folder's name, or the nearest one above it that says more than `public` or `data` do."""
    for part in (root.resolve(), *root.resolve().parents):
        if part.name.lower() not in GENERIC:
            return part.name
    return "competition"


def given_instead(finding: Finding, given: Mapping[str, Any]) -> Finding:
    if finding.key in given and given[finding.key] != finding.value:
        others = tuple(dict.fromkeys((finding.value, *finding.others)))
        return replace(finding, value=given[finding.key], rule="given", why="by you", others=others)
    return finding


def one_row_each(train: dict[str, np.ndarray], column: str) -> dict[str, np.ndarray]:
    """A table with several rows per picture as one row each: what differs between them as words."""
    _, first, of_id = np.unique(train[column], return_index=True, return_inverse=True)
    same = first[of_id.reshape(-1)]
    return words_of_repeats(train, column, [name for name, cells in train.items() if (cells[same] != cells).any()])


def pictures_in(key: str, place: Place) -> Finding:
    return Finding(key, place.template, "where the pictures are", f"column {place.column}: {place.way}")


def named_by(place: Place, id_column: str | None) -> Place:
    """The place of pictures in rows of that id column. A folder alone stands for {id} in it, so where another column
    names the pictures, that is written out."""
    if "{" in place.template or place.column == id_column:
        return place
    return replace(place, template=f"{place.template}/{{{place.column}}}")


def identity(train: Mapping[str, np.ndarray], roles: Roles, place: Place | None) -> str | None:
    """The column that names a training row: as the sample or the test rows call it, else the one of the pictures. A few
    cells may be empty: opening the table says in which line, which no other column would."""
    wanted = []
    if roles.sample is not None:
        sample_id, asked = next(iter(roles.sample.columns.items()))
        wanted.append(sample_id)
        if roles.test is not None:
            wanted += roles.test.holding(set(asked.tolist()))
    if place is not None:
        wanted.append(place.column)
    wanted += [name for name in train if name.lower() in ("id", "image_id", "index")]
    for name in wanted:
        cells = train.get(name, np.empty(0, np.str_))
        filled = cells[cells != ""]
        if len(filled) > 0.9 * len(cells) and len(np.unique(filled)) == len(filled):
            return name
    return None


def compact(names: tuple[str, ...]) -> tuple[str, ...]:
    """pixel0, pixel1 … as pixel*."""
    beginning = os.path.commonprefix(list(names))
    return (f"{beginning}*",) if len(names) >= 64 else names


def picture_names(train: Mapping[str, np.ndarray], spent: set[str]) -> set[str]:
    """Further columns that name each row once, in letters: paths, hashes, urls."""
    found = set()
    for name, cells in train.items():
        unique = len(np.unique(cells))
        if (
            name not in spent
            and unique == len(cells)
            and unique > 20
            and not all(_is_number(cell) for cell in cells[:50].tolist())
        ):
            found.add(name)
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def twins(train: Mapping[str, np.ndarray], targets: set[str]) -> set[str]:
    """Columns that are the target in other words: as many values, each with one value of it."""
    found = set()
    for target in targets & set(train):
        for name, cells in train.items():
            values = np.unique(cells)
            if name == target or len(values) > len(np.unique(train[target])):
                continue
            pairs = np.unique(np.char.add(np.char.add(cells, "\t"), train[target]))
            if len(pairs) == len(values) and len(values) > 1:
                found.add(name)
    return found


def groups_beside(
    roles: Roles,
    train: Mapping[str, np.ndarray],
    train_id: str | None,
    test: Mapping[str, np.ndarray] | None,
    spent: set[str],
) -> list[Finding]:
    """The findings on groups in another table that has all of the training rows."""
    for table in roles.others:
        if train_id is None or train_id not in table.columns:
            continue
        if set(train[train_id].tolist()) <= set(table.columns[train_id].tolist()):
            found = find_groups(table.columns, test, spent | {train_id})
            if found:
                return [
                    *found,
                    Finding("group_csv", table.file, found[0].rule, f"it has all training rows by {train_id}"),
                ]
    return []


def left_out(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray] | None, used: set[str]) -> list[Finding]:
    """Columns of the training table that the test rows lack, which nothing may be learnt from; a remark, no key."""
    if test is None:
        rest = [name for name in train if name not in used]
        why = "there is no test table"
    else:
        rest = [name for name in train if name not in used and name not in test]
        why = "the test rows lack them"
    return [Finding("", rest, "columns left out", why)] if rest else []
