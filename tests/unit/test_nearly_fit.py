"""Rows and files that nearly fit: a table of what people bring, what is made of it, and cures that work."""

from __future__ import annotations

import re
import shlex
import subprocess
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from src import compose
from src.competition.few import few_rows
from src.competition.folds import load_folds
from src.competition.splitting import make_folds
from src.competition.submission import submission_table, write_submission
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig, build
from src.ensembling.stack import features_of
from src.errors import UserError
from src.guess.guess import guess
from src.predictions import Features, load_features, save_features
from src.runs.kept import keep_competition, open_test
from src.verbs import VERBS
from src.words import full_words

TRAIN = [f"a{row}" for row in range(8)]
TEST = [f"t{row}" for row in range(3)]


def plain(name: str) -> str:
    return name


def folder(
    root: Path,
    *,
    cell: Callable[[str], str] = plain,
    test_cell: Callable[[str], str] | None = None,
    file: Callable[[str], str] = lambda name: f"{name}.png",
    header: str = "id,label",
    row: str = "{id},{label}",
    sample_header: str | None = None,
    sample_row: str | None = None,
    gone: Sequence[str] = (),
    test: Sequence[str] = TEST,
    end: str = "",
) -> Path:
    """A competition of 8 training rows of two classes; cell, file: from a plain name to the cell, and to the file."""
    picture = cv2.imencode(".png", np.full((8, 8, 3), 99, np.uint8))[1].tobytes()
    for side, names in (("train", TRAIN), ("test", test)):
        for name in names:
            path = root / side / file(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in gone:
                path.write_bytes(picture)
    rows = [row.format(id=cell(name), label="cat" if n % 2 else "dog", n=n, n1=n + 1) for n, name in enumerate(TRAIN)]
    (root / "train.csv").write_text("\n".join([header, *rows]) + f"\n{end}", encoding="utf-8")
    wanted = [
        (sample_row or row).format(id=(test_cell or cell)(name), label="cat", n=n, n1=n + 1)
        for n, name in enumerate(test)
    ]
    (root / "sample_submission.csv").write_text(
        "\n".join([sample_header or header, *wanted]) + f"\n{end}", encoding="utf-8"
    )
    return root


def found(root: Path, said: list[str] | None = None, **keys: Any) -> Competition:
    """The competition as `./run.sh fold=0 competition.root=DIR` opens it."""
    guessed = {finding.key: finding.value for finding in guess(root) if finding.key and finding.key != "size"}
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in guessed.items()}
    say = (lambda line: None) if said is None else said.append
    return load_competition(CompetitionConfig(root=str(root), **{**lists, **keys}), say=say)


