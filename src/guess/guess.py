"""Look at an unknown competition folder: what everything in it is, by rules that are printed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from src.archives import unread_archive
from src.competition.images import pieces, rows_from_images
from src.competition.pixel_table import pictures
from src.competition.table_file import read_header
from src.competition.table_rows import words_of_repeats
from src.config import CompetitionConfig
from src.data.survey import survey_pixels
from src.errors import MissingPackage, UserError
from src.guess.finding import Finding
from src.guess.folder import Folder, Table, look_at
from src.guess.groups import find_groups
from src.guess.locate import Place, split_of
from src.guess.pictures import find_labelled_pictures
from src.guess.roles import Roles, cast, hidden_labels
from src.guess.target import Seen, find_target

LOOKED_INTO = 64  # pictures
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
    """The column that names a training row: as the sample or the test rows call it, else the one of the pictures."""
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
        if name in train and len(np.unique(train[name])) == len(train[name]) and "" not in train[name]:
            return name
    return None


def submitted(roles: Roles, train_id: str | None) -> list[Finding]:
    """The findings on `rows`, `pool`, `long` and `test_id_column`."""
    rows, findings = roles.rows, []
    if roles.long is not None:
        findings.append(
            Finding("long", roles.long[1], "a row per picture and target", f"values in column {roles.long[2]}")
        )
    if rows is None:
        if roles.sample is not None and roles.test is not None and len(roles.test) == len(roles.sample):
            why = "the test table has no ids, but as many rows as the sample"
            findings.append(Finding("test_id_column", "", "row by row", why))
        return findings
    if rows.template != "{id}":
        findings.append(Finding("rows", rows.template, "a row of the sample", rows.why))
    if "pictures a row" in rows.why:
        findings.append(Finding("pool", "mean", "several pictures per row", rows.why, ("max",)))
    if roles.test is not None and rows.names:
        ids = set(next(iter(roles.sample.columns.values())).tolist()) if roles.sample is not None else set()
        named = next(iter(roles.test.holding(ids)), None)
        named = named or (roles.test_place.column if roles.test_place is not None else None)
        if named is not None and named != train_id:
            findings.append(Finding("test_id_column", named, "a row of the sample", rows.why))
    elif rows.id_column == "":
        findings.append(
            Finding("test_id_column", "", "row by row", "the test table has no ids; its rows are the sample's")
        )
    elif rows.id_column is not None and rows.id_column != train_id:
        findings.append(Finding("test_id_column", rows.id_column, "a row of the sample", rows.why))
    return findings


def test_table(test: Table, place: Place | None) -> list[Finding]:
    """The test rows where a table has them and nothing shows what to submit."""
    why = f"without a sample submission, a label for each of the {len(test)} rows of {test.file} is written"
    id_column = place.column if place is not None else next(iter(test.columns))
    named = next((name for name, cells in test.columns.items() if len(np.unique(cells)) == len(cells)), id_column)
    return [
        Finding("sample_csv", None, "no sample submission", why),
        Finding("test_id_column", named, "no sample submission", "the first column without repeats"),
    ]


def first_column(root: Path, file: str) -> str:
    return read_header(root / file, "competition.sample_csv")[0]


def test_folder(folder: Folder) -> list[Finding]:
    """The test pictures of a folder without a sample submission: those in the folder that is called test."""
    counts = {path: count for path, count in folder.folders().items() if split_of(path) == "test"}
    if not counts:
        raise UserError(
            f"{folder.root}: no sample submission, no test table and no folder of test pictures; give "
            "competition.test_images=FOLDER (the pictures to predict), or competition.sample_csv="
        )
    top = os.path.commonpath(list(counts))
    why = f"{sum(counts.values())} pictures; without a sample submission, a row per picture with its label is written"
    return [
        Finding("sample_csv", None, "no sample submission", why),
        Finding("test_images", top if len(counts) == 1 else f"{top}/**/{{id}}", "the folder called test", why),
    ]


def usual_metric(keys: Mapping[str, Any], columns: int) -> Finding:
    """The metric that such a submission is most often scored by. columns: of values in the sample."""
    kind, form = keys.get("kind"), keys.get("submission")
    others: tuple[str, ...]
    if kind == "number":
        name, others = "rmse", ("mae", "r2")
    elif kind == "targets":
        name, others = "recall_macro", ("accuracy",)
    elif kind == "multi":
        name, others = ("auc", ("log_loss",)) if columns > 1 else ("f1_micro", ("f1_macro", "f1_samples"))
    elif form == "ranked":
        name, others = "map5", ("map3",)
    elif form == "confident":
        name, others = "gap", ()
    elif form == "positive":
        name, others = "auc", ("log_loss",)
    elif columns > 1:
        name, others = "log_loss", ("auc",)
    else:
        name, others = "accuracy", ("auc", "f1_macro", "balanced_accuracy", "qwk")
    why = "none is given; give competition.metric= (init: metric=) as the competition's page has it"
    return Finding("metric", name, "usual for such a submission", why, others)


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


def of_pixels(folder: Folder, findings: list[Finding], roles: Roles) -> list[Finding]:
    """The findings on what a picture is, by looking into some of the training pictures; a remark where none can be
    read, which is said again by whoever needs them."""
    try:
        return _of_pixels(folder, {finding.key: finding.value for finding in findings}, roles)
    except MissingPackage:
        raise
    except UserError as error:
        return [Finding("", "as 8-bit RGB", "pictures that cannot be read", str(error))]


def _of_pixels(folder: Folder, keys: Mapping[str, Any], roles: Roles) -> list[Finding]:
    if "pixels" in keys and roles.train is not None:
        with tempfile.TemporaryDirectory() as place:
            some = islice(pictures(folder.root / roles.train.file, keys["pixels"], None), LOOKED_INTO)
            for number, values in enumerate(some):
                np.save(Path(place) / f"{number}.npy", values)
            seen = survey_pixels(place, [os.fsencode(path.name) for path in sorted(Path(place).glob("*.npy"))])
    else:
        seen = survey_pixels(folder.root, training_pictures(folder, str(keys["train_images"])), LOOKED_INTO)
    usual = CompetitionConfig()
    found: list[Finding] = []
    for key in ("channels", "samples", "range", "alpha", "dicom", "array"):
        value = getattr(seen, key)
        if value != getattr(usual, key):
            why = "as above" if found else "; ".join(seen.why)
            found.append(
                Finding(key, list(value) if isinstance(value, tuple) else value, "what the pictures hold", why)
            )
    return found


def training_pictures(folder: Folder, template: str) -> list[bytes]:
    """Some pictures as `train_images` names them; the files of one picture are joined by line breaks."""
    fixed = template.split("{")[0].split("*")[0]
    top = fixed.rpartition("/")[0] if fixed != template else template
    inside = [path for path in folder.images if not top or os.fsdecode(path).startswith(f"{top}/")]
    options = next((name for _, name, _ in pieces(template, "competition.train_images") if name and "|" in name), None)
    if options is None:
        return inside
    first, *others = options.split("|")
    after = template.rpartition("{" + options + "}")[2]
    ending = after.rpartition("/")[2] if after else ""
    known, found = set(inside), []
    for path in inside:
        stem, extension = os.path.splitext(os.fsdecode(path))
        name = stem + (extension if os.path.splitext(ending)[1] else "")
        if name.endswith(first + ending):
            start = name[: len(name) - len(first + ending)]
            tail = "" if os.path.splitext(ending)[1] else extension
            files = [os.fsencode(start + option + ending + tail) for option in (first, *others)]
            if set(files) <= known:
                found.append(b"\n".join(files))
    return found or inside
