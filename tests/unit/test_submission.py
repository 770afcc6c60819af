"""Predictions in any order come out as the sample wants them, or not at all; and local grading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.competition.grading import grade
from src.competition.kinds.multi import Multi
from src.competition.kinds.single import Single
from src.competition.sample import Sample, match_classes, read_sample
from src.competition.submission import check_submission, submission_table, write_submission
from src.config import CompetitionConfig
from src.errors import UserError

CLASSES = np.array(["cat", "cow", "dog"])
TASK = Single(CLASSES)
YES_NO = Single(np.array(["no", "yes"]))
IDS = np.array(["a", "b", "c"])
PRED = np.array([[0.7, 0.1, 0.2], [0.1, 0.2, 0.7], [0.2, 0.6, 0.2]], dtype=np.float32)  # cat, dog, cow
LABELS = Sample(("id", "label"), np.array(["c", "a", "b"]), "labels")
PROBABILITIES = Sample(("id", "p_dog", "p_cat", "p_cow"), np.array(["c", "a", "b"]), "probabilities")


def test_labels() -> None:
    table = submission_table(LABELS, IDS, PRED, TASK)
    assert table.columns.tolist() == ["id", "label"]
    assert table.values.tolist() == [["c", "cow"], ["a", "cat"], ["b", "dog"]]


def test_probabilities_behind_a_prefix() -> None:
    table = submission_table(PROBABILITIES, IDS, PRED, TASK)
    assert table.columns.tolist() == ["id", "p_dog", "p_cat", "p_cow"]
    np.testing.assert_array_equal(table[["p_cat", "p_cow", "p_dog"]].to_numpy(), PRED[[2, 0, 1]].astype(float))


def test_positive_is_the_last_class() -> None:
    sample = Sample(("target", "id"), np.array(["b", "a"]), "positive", id_position=1)
    table = submission_table(sample, np.array(["a", "b"]), np.array([[0.9, 0.1], [0.3, 0.7]]), YES_NO)
    assert table.columns.tolist() == ["target", "id"] and table["target"].tolist() == [0.7, 0.1]
    with pytest.raises(UserError, match="positive needs two classes, but there are 3"):
        submission_table(Sample(("id", "target"), IDS, "positive"), IDS, PRED, TASK)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["cat", "cow", "dog"], [0, 1, 2]),
        (["dog", "cat", "cow"], [2, 0, 1]),
        (["c_cow", "c_dog", "c_cat"], [1, 2, 0]),
        (["prob_dog", "prob_cow", "prob_cat"], [2, 1, 0]),
    ],
)
def test_classes_match_by_name(columns: list[str], expected: list[int]) -> None:
    assert match_classes(columns, CLASSES.tolist()) == expected


def test_numbered_columns_do_not_match_by_suffix() -> None:
    names = [str(number) for number in range(12)]
    columns = [f"c_{number}" for number in range(11, -1, -1)]
    assert match_classes(columns, names) == list(range(11, -1, -1))
    with pytest.raises(UserError, match=r"1 column is no class \(bird\), 1 class has no column \(dog\)"):
        match_classes(["cat", "cow", "bird"], CLASSES.tolist())


@st.composite
def id_lists(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """The sample's ids and the ids of predictions: permuted, and perhaps some missing, unknown or repeated."""
    wanted = draw(st.lists(st.text("abc01", min_size=1, max_size=4), min_size=1, max_size=8, unique=True))
    given_ids = draw(st.permutations(wanted))
    given_ids = given_ids[: draw(st.sampled_from([len(wanted), len(wanted), max(1, len(wanted) - 1)]))]
    given_ids += draw(st.lists(st.sampled_from([*wanted, "new"]), max_size=1))
    return wanted, draw(st.permutations(given_ids))


@given(id_lists())
def test_rows_align_by_id_or_not_at_all(lists: tuple[list[str], list[str]]) -> None:
    wanted, ids = lists
    sample = Sample(("id", "no", "yes"), np.array(wanted), "probabilities")
    own = {name: (place + 1) / 100 for place, name in enumerate([*wanted, "new"])}
    pred = np.array([[1 - own[name], own[name]] for name in ids])
    if sorted(ids) == sorted(wanted):
        table = submission_table(sample, np.array(ids), pred, YES_NO)
        assert table["id"].tolist() == wanted
        assert table["yes"].tolist() == [own[name] for name in wanted]
        check_submission(table, sample, YES_NO)
    else:
        with pytest.raises(UserError) as error:
            submission_table(sample, np.array(ids), pred, YES_NO)
        message = str(error.value)
        repeated = {name for name in ids if ids.count(name) > 1}
        culprits = repeated or set(wanted) ^ set(ids)
        assert any(name in message for name in culprits), message