NFC, NFD = "\u00e9\u00fc", unicodedata.normalize("NFD", "\u00e9\u00fc")
FORMS: dict[str, dict[str, Any]] = {
    "another extension": {"cell": lambda name: f"{name}.jpg"},
    "another extension in capitals": {"cell": lambda name: f"{name}.JPEG"},
    "ids in capitals": {"cell": str.upper},
    "files in capitals": {"file": lambda name: f"{name.upper()}.PNG"},
    "extension in capitals": {"cell": lambda name: f"{name}.png", "file": lambda name: f"{name}.PNG"},
    "composed, decomposed": {"cell": lambda name: NFC + name, "file": lambda name: f"{NFD}{name}.png"},
    "decomposed, composed": {"cell": lambda name: NFD + name, "file": lambda name: f"{NFC}{name}.png"},
    "sharp s": {"cell": lambda name: f"STRASSE {name}", "file": lambda name: f"stra\u00dfe {name}.png"},
    "jfif": {"file": lambda name: f"{name}.jfif"},
    "avif": {"file": lambda name: f"{name}.avif"},
    "jpg in the table, jfif on disk": {"cell": lambda name: f"{name}.jpg", "file": lambda name: f"{name}.jfif"},
    "back slashes": {"cell": lambda name: f"train\\{name}.png", "test_cell": lambda name: f"test\\{name}.png"},
    "back slashes and another extension": {"cell": lambda name: f"C:\\data\\{name}.jpg"},
    "back slashes into a folder": {"cell": lambda name: f"x\\{name}.png", "file": lambda name: f"x/{name}.png"},
    "the folder itself": {"cell": lambda name: f"./train/{name}.png", "test_cell": lambda name: f"./test/{name}.png"},
    "trailing commas": {"header": "id,label,,", "row": "{id},{label},,"},
    "one trailing comma": {"header": "id,label,", "row": "{id},{label},"},
    "trailing commas in the rows": {"row": "{id},{label},,"},
    "lines of commas at the end": {"end": ",\n , \n,\n"},
    "trailing semicolons": {"header": "id;label;;", "row": "{id};{label};;"},
    "semicolons": {"header": "id;label", "row": "{id};{label}"},
    "semicolons and decimal commas": {
        "header": "id;label;weight", "row": "{id};{label};1,5",
        "sample_header": "id;label", "sample_row": "{id};{label}",
    },
    "tabs": {"header": "id\tlabel", "row": "{id}\t{label}"},
    "bars": {"header": "id|label", "row": "{id}|{label}"},
    "spaces": {"header": "id label", "row": "{id} {label}"},
    "index in the sample": {"sample_header": ",id,label", "sample_row": "{n},{id},{label}"},
    "index in both": {"header": ",id,label", "row": "{n},{id},{label}"},
    "index twice read": {"header": "Unnamed: 0,id,label", "row": "{n},{id},{label}"},
    "index from 1": {"header": ",id,label", "row": "{n1},{id},{label}"},
    "index of shuffled rows": {"header": ",id,label", "row": "1{n},{id},{label}"},
    "index of shuffled rows, as numbers": {"header": ",id,label", "row": "7{n}.0,{id},{label}"},
    "index of reset_index": {"header": "index,id,label", "row": "2{n},{id},{label}"},
    "index behind the ids": {"header": "id,index,label", "row": "{id},2{n},{label}"},
    "index of an index": {"header": "Unnamed: 0.1,Unnamed: 0,id,label", "row": "{n},4{n},{id},{label}"},
    "a column of nothing": {"header": "id,,label", "row": "{id},,{label}"},
    "index in the training table": {
        "header": ",id,label", "row": "{n},{id},{label}", "sample_header": "id,label", "sample_row": "{id},{label}",
    },
}  # fmt: skip


# of ids: what the table has for the row of that number, and the file
ZEROS: dict[str, tuple[Callable[[int], str], Callable[[int], str]]] = {
    "zeros in the table": (lambda number: f"{number:05}", lambda number: f"{number}.png"),
    "and an extension": (lambda number: f"{number:05}.png", lambda number: f"{number}.png"),
    "zeros on disk, of two widths": (str, lambda number: f"{number:0{4 + number % 2}}.png"),
    "of two widths on both sides": (
        lambda number: f"{number:0{2 + number % 2}}", lambda number: f"{number:0{5 - number % 3}}.jpg",
    ),
    "zero itself": (lambda number: f"{number - 6:03}", lambda number: f"{number - 6}.png"),
}  # fmt: skip


def numbered(root: Path, name: str) -> Path:
    """As `folder`, with rows 6 to 13 for training and the next three for the test."""
    cell, file = ZEROS[name]
    number = {each: at + 6 for at, each in enumerate([*TRAIN, *TEST])}
    return folder(root, cell=lambda each: cell(number[each]), file=lambda each: file(number[each]))


