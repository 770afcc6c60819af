"""The runs of a study and its table, with folds that are written instead of trained."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from src.config import Config, build
from src.errors import UserError
from src.files import write_json
from src.runs.claims import FoldBusy
from src.runs.folder import fold_folder
from src.search import study as module
from src.search.effects import judged
from src.search.study import Cell, Study, compare, cut, pair_of, planned
from src.search.table import Pair, factors, write_table
from src.search.tricks import BASELINE, Pairing

# Of each arm and fold the score; a seed adds a thousandth.
SCORES = {BASELINE: (0.50, 0.60, 0.55), "good": (0.60, 0.71, 0.64), "bad": (0.40, 0.49, 0.46)}
SECONDS = {BASELINE: 10.0, "good": 20.0, "bad": 5.0}


def config(**values: object) -> Config:
    return build({"competition": {"name": "it", "root": "."}, "folds": {"n": 3}, "epochs": 4.0, **values})


def arms(**values: object) -> dict[str, Config | str]:
    return {"good": config(mix={"mixup": 0.2}, **values), "bad": config(mix={"cutmix": 1.0}, **values)}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that were to be trained; each leaves a manifest behind."""
    done: list[Config] = []

    def train(place: Path, config: Config) -> None:
        done.append(config)
        arm, seed = str(config.run).rsplit("-s", 1)
        score = SCORES[arm][int(config.fold)] + 0.001 * int(seed.partition("-")[0])
        better = config.competition.metric != "log_loss"
        spent = {"seconds": {"training": SECONDS[arm]}, "memory": 100 if arm == BASELINE else 150}
        folder = fold_folder(Path(config.paths.runs), str(config.run), int(config.fold))
        write_json(folder / "manifest.json", {"score": score, "greater_is_better": better, **spent})

    monkeypatch.setattr(module, "refuse_other_data", lambda study: None)  # there are none here
    monkeypatch.setattr(module, "train_quietly", train)
    return done


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("log_loss", -1)])
@pytest.mark.parametrize(("mode", "side"), [("add", 1), ("remove", -1)])
def test_a_difference_is_positive_where_the_technique_is_better(
    trained: list[Config], tmp_path: Path, metric: str, sign: int, mode: str, side: int
) -> None:
    base = config(competition={"name": "it", "root": ".", "metric": metric})
    study = Study(tmp_path, {BASELINE: base, "good": base}, Pairing(("good",), seeds=1, mode=mode))
    assert pair_of(study, Cell("good", 0, 1)) is None
    for arm in study.configs:
        module.train_quietly(tmp_path, module.ordinary_run(study, Cell(arm, 0, 1)))
    pair = pair_of(study, Cell("good", 0, 1))
    assert pair is not None and (pair.baseline, pair.score, pair.fold, pair.seed) == (0.60, 0.71, 1, 0)
    assert pair.difference == pytest.approx(sign * side * 0.11)


def test_a_study_from_the_first_fold_to_its_table(trained: list[Config], tmp_path: Path, capsys) -> None:
    pairing = Pairing(("good", "bad"), seeds=2)
    effects, missing = compare(tmp_path, config(seed=3), arms(seed=3), pairing, started=0)
    assert missing == 0 and len(trained) == 18
    assert [(c.run, c.fold, c.seed) for c in trained[:3]] == [
        ("baseline-s3", 0, 3), ("good-s3", 0, 3), ("bad-s3", 0, 3),
    ]  # fmt: skip
    assert {c.seed for c in trained} == {3, 4} and {c.epochs for c in trained} == {4.0}
    assert {c.time_budget for c in trained} == {None} and {c.average.compare for c in trained} == {False}
    for name in ("good", "bad"):
        expected = {k: [SCORES[name][k] - SCORES[BASELINE][k]] * 2 for k in range(3)}
        assert effects[name].mean == pytest.approx(judged({name: expected})[name].mean)
        assert effects[name].folds == 3 and effects[name].pairs == 6
    assert effects["good"].verdict == "helps" and effects["bad"].verdict == "harms"
    pairs = rows_of(tmp_path / "pairs.csv")
    assert len(pairs) == 12 and {row["seed"] for row in pairs} == {"3", "4"}
    assert float(pairs[0]["difference"]) == pytest.approx(0.10) and pairs[0]["trick"] == "good"
    table = {row["trick"]: row for row in rows_of(tmp_path / "ablate.csv")}
    assert list(table) == ["good", "bad"], "the best first"
    assert float(table["good"]["time_factor"]) == 2 and float(table["bad"]["time_factor"]) == 0.5
    assert float(table["good"]["memory_factor"]) == 1.5
    printed = capsys.readouterr().out
    assert "| good | 6 | 3 | +0.1000 | " in printed and "| 2.00 | 1.50 | helps |" in printed
    assert "(3 folds, 2 seeds), at equal epochs, on 100% of the rows" in printed
    assert "correction over 2 techniques" in printed and "[18/18]" in printed and "missing" not in printed
    assert "good  fold 0  seed 0  0.6030  +0.1000" in printed

    # the same again trains nothing; more seeds only what is new
    again, _ = compare(tmp_path, config(seed=3), arms(seed=3), pairing, started=0)
    assert again == effects and len(trained) == 18
    compare(tmp_path, config(seed=3), arms(seed=3), dataclasses.replace(pairing, seeds=3), started=5)
    assert len(trained) == 27
    assert "correction over 5 techniques" in capsys.readouterr().out