def test_a_nan_never_becomes_a_label() -> None:
    pred = PRED.copy()
    pred[1, 0] = np.nan
    with pytest.raises(UserError, match=r"NaN or infinity in the predictions of 1 id \(b\)"):
        submission_table(LABELS, IDS, pred, TASK)


def test_rounding_is_clipped_and_more_is_not() -> None:
    pred = np.array([[1 + 1e-7, -1e-7, 0.0], *PRED[1:]])
    check_submission(submission_table(PROBABILITIES, IDS, pred, TASK), PROBABILITIES, TASK)
    pred[0, 0] = 1.1
    with pytest.raises(UserError, match=r"column 'p_cat' of id 'a' is 1\.1: a probability is between 0 and 1"):
        check_submission(submission_table(PROBABILITIES, IDS, pred, TASK), PROBABILITIES, TASK)


BROKEN: dict[str, tuple[Sample, Any, list[str]]] = {
    "renamed column": (
        LABELS,
        lambda t: t.rename(columns={"label": "target"}),
        ["columns are id, target", "id, label"],
    ),
    "column order": (LABELS, lambda t: t[["label", "id"]], ["columns are label, id"]),
    "extra column": (LABELS, lambda t: t.assign(fold=0), ["columns are id, label, fold"]),
    "row order": (LABELS, lambda t: t.iloc[::-1], ["row 1 is id 'b'", "'c' there"]),
    "missing row": (LABELS, lambda t: t.iloc[:2], ["1 only in the sample submission (b)"]),
    "unknown row": (LABELS, lambda t: t.replace({"id": {"b": "x"}}), ["(b)", "1 only in the submission (x)"]),
    "repeated row": (LABELS, lambda t: pd.concat([t, t.iloc[:1]]), ["the submission: 1 id occurs more than once (c)"]),
    "label": (LABELS, lambda t: t.replace({"label": {"cow": "cwo"}}), ["id 'c'", "'cwo': not a class", "'cow'?"]),
    "empty label": (LABELS, lambda t: t.assign(label=[None, "cat", "cow"]), ["id 'c'", "not a class"]),
    "nan": (PROBABILITIES, lambda t: t.assign(p_cat=[0.5, np.nan, 0.5]), ["'p_cat' of id 'a'", "no number"]),
    "inf": (PROBABILITIES, lambda t: t.assign(p_cat=[0.5, 0.5, np.inf]), ["'p_cat' of id 'b'", "not finite"]),
    "negative": (PROBABILITIES, lambda t: t.assign(p_cow=[-0.1, 0.5, 0.5]), ["'p_cow' of id 'c' is -0.1", "between"]),
    "text": (PROBABILITIES, lambda t: t.assign(p_dog=["0.1", "high", "0.2"]), ["'p_dog' of id 'a' is 'high'"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_failed_check_says_which_and_keeps_the_old_file(tmp_path: Path, name: str) -> None:
    sample, spoil, parts = BROKEN[name]
    good = submission_table(sample, IDS, PRED, TASK)
    path = tmp_path / "deep" / "run.csv"
    write_submission(path, good, sample, TASK)
    before = path.read_bytes()
    with pytest.raises(UserError) as error:
        write_submission(path, spoil(good), sample, TASK)
    for part in [*parts, "run.csv is not written"]:
        assert part in str(error.value), str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["run.csv"]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.csv"
    table = submission_table(LABELS, IDS, PRED, TASK)
    write_submission(path, table, LABELS, TASK)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(UserError, match=r"run\.csv: cannot be written \(No space left"):
        write_submission(path, table, LABELS, TASK)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["run.csv"]


def test_the_new_file_takes_the_place_of_the_old_one_at_once(tmp_path: Path) -> None:
    """Whoever has the old file open goes on reading the old one, never a half-written new one."""
    path = tmp_path / "run.csv"
    path.write_text("old")
    with path.open() as reader:
        write_submission(path, submission_table(LABELS, IDS, PRED, TASK), LABELS, TASK)
        assert reader.read() == "old" and path.read_text().startswith("id,label")


def test_the_file_reads_back_as_the_sample(tmp_path: Path) -> None:
    for sample in (LABELS, PROBABILITIES):
        path = tmp_path / "run.csv"
        write_submission(path, submission_table(sample, IDS, PRED, TASK), sample, TASK)
        again = read_sample(path, None, CompetitionConfig())
        assert again.columns == sample.columns and again.kind == sample.kind
        assert again.ids.tolist() == sample.ids.tolist()
    assert path.read_bytes().count(b"\n") == 4 and b"\r" not in path.read_bytes()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


SOLUTION = "id,Usage,label\nb,Public,dog\na,Private,cat\nc,Public,cow\n"


class TestGrade:
    def test_labels_in_any_order(self, tmp_path: Path) -> None:
        solution = write(tmp_path / "solution.csv", SOLUTION)
        submission = write(tmp_path / "s.csv", "id,label\na,cat\nb,cow\nc,cow\n")
        result = grade(submission, solution, ["accuracy", "f1_macro"])
        assert result == {"accuracy": pytest.approx(2 / 3), "f1_macro": pytest.approx((1 + 2 / 3 + 0) / 3)}

    def test_a_class_guessed_but_never_true_is_wrong_not_an_error(self, tmp_path: Path) -> None:
        solution = write(tmp_path / "solution.csv", SOLUTION)
        submission = write(tmp_path / "s.csv", "id,label\na,ape\nb,dog\nc,cow\n")
        assert grade(submission, solution) == {"accuracy": pytest.approx(2 / 3)}
        with pytest.raises(UserError, match=r"1 label is no class \(ape; the first at id 'a'\)"):
            grade(submission, solution, task=TASK)

    def test_probabilities(self, tmp_path: Path) -> None:
        solution = write(tmp_path / "solution.csv", SOLUTION)
        submission = write(
            tmp_path / "s.csv", "id,p_dog,p_cat,p_cow,p_ape\nc,0,0.5,0.5,0\na,0,0.8,0.2,0\nb,0.25,0.5,0.25,0\n"
        )
        result = grade(submission, solution, ["log_loss", "map3"])
        assert result["log_loss"] == pytest.approx(-np.log([0.5, 0.8, 0.25]).mean())
        assert result["map3"] == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)

    def test_a_solution_with_one_column_per_class(self, tmp_path: Path) -> None:
        solution = write(tmp_path / "solution.csv", "id,no,yes,Usage\nb,0,1,Public\na,1,0,Public\n")
        submission = write(tmp_path / "s.csv", "id,no,yes\na,0.9,0.1\nb,0.6,0.4\n")
        assert grade(submission, solution, ["accuracy", "auc"]) == {"accuracy": 0.5, "auc": 1.0}

    def test_probability_of_the_positive_class(self, tmp_path: Path) -> None:
        solution = write(tmp_path / "solution.csv", "id,label\na,0\nb,1\nc,1\n")
        submission = write(tmp_path / "s.csv", "id,label\na,0.6\nb,0.7\nc,0.2\n")
        assert grade(submission, solution, ["auc", "accuracy"]) == {"auc": 0.5, "accuracy": pytest.approx(1 / 3)}

    def test_words_and_one_of_two(self, tmp_path: Path) -> None:
        """The best few as words, a class and how sure it is, and a column about the first of two classes."""
        solution = write(tmp_path / "solution.csv", SOLUTION)
        for kind in ("ranked", "confident"):
            sample = Sample(("id", "label"), LABELS.ids, kind, guesses=2)
            path = tmp_path / f"{kind}.csv"
            write_submission(path, submission_table(sample, IDS, PRED, TASK), sample, TASK)
            assert grade(path, solution, "map3", task=TASK, sample=sample) == {"map3": 1.0}
        two, pred = Single(np.array(["cat", "dog"])), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        sample = Sample(("id", "label"), IDS, "positive", positive="cat")
        path, truth = (
            tmp_path / "cat.csv",
            write(
                tmp_path / "two.csv",
                "id,label\n" + "".join(f"{i},{c}\n" for i, c in zip(IDS, ("cat", "dog", "cat"), strict=True)),
            ),
        )
        write_submission(path, submission_table(sample, IDS, pred, two), sample, two)
        assert grade(path, truth, "auc", task=two, sample=sample) == {"auc": 1.0}

    def test_a_row_per_target(self, tmp_path: Path) -> None:
        rows = "id,value\n" + "".join(
            f"{i}_{name},{v}\n" for i, name, v in [("a", "x", 1), ("a", "y", 0), ("b", "x", 0), ("b", "y", 1)]
        )
        solution, made = (
            write(tmp_path / "t.csv", rows),
            write(tmp_path / "s.csv", rows.replace(",1", ",0.9").replace(",0\n", ",0.2\n")),
        )
        found = grade(made, solution, "auc", task=Multi(np.array(["x", "y"])), rows="{id}_{target}")
        assert found == {"auc": 1.0}

    def test_some_of_the_rows(self, tmp_path: Path) -> None:
        """Of a trial: what the solution has beyond them does not count; a strange id is one as ever."""
        solution = write(tmp_path / "solution.csv", SOLUTION)
        submission = write(tmp_path / "s.csv", "id,label\nc,cow\na,dog\n")
        assert grade(submission, solution, task=TASK, part=True) == {"accuracy": 0.5}
        with pytest.raises(UserError, match=r"different ids: 0 only in .*, 1 only in .* \(b\)"):
            grade(submission, solution, task=TASK)
        with pytest.raises(UserError, match=r"1 only in .*s\.csv \(d\)"):
            grade(write(tmp_path / "s.csv", "id,label\nc,cow\nd,dog\n"), solution, task=TASK, part=True)
        wide = write(tmp_path / "wide.csv", "id,value\na_x,1\na_y,0\nb_x,0\nb_y,1\nc_x,1\nc_y,1\n")
        made = write(tmp_path / "long.csv", "id,value\nb_x,0.9\nb_y,0.8\nc_x,0.9\nc_y,0.7\n")
        found = grade(made, wide, "accuracy_cells", task=Multi(np.array(["x", "y"])), rows="{id}_{target}", part=True)
        assert found == {"accuracy_cells": 0.75}

    def test_what_is_written_is_what_is_graded(self, tmp_path: Path) -> None:
        solution = write(tmp_path / "solution.csv", SOLUTION)
        for sample in (LABELS, PROBABILITIES):
            path = tmp_path / "run.csv"
            write_submission(path, submission_table(sample, IDS, PRED, TASK), sample, TASK)
            assert grade(path, solution, "accuracy", task=TASK) == {"accuracy": 1.0}

    @pytest.mark.parametrize(
        ("submission", "solution", "options", "parts"),
        [
            ("id,label\na,cat\nb,dog\n", SOLUTION, {}, ["different ids", "1 only in", "(c)"]),
            ("id,label\na,cat\nb,dog\nc,cow\nd,cow\n", SOLUTION, {}, ["different ids", "(d)"]),
            ("id,label\na,cat\nb,dog\nc,cow\nc,cow\n", SOLUTION, {}, ["s.csv: 1 id occurs more than once (c)"]),
            ("id,label\na,cat\nb,dog\nc,cow\n", SOLUTION + "c,Public,cow\n", {}, ["solution.csv: 1 id occurs"]),
            ("id,label\na,cat\nb,\nc,cow\n", SOLUTION, {}, ["s.csv line 3", "empty 'label'"]),
            ("id\na\nb\nc\n", SOLUTION, {}, ["s.csv", "only column 'id'"]),
            ("name,label\na,cat\nb,dog\nc,cow\n", SOLUTION, {}, ["solution.csv: no column 'name'"]),
            ("id,label\na,Cat\nb,Dog\nc,Cow\n", SOLUTION, {}, ["3 labels are no class (Cat, Cow, Dog"]),
            ("id,cat,cow,dog\na,1,0,0\nb,nan,0,1\nc,0,1,0\n", SOLUTION, {}, ["column 'cat' of id 'b' is 'nan'"]),
            ("id,cat,cow\na,1,0\nb,0,1\nc,0,1\n", SOLUTION, {}, ["1 class has no column (dog)"]),
            ("id,cat,cow,dog\na,1,0,0\nb,0,0,1\nc,0,1,2\n", SOLUTION, {}, ["column 'dog' of id 'c' is '2'"]),
            ("id,label\na,cat\nb,dog\nc,cow\n", SOLUTION, {"metric": "acuracy"}, ["no metric 'acuracy'"]),
            ("id,label\na,cat\nb,dog\nc,cow\n", SOLUTION, {"metric": "f1"}, ["f1_binary is for 2 classes", "are 3"]),
            ("id,label\na,cat\nb,dog\nc,cow\n", SOLUTION, {"target_column": "lable"}, ["'lable'", "'label'?"]),
            ("id,x\na,cat\nb,dog\nc,cow\n", "id,p,q\na,1,2\n", {}, ["competition.target_column=", "p, q"]),
        ],
    )
    def test_mistakes(
        self, tmp_path: Path, submission: str, solution: str, options: dict[str, Any], parts: list[str]
    ) -> None:
        with pytest.raises(UserError) as error:
            grade(write(tmp_path / "s.csv", submission), write(tmp_path / "solution.csv", solution), **options)
        for part in parts:
            assert part in str(error.value), str(error.value)
        assert "\n" not in str(error.value)