@pytest.mark.parametrize("name", ZEROS)
def test_ids_with_other_zeros_than_their_images(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    competition = found(numbered(tmp_path / "pets", name), said)
    (cell, file), numbers = ZEROS[name], range(6, 14)
    assert competition.train.ids.tolist() == [cell(number) for number in numbers]
    assert [path.decode() for path in competition.train.images.tolist()] == [f"train/{file(n)}" for n in numbers]
    assert [path.decode() for path in competition.test.images.tolist()] == [f"test/{file(n)}" for n in range(14, 17)]
    assert sum("other zeros before them than their images" in line for line in said) == 2, said


@pytest.mark.parametrize("case", ["two files", "one file for two rows", "one row without"])
def test_zeros_are_taken_only_where_nothing_else_can_be_meant(tmp_path: Path, case: str) -> None:
    root = numbered(tmp_path / "pets", "zeros in the table")
    keys = {"train_images": "train", "test_images": "test", "train_csv": "train.csv"}
    assert len(found(root, **keys).train) == 8
    if case == "two files":  # 00007 may be either
        (root / "train" / "07.png").write_bytes((root / "train" / "7.png").read_bytes())
    elif case == "one row without":
        (root / "train" / "7.png").unlink()
    else:
        text = (root / "train.csv").read_text()
        (root / "train.csv").write_text(text.replace("00008,", "7,"))  # 7.png is that row's
    with pytest.raises(UserError, match=r"train\.csv: .* of 8 ids ha.* no image .*set competition\.train_images="):
        load_competition(CompetitionConfig(root=str(root), **keys), say=lambda line: None)


@pytest.mark.parametrize("name", FORMS)
def test_what_nearly_fits_is_taken(tmp_path: Path, name: str) -> None:
    case = FORMS[name]
    root, said = folder(tmp_path / "pets", **case), []
    competition = found(root, said)
    file, cell = case.get("file", lambda name: f"{name}.png"), case.get("cell", plain)
    assert [path.decode() for path in competition.train.images.tolist()] == [f"train/{file(name)}" for name in TRAIN]
    assert [path.decode() for path in competition.test.images.tolist()] == [f"test/{file(name)}" for name in TEST]
    assert competition.task.names.tolist() == ["cat", "dog"] and competition.task.kind == "single"
    assert competition.train.ids.tolist() == [cell(name) for name in TRAIN], "ids stay as the table has them"
    differs = any(word in name for word in ("extension", "capitals", "composed", "sharp", "on disk"))
    differs &= not name.startswith("back slashes")  # by the end of the path, as the guess has said
    assert any("in another form" in line for line in said) is differs, said

    # the submission has the sample's columns and rows, its index too
    pred = np.tile([[0.9, 0.1]], (len(TEST), 1))
    table = submission_table(competition.sample, competition.test.ids, pred, competition.task)
    write_submission(tmp_path / "s.csv", table, competition.sample, competition.task)
    mark = next(mark for mark in ",;\t| " if mark in (root / "sample_submission.csv").read_text())
    lines = (root / "sample_submission.csv").read_text(encoding="utf-8").replace(mark, ",").splitlines()
    lines = [line.rstrip(",") for line in lines if line.strip(" ,")]
    assert (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines() == lines
    assert len(few_rows(competition, 2, 2).test) == 2


# of each table what it holds, and what is said of it
UNREAD: dict[str, tuple[str, bytes, str]] = {
    "UTF-16": ("train.csv", "id,label\na0,cat\na1,dog\n".encode("utf-16"), r"this is UTF-16 text, not csv; save"),
    "Latin-1": (
        "train.csv",
        "id,label\na0,chat tigr\u00e9\na1,dog\n".encode("latin-1"),
        "not UTF-8 text; save the file as",
    ),
    "a line of Excel": ("train.csv", b"sep=,\nid,label\na0,cat\na1,dog\n", "line 2: fields: 2, but the header has 1"),
    "a remark": ("train.csv", b"# mine\nid,label\na0,cat\na1,dog\n", "line 2: fields: 2, but the header has 1"),
    "a column without a name": (
        "train.csv",
        b"id,label,\na0,cat,7\na1,dog,7\n",
        "line 2: fields: 3, .*name the column",
    ),
    "other separators": (
        "train.csv",
        b"id^label\na0^cat\na1^dog\n",
        r"no column of train\.csv names pictures; .*'a0\^cat'\)",
    ),
    "other names": (
        "train.csv",
        b"id,label\nx0,cat\nx1,dog\n",
        r"train\.csv names pictures; its first row: id 'x0', label",
    ),
    "a sample in UTF-16": (
        "sample_submission.csv",
        "id,label\nt0,cat\n".encode("utf-16"),
        "this is UTF-16 text, not csv",
    ),
    "a sample without rows": (
        "sample_submission.csv",
        b"id,label\n",
        "column names but no rows; check competition.sample_csv=",
    ),
    "a sample with a row too short": ("sample_submission.csv", b"id,label\nt0,cat\nt1\n", "line 3: fields: 1, but"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_tables_that_cannot_be_used_say_why(tmp_path: Path, name: str) -> None:
    """Instead of a submission in a form of our own, or a remark that no table is there."""
    file, content, says = UNREAD[name]
    root = folder(tmp_path / "pets")
    (root / file).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        guess(root)
    assert str(root / file) in str(error.value) or f" {file} " in str(error.value)


def test_an_empty_id_is_told_by_its_line(tmp_path: Path) -> None:
    """Not as pictures that are missing, of rows that are numbered."""
    root = folder(tmp_path / "pets")
    rows = [f"a{number},{'cat' if number % 2 else 'dog'}" for number in range(12)]
    for number in range(12):
        cv2.imwrite(str(root / "train" / f"a{number}.png"), np.full((16, 16, 3), number, np.uint8))
    (root / "train.csv").write_text("\n".join(["id,label", *rows[:-1], ",cat", ""]))
    with pytest.raises(UserError, match=r"train\.csv line 13: empty 'id'; fill it in or remove the row$"):
        found(root, [])


def test_what_is_called_index_and_is_none(tmp_path: Path) -> None:
    """Ids without a name beside a column per class, and a value that is called index."""
    root = folder(tmp_path / "pets", sample_header=",cat,dog", sample_row="{id},0.5,0.5")
    competition = found(root, metric="log_loss")
    assert competition.sample.id_column == "" and competition.sample.value_columns == ("cat", "dog")
    (root / "train.csv").write_text("id,index\n" + "".join(f"{name},{n / 3}\n" for n, name in enumerate(TRAIN)))
    (root / "sample_submission.csv").write_text("id,index\n" + "".join(f"{name},{n}\n" for n, name in enumerate(TEST)))
    competition = found(root, metric="rmse")
    assert competition.sample.value_columns == ("index",) == competition.targets and competition.task.kind == "number"


def test_an_index_is_there_without_the_sample_too(tmp_path: Path) -> None:
    """As in a hidden test set, for which a run keeps the form of the submission."""
    root = folder(tmp_path / "pets", **FORMS["index in the sample"])
    competition = found(root)
    config = build({"competition": {"name": "pets", "root": str(root), "id_column": "id", "target_column": "label"}})
    (tmp_path / "run").mkdir()
    keep_competition(tmp_path / "run", config, competition)
    (root / "sample_submission.csv").unlink()
    (root / "test.csv").write_text("id\n" + "".join(f"{name}\n" for name in TEST))
    again, _ = open_test(config, tmp_path / "run")
    table = submission_table(again.sample, again.test.ids, np.eye(2)[[0, 1, 0]], again.task)
    assert table.to_csv(index=False).splitlines() == [",id,label", "0,t0,cat", "1,t1,dog", "2,t2,cat"]


def test_rows_that_differ_only_in_form_keep_their_own_files(tmp_path: Path) -> None:
    """a0.png is a0's; A0, which has none, does not get it, nor do two ids share one file."""
    root = folder(tmp_path, row="{id},{label}")
    text = (root / "train.csv").read_text()
    for more in ("A0,cat\n", "a9.jpg,cat\na9.webp,dog\n"):
        (root / "train.csv").write_text(text + more)
        (root / "train" / "a9.png").write_bytes(b"x")
        with pytest.raises(UserError, match=r"1 of \d+ ids? has no image \(A0\)|1 of 10 ids has no image \(a9.webp\)"):
            load_competition(CompetitionConfig(root=str(root)), say=lambda line: None)


@pytest.mark.parametrize("policy", ["error", "skip", "blank"])
def test_pictures_that_are_missing(tmp_path: Path, policy: str) -> None:
    """A training file may miss where its row may; a test file always; all of them never."""
    root, said = folder(tmp_path / "pets", gone=["a3", "t1"]), []
    if policy == "error":
        with pytest.raises(UserError, match=r"1 of 8 ids has no image \(a3\).*competition\.on_bad_image=skip") as error:
            found(root)
        cure = re.search(r"competition\.on_bad_image=(\w+)", str(error.value))
        assert cure is not None
        policy = cure[1]
    competition = found(root, said, on_bad_image=policy)
    assert competition.train.images[3] == b"train/a3" and competition.test.images[1] == b"test/t1"
    assert any("1 of 8 ids has no image (a3)" in line for line in said)
    assert any("1 of 3 ids has no image (t1); they get the prior" in line for line in said)
    for path in (root / "test").iterdir():
        path.rename(root / "train" / path.name)
    (root / "test" / "other.png").write_bytes(b"x")
    with pytest.raises(UserError, match="3 of 3 ids have no image"):
        load_competition(CompetitionConfig(root=str(root), on_bad_image="skip"), say=lambda line: None)


@pytest.mark.parametrize("kind", ["ranked", "confident"])
def test_words_cannot_be_told_apart_where_names_hold_spaces(tmp_path: Path, kind: str) -> None:
    """Said before anything is trained, and not when the submission is written."""
    root = folder(tmp_path / "pets", row="{id},my {label}")
    with pytest.raises(
        UserError, match=rf"^competition\.submission={kind}: .* within my cat, my dog; write _"
    ) as error:
        found(root, submission=kind)
    cure = re.search(r"set competition\.submission=(\w+)$", str(error.value))
    assert cure is not None and found(root, submission=cure[1]).sample.kind == "labels"
    for name in ("train.csv", "sample_submission.csv"):
        (root / name).write_text((root / name).read_text().replace("my ", "my_"))
    assert found(root, submission=kind).sample.kind == kind


def test_values_in_a_column_without_a_name(tmp_path: Path) -> None:
    root = folder(tmp_path, header="id,label,", row="{id},{label},7")
    with pytest.raises(UserError, match=r"line 2: fields: 3, but the header has 2; .*name the column"):
        load_competition(CompetitionConfig(root=str(root)))
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace("id,label,\n", "id,label,weight\n"))
    text = (root / "sample_submission.csv").read_text()
    (root / "sample_submission.csv").write_text(text.replace("id,label,\n", "id,label\n").replace(",7", ""))
    assert len(load_competition(CompetitionConfig(root=str(root), target_column="label")).train) == 8


# ---- folds ----------------------------------------------------------------------------------------------------------


def test_as_many_groups_as_folds() -> None:
    """StratifiedGroupKFold alone leaves a fold empty."""
    counts = [[0, 3], [0, 9], [7, 0], [0, 6], [6, 0]]
    labels = np.concatenate([np.repeat([0, 1], pair) for pair in counts])
    groups = np.concatenate([np.full(sum(pair), f"g{number}") for number, pair in enumerate(counts)])
    for seed in range(20):
        folds = make_folds(labels, groups, 5, seed)
        assert len({(group, fold) for group, fold in zip(groups.tolist(), folds.tolist(), strict=True)}) == 5
        assert set(folds.tolist()) == set(range(5))


@pytest.mark.parametrize("seed", range(3))
def test_hardly_more_groups_than_folds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for n in (2, 3, 5):
        groups = np.repeat([f"g{number}" for number in range(n + seed)], rng.integers(3, 30, n + seed))
        labels = np.concatenate([np.arange(60) % 2, rng.integers(0, 2, len(groups))])[-len(groups) :]
        labels[:n], labels[-n:] = 0, 1
        folds = make_folds(labels, groups, n, seed)
        assert set(folds[folds >= 0].tolist()) == set(range(n))
        assert len({*zip(groups.tolist(), folds.tolist(), strict=True)}) == n + seed


FOLD_FILES = {
    "from 1": ("id,target,fold", lambda n: n % 2 + 1, 2, lambda n: n % 2),
    "from 1, some always train": ("id,target,fold", lambda n: n % 2 + 1 if n else -1, 2, lambda n: n % 2 if n else -1),
    "always train": ("id,target,fold", lambda n: n % 2 if n > 2 else -1, 2, lambda n: n % 2 if n > 2 else -1),
    "as pandas writes them": ("id,target,fold", lambda n: f"{n % 2}.0", 2, lambda n: n % 2),
    "from 1, as pandas": ("id,target,fold", lambda n: f"{n % 4 + 1}.0", 4, lambda n: n % 4),
    "no targets": ("id,fold", lambda n: n % 2, 2, lambda n: n % 2),
    "semicolons": ("id;target;fold", lambda n: n % 2, 2, lambda n: n % 2),
    "kfold": ("id,kfold", lambda n: n % 2, 2, lambda n: n % 2),
    "in capitals": ("ID,Fold", lambda n: n % 2 + 1, 2, lambda n: n % 2),
    "images": ("image_id,fold", lambda n: n % 2, 2, lambda n: n % 2),
    "the ids' own name": ("name,fold", lambda n: n % 2, 2, lambda n: n % 2),
    "a table with all that there is": ("index,id,label,width,fold", lambda n: n % 2, 2, lambda n: n % 2),
}
# what the column of a fold file holds, folds.n, what is said, and the cells with which the cure is followed
FOLD_CELLS: dict[str, tuple[Callable[[int], object], int, str, Callable[[int], object]]] = {
    "empty for always train": (
        lambda n: n % 2 if n else "",
        2,
        "fold '' is not a number .*, or -1 for rows",
        lambda n: n % 2 if n else -1,
    ),
    "nan for always train": (
        lambda n: n % 2 if n else "nan",
        2,
        "fold 'nan' is not .*, or -1 for rows that are never",
        lambda n: n % 2 if n else -1,
    ),
    "a gap": (lambda n: n % 2 * 2, 2, "fold 1 has no rows; number its folds from 0 without a gap", lambda n: n % 2),
    "a gap, from 1": (lambda n: n % 2 * 2 + 1, 3, "fold 0 has no rows; number its folds from 0", lambda n: n % 3),
    "from 2": (lambda n: n % 2 + 2, 2, "fold 0 has no rows; number its folds from 0 without a gap", lambda n: n % 2),
    "one that is held out": (
        lambda n: -(n > 2),
        2,
        "has only fold 0, and it takes two .*; number more",
        lambda n: int(n > 2),
    ),
    "one, from 1": (lambda n: 1, 2, "has only fold 1, and it takes two", lambda n: n % 2),
    "none": (lambda n: -1, 2, "has no fold, and it takes two that are held out in turn", lambda n: n % 2),
    "names": (lambda n: f"fold{n % 2}", 2, "fold 'fold0' is not a number from 0 to 1", lambda n: n % 2),
}


@pytest.mark.parametrize("name", FOLD_FILES)
def test_fold_files_of_the_users_own(tmp_path: Path, name: str) -> None:
    header, number, n, expected = FOLD_FILES[name]
    competition = found(folder(tmp_path / "pets", header="name,label" if "name" in header else "id,label"))
    cells = [{"target": "cat" if at % 2 else "dog", "label": "?", "width": 8, "index": 7 - at} for at in range(8)]
    for at, row in enumerate(cells):
        row |= dict.fromkeys(("id", "ID", "image_id", "name"), TRAIN[at])
        row |= dict.fromkeys(("fold", "Fold", "kfold"), number(at))
    mark = ";" if ";" in header else ","
    lines = [mark.join(str(row[column]) for column in header.split(mark)) for row in cells]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join([header, *lines]))
    before = path.read_bytes()
    assert load_folds(path, competition, n, 0).tolist() == [expected(at) for at in range(8)]
    assert path.read_bytes() == before
    with pytest.raises(
        UserError, match=rf"has {n} folds, but folds\.n=3; set folds\.n={n}, or set folds\.file="
    ) as error:
        load_folds(path, competition, 3, 0)
    cure = re.search(r"set folds\.n=(\d+)", str(error.value))
    assert cure is not None and len(load_folds(path, competition, int(cure[1]), 0)) == 8


@pytest.mark.parametrize("name", FOLD_CELLS)
def test_cells_that_are_no_folds(tmp_path: Path, name: str) -> None:
    number, n, says, corrected = FOLD_CELLS[name]
    competition, path = found(folder(tmp_path / "pets")), tmp_path / "mine.csv"
    path.write_text("id,fold\n" + "".join(f"{name},{number(at)}\n" for at, name in enumerate(TRAIN)))
    with pytest.raises(UserError, match=says) as error:
        load_folds(path, competition, n, 0)
    assert "delete" not in str(error.value)
    path.write_text("id,fold\n" + "".join(f"{name},{corrected(at)}\n" for at, name in enumerate(TRAIN)))
    assert load_folds(path, competition, n, 0).tolist() == [corrected(at) for at in range(8)]


@pytest.mark.parametrize(("header", "lacks"), [("picture,fold", "id"), ("id,part", "fold")])
def test_columns_of_a_fold_file_that_are_called_otherwise(tmp_path: Path, header: str, lacks: str) -> None:
    competition, path = found(folder(tmp_path / "pets")), tmp_path / "mine.csv"
    path.write_text(header + "\n" + "".join(f"{name},{at % 2}\n" for at, name in enumerate(TRAIN)))
    with pytest.raises(UserError, match=rf"no column '{lacks}' .*; call the column of the .* {lacks} in it, or set"):
        load_folds(path, competition, 2, 0)
    path.write_text(path.read_text().replace(header, "id,fold"))
    assert load_folds(path, competition, 2, 0).tolist() == [at % 2 for at in range(8)]


def test_a_class_with_one_row() -> None:
    """Beside two others it is learnt from only; of two classes, the cure is followed."""
    folds = make_folds(np.array([0] * 6 + [1] * 6 + [2]), None, 3, 0)
    assert folds[-1] == -1 and set(folds[:-1].tolist()) == {0, 1, 2}
    with pytest.raises(UserError, match=r"class 'dog' has 1 row.*; add at least one row of it .* and set folds\.n=2"):
        make_folds(np.array([0] * 6 + [1]), None, 3, 0, classes=["cat", "dog"])
    assert set(make_folds(np.array([0] * 6 + [1, 1]), None, 2, 0).tolist()) == {0, 1}
    with pytest.raises(UserError, match=r"merge such classes .* so that each has 2 rows or more, and set folds\.n=2"):
        make_folds(np.array([0] * 6 + [1, 2]), None, 3, 0, classes=["cat", "dog", "cow"])


# ---- ids of both sides ----------------------------------------------------------------------------------------------


def test_features_of_ids_that_train_and_test_share(tmp_path: Path) -> None:
    ids = np.array(["a", "b", "c", "a", "b"])
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    save_features(tmp_path / "f.npz", Features(ids, x, training=3))
    file = load_features(tmp_path / "f.npz")
    train, test = features_of([file], np.array(["c", "a"]), np.array([0, 1]), np.array(["b", "a"]), "f")(0)
    assert train.tolist() == [[4, 5], [0, 1]] and test.tolist() == [[8, 9], [6, 7]]
    with pytest.raises(UserError, match="lacks 1 of 1 test ids"):
        features_of([file], np.array(["a"]), np.array([0]), np.array(["c"]), "f")(0)
    with pytest.raises(AssertionError, match="twice"):
        Features(ids, x)


# ---- words that are pasted into a shell -----------------------------------------------------------------------------

TEMPLATES = [
    "images/{id}.jpg",
    "{id}.jpg",
    "{id}",
    "train/{label}/{id}.png",
    "train/**/{id}",
    "{id}_{red|green|blue}.png",
    "{train|valid}/{label}/{id}",
    "train.zip/{id:05}",
    "train-*.tar/{id}",
    "train/{path.name}",
    "my pictures/{id}.png",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("key", ["competition.train_images", "competition.rows", "competition.long"])
def test_a_template_arrives_as_it_was_typed(template: str, key: str) -> None:
    (word,) = full_words(VERBS["train"], [f"{key}={template}"])
    assert OverridesParser.create().parse_override(word).value() == template


def pasted(command: str) -> list[str]:
    """The words of a printed command as a shell hands them over."""
    script = 'run() { printf "%s\\0" "$@"; }; ' + command.replace("./run.sh", "run", 1)
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", ["pets", "my pets", "it's {id} & $HOME", "a(b)"])
def test_printed_commands_can_be_pasted(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / name)
    compose.with_guesses([f"competition.root='{root}'" if "'" not in name else f"competition.root={root}"])
    printed = capsys.readouterr().out
    command = re.search(r"\((\./run\.sh init .*) writes this down\)", printed)
    assert command is not None and pasted(command[1]) == ["init", f"data={root}"]


def test_the_cure_of_a_missing_picture_can_be_pasted(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    (root / "train").rename(root / "images")
    (root / "train").mkdir()
    with pytest.raises(UserError) as error:
        load_competition(CompetitionConfig(root=str(root)))
    cure = re.search(r"such as ('[^']+')", str(error.value))
    assert cure is not None
    (word,) = full_words(VERBS["train"], pasted(f"run competition.train_images={cure[1]}".replace(".jpg", ".png")))
    value = OverridesParser.create().parse_override(word).value()
    assert len(load_competition(CompetitionConfig(root=str(root), train_images=str(value))).train) == 8
    assert shlex.split(cure[1]) == ["images/{id}.jpg"]


# ---- where a command was typed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["competition.root=pets", "data=pets", "model.weights=w.pt", "submission=s.csv", "competition.metric=m.py:f"],
)
def test_paths_count_from_where_they_were_typed(tmp_path: Path, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.words import from_where_typed

    key, _, value = word.partition("=")
    file = value.partition(":")[0]
    assert from_where_typed([word]) == [word]
    monkeypatch.setenv("KFOLD_TYPED_IN", str(tmp_path))
    assert from_where_typed([word, "run=pets"]) == [word, "run=pets"], "there is no such thing there"
    (tmp_path / file).touch()
    assert from_where_typed([word, "run=pets"]) == [f"{key}={tmp_path / value}", "run=pets"]
    assert from_where_typed([f"{key}={tmp_path}"]) == [f"{key}={tmp_path}"]
    assert from_where_typed(["competition.root=tests"]) == ["competition.root=tests"], "of the checkout, if it is there"


@pytest.mark.parametrize("word", ["in_chans=1", "model.options.in_chans=1"])
def test_timms_name_for_the_channels(word: str) -> None:
    assert full_words(VERBS["train"], [word]) == ["competition.channels=1"]
    with pytest.raises(UserError, match="given twice"):
        full_words(VERBS["train"], [word, "competition.channels=3"])