def test_arms_that_have_nothing_to_compare_are_in_the_table(trained: list[Config], tmp_path: Path, capsys) -> None:
    wrong: dict[str, Config | str] = {"same": config(), "broken": "loss.gama: no such key", "good": arms()["good"]}
    effects, _ = compare(tmp_path, config(), wrong, Pairing(tuple(wrong), seeds=1), started=0)
    assert list(effects) == ["good"] and len(trained) == 6
    table = {row["trick"]: row["verdict"] for row in rows_of(tmp_path / "ablate.csv")}
    assert table["same"] == "refused: the baseline has it already"
    assert table["broken"] == "refused: loss.gama: no such key"
    assert "| same | 0 | 0 | – | – | – | – | refused: the baseline has it already |" in capsys.readouterr().out


def test_what_cannot_be_trained_and_what_others_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained) -> None:
    """An arm that fails is refused, the baseline's mistake ends the study, a busy fold is left to its process."""
    write = module.train_quietly

    def train(place: Path, config: Config) -> None:
        if str(config.run).startswith("bad"):
            raise UserError("no such thing")
        if str(config.run).startswith("good") and config.fold == 2:
            raise FoldBusy("busy")
        write(place, config)

    monkeypatch.setattr(module, "train_quietly", train)
    effects, missing = compare(tmp_path, config(), arms(), Pairing(("good", "bad"), seeds=1), started=0)
    assert missing == 1 and list(effects) == ["good"] and effects["good"].pairs == 2
    assert rows_of(tmp_path / "ablate.csv")[-1]["verdict"] == "refused: no such thing"

    def fail(place: Path, config: Config) -> None:
        raise UserError("the baseline cannot be trained")

    monkeypatch.setattr(module, "train_quietly", fail)
    with pytest.raises(UserError, match="baseline cannot"):
        compare(tmp_path / "other", config(), arms(), Pairing(("good",), seeds=1), started=0)


def test_starts_of_a_ladder_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained) -> None:
    """One fold is finished by its process, another one let go by a process that was lost."""
    write, looks = module.train_quietly, list[str]()

    def train(place: Path, config: Config) -> None:
        if str(config.run).startswith("good") and config.fold in (1, 2) and len(looks) < 2:
            raise FoldBusy("busy")
        write(place, config)

    def sleep(seconds: float) -> None:
        looks.append(f"after {seconds}")
        if len(looks) == 1:
            study = Study(tmp_path, {BASELINE: config(), **arms()}, Pairing(("good",), seeds=1))  # type: ignore[dict-item]
            write(tmp_path, module.ordinary_run(study, Cell("good", 0, 1)))

    monkeypatch.setattr(module, "train_quietly", train)
    monkeypatch.setattr(module.time, "sleep", sleep)
    effects, missing = compare(tmp_path, config(), {"good": arms()["good"]}, Pairing(("good",), seeds=1), 0, 3.0)
    assert looks == ["after 3.0"] * 2 and not missing and effects["good"].pairs == 3
    assert [each.fold for each in trained if str(each.run).startswith("good")] == [0, 1, 2]


def test_at_equal_time_an_arm_has_as_many_epochs_as_fit(trained: list[Config], tmp_path: Path) -> None:
    pairing = Pairing(("good", "bad"), seeds=1, equal="time")
    study = Study(tmp_path, {BASELINE: config(), **arms()}, pairing)  # type: ignore[dict-item]
    assert planned(study, Cell("good", 0, 0)) is None, "before the baseline has been measured"
    compare(tmp_path, config(), arms(), pairing, started=0)
    epochs = {(str(c.run), c.epochs) for c in trained}
    assert epochs == {
        ("baseline-s0", 4.0), ("good-s0-equal-epochs", 4.0), ("good-s0", 2.0), ("bad-s0-equal-epochs", 4.0),
        ("bad-s0", 8.0),
    }  # fmt: skip


def test_a_share_of_the_rows_of_every_stage_with_as_many_passes() -> None:
    whole = config(stages=[{"rows": 0.5, "length": "30%"}, {}])
    part = cut(whole, 0.25)
    assert [stage.rows for stage in part.stages] == [0.125, 0.25] and part.epochs == 1.0
    assert dataclasses.replace(part, stages=whole.stages, epochs=4.0) == whole


def test_factors_are_of_all_pairs() -> None:
    pairs = [Pair("t", k, 0, 0.5, 0.5, 0.0, 10.0 + k, 30.0, 200, 100 + 100 * k) for k in (0, 1)]
    assert factors(pairs, "add") == {"time_factor": 60 / 21, "memory_factor": 1.0}
    assert factors(pairs[:1], "remove") == {"time_factor": 1 / 3, "memory_factor": 2.0}
    assert factors([], "add") == {}


def test_a_table_says_what_is_missing(tmp_path: Path, capsys) -> None:
    """A trick without a pair comes last, one fold has no interval, and what is missing is said."""
    pairs = [Pair("one", 0, 0, 0.5, 0.51, 0.01, 1.0, 1.0, 1, 1)]
    pairing = Pairing(("none", "one"), seeds=1, folds=(0,), mode="remove", equal="time", share=0.25)
    write_table(tmp_path, pairs, ["none", "one"], {}, config(), pairing, 3, 0)
    printed = capsys.readouterr().out
    assert "| one | 1 | 1 | +0.0100 | – | 1.00 | 1.00 | one fold" in printed and "| none | 0 | 0 | – | –" in printed
    assert printed.index("| one |") < printed.index("| none |")
    assert "3 of the folds missing" in printed and "each left out of the baseline" in printed
    assert "at equal time, on 25% of the rows" in printed and "correction over 0 techniques" in printed
    assert (tmp_path / "ablate.png").stat().st_size > 1000
