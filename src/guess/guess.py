"""Look at an unknown competition folder: what everything in it is, by rules that are printed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.images import rows_from_images
from src.data.survey import survey_pixels
from src.errors import UserError
from src.guess.finding import Finding
from src.guess.folder import Folder, look_at
from src.guess.groups import find_groups
from src.guess.locate import Place, locate
from src.guess.pictures import find_labelled_pictures
from src.guess.roles import Roles, cast, hidden_labels
from src.guess.rows import Rows, what_rows_are
from src.guess.target import Seen, find_target

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
        raise UserError(
            f"competition.root={root}: no image below it, nor a table that holds pixels; is it the right folder?"
        )
    findings = [Finding("name", name_of(root), "the folder's name", str(root)), *findings]

    # ---- training rows ----------------------------------------------------------------------------------------------
    if roles.train is None:
        labelled = find_labelled_pictures(folder)
        if not labelled:
            raise UserError(
                f"{root}: no table has a row per training picture, and neither folders nor names of files tell their "
                "labels; give competition.train_csv= and competition.train_images="
            )
        findings += labelled
        template = next(found.value for found in labelled if found.key == "train_images")
        train = rows_from_images(root, template, "competition.train_images")
        train_id: str | None = "id"
        train_place: Place | None = Place(template, "id", "")
    else:
        train, train_place = dict(roles.train.columns), roles.train_place
        train_id = identity(train, roles, train_place)
        if train_place is not None:
            findings.append(
                Finding(
                    "train_images",
                    train_place.template,
                    "where the pictures are",
                    f"column {train_place.column}: {train_place.way}",
                )
            )
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
    test = dict(roles.test.columns) if roles.test is not None else None
    rows, more = submitted(folder, roles, test, train, train_id)
    findings += more
    test_place = roles.test_place or (more_place(folder, roles, rows))
    if test_place is not None:
        findings.append(
            Finding(
                "test_images",
                test_place.template,
                "where the pictures are",
                f"column {test_place.column}: {test_place.way}",
            )
        )
    if roles.train is not None and train_id is not None:
        findings.append(Finding("id_column", train_id, "one per picture", f"column {train_id} of {roles.train.file}"))

    # ---- target -----------------------------------------------------------------------------------------------------
    sample = roles.sample.columns if roles.sample is not None else {}
    values = dict(list(sample.items())[1:])
    spent = {name for name in (train_id, train_place.column if train_place else None) if name}
    spent |= picture_names(train, spent)
    if roles.train is not None:
        seen = Seen(
            train, None if test is None else list(test), values, rows.names if rows else (), tuple(spent), metric
        )
        found = find_target(seen)
    else:
        seen = Seen({"label": train["label"]}, None, values, rows.names if rows else (), (), metric)
        found = [f for f in find_target(seen) if f.key not in {g.key for g in findings}]
    findings += found
    targets = {
        name
        for f in findings
        if f.key in ("target_column", "target_columns")
        for name in ([f.value] if isinstance(f.value, str) else f.value)
    }
    if not targets:
        where = roles.train.file if roles.train else "the pictures"
        raise UserError(f"{root}: no column of {where} looks like a target; give competition.target_column=")

    # ---- groups, pixels ---------------------------------------------------------------------------------------------
    if roles.train is not None:
        findings += find_groups(train, test, spent | targets | twins(train, targets))
        findings += left_out(train, test, spent | targets | {f.value for f in findings if f.key == "group_column"})
    if folder.images:
        findings += of_pixels(folder, findings, train, root)
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


def identity(train: Mapping[str, np.ndarray], roles: Roles, place: Place | None) -> str | None:
    """The column that names a training row: as the sample or the test rows call it, else the one of the pictures."""
    wanted = []
    if roles.sample is not None:
        sample_id, asked = next(iter(roles.sample.columns.items()))
        wanted.append(sample_id)
        if roles.test is not None:
            ids = set(asked.tolist())
            wanted += [name for name, cells in roles.test.columns.items() if set(cells.tolist()) == ids]
    if place is not None:
        wanted.append(place.column)
    wanted += [name for name in train if name.lower() in ("id", "image_id", "index")]
    for name in wanted:
        if name in train and len(np.unique(train[name])) == len(train[name]) and "" not in train[name]:
            return name
    return place.column if place is not None else None


def submitted(
    folder: Folder,
    roles: Roles,
    test: Mapping[str, np.ndarray] | None,
    train: Mapping[str, np.ndarray],
    train_id: str | None,
) -> tuple[Rows | None, list[Finding]]:
    """What a row of the sample stands for, and the findings on `rows`, `pool` and `test_id_column`."""
    if roles.sample is None:
        return None, []
    ids = next(iter(roles.sample.columns.values()))
    known = set(folder.names) | set(folder.stems)
    found = what_rows_are(ids, test, train, known)
    if found is None and test is not None and len(next(iter(test.values()))) == len(ids):
        return Rows("{id}", None, ""), [
            Finding("test_id_column", "", "row by row", "the test table has no ids, but as many rows as the sample")
        ]
    if found is None:
        return None, []
    findings = []
    if found.template != "{id}" or found.names:
        findings.append(Finding("rows", found.template, "a row of the sample", found.why))
        pooled = "pictures a row" in found.why
        if pooled:
            findings.append(Finding("pool", "mean", "several pictures per row", found.why, ("max",)))
    if found.id_column is not None and found.id_column != train_id:
        findings.append(Finding("test_id_column", found.id_column, "a row of the sample", found.why))
    return found, findings


def more_place(folder: Folder, roles: Roles, rows: Rows | None) -> Place | None:
    """Where the test pictures are if neither a test table nor the sample's ids name them: behind their parts of a long
    sample, else in the one folder that is called test."""
    if roles.sample is None or not folder.images or roles.test is not None:
        return None
    ids = next(iter(roles.sample.columns.values()))
    if rows is not None and rows.names:
        before, _, after = rows.template.partition("{id}")
        cells = ids.tolist()
        name = rows.names[0]
        start, end = before.replace("{target}", name), after.replace("{target}", name)
        pictures = [
            cell[len(start) : len(cell) - len(end)] for cell in cells if cell.startswith(start) and cell.endswith(end)
        ]
        return locate(folder, {"id": np.array(pictures, dtype=np.str_)}, "test")
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
    """Columns that tell the target: each of their values goes with one value of it, and there are few."""
    found = set()
    for target in targets & set(train):
        for name, cells in train.items():
            values = np.unique(cells)
            if name == target or len(values) > max(20, 2 * len(np.unique(train[target]))):
                continue
            pairs = np.unique(np.char.add(np.char.add(cells, "\t"), train[target]))
            if len(pairs) == len(values) and len(values) > 1:
                found.add(name)
    return found


def left_out(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray] | None, used: set[str]) -> list[Finding]:
    """Columns of the training table that the test rows lack, which nothing may be learnt from; a remark, no key."""
    if test is None:
        rest = [name for name in train if name not in used]
        why = "there is no test table"
    else:
        rest = [name for name in train if name not in used and name not in test]
        why = "the test rows lack them"
    return [Finding("", rest, "columns left out", why)] if rest else []


def of_pixels(folder: Folder, findings: list[Finding], train: Mapping[str, np.ndarray], root: Path) -> list[Finding]:
    """The findings on `channels`, `samples`, `range` by looking into some of the training pictures."""
    where = [found.value for found in findings if found.key == "train_images"]
    top = (
        str(where[0]).split("{")[0].rpartition("/")[0]
        if where and "{" in str(where[0])
        else str(where[0])
        if where
        else ""
    )
    inside = [path for path in folder.images if os.fsdecode(path).startswith(top)] or folder.images
    seen = survey_pixels(root, inside)
    return [
        Finding(key, value, "what the pictures hold", "; ".join(seen.why))
        for key, value, usual in (
            ("channels", seen.channels, 3),
            ("samples", seen.samples, "uint8"),
            ("range", seen.range, None),
        )
        if value != usual
    ]
