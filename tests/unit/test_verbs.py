"""Every verb's record, what its configuration starts from, and verbs that need none."""

from __future__ import annotations

import importlib
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from src import cli
from src.config import build, defaults, keys
from src.errors import UserError
from src.files import write_config
from src.verbs import (
    VERBS,
    Verb,
    from_configs,
    members_of,
    network_of,
    network_of_members,
    pruned_of,
    run_of,
    sizes_of,
    student_of,
)
from src.words import GROUPS, full_words, usage

ROOT = Path(__file__).resolve().parents[2]


# ---- records --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_verb_names_what_is_there(verb: Verb) -> None:
    assert VERBS[verb.name] is verb and verb.help and "\n" not in verb.help
    assert f"  {verb.name:<9} {verb.help}" in usage()
    if verb.recipe is not None:
        module, function = verb.recipe
        assert callable(getattr(importlib.import_module(f"src.recipes.{module}"), function))
    assert verb.section is None or verb.section in defaults()
    assert all(word.partition("=")[0] in (*keys(), *GROUPS) for word in verb.preferred)
    assert pickle.loads(pickle.dumps(verb)) == verb, "it is sent to the processes that are launched"


def test_preferred_words_are_for_verbs_that_hydra_composes() -> None:
    """A base that always answers never asks Hydra."""
    assert all(verb.base in (from_configs, members_of, network_of) for verb in VERBS.values() if verb.preferred)


def test_the_keys_of_the_section_may_be_given_alone() -> None:
    assert full_words(VERBS["prune"], ["ratio=0.3"]) == ["prune.ratio=0.3"]
    assert full_words(VERBS["ensemble"], ["rounds=3", "bags=2"]) == ["ensemble.rounds=3", "ensemble.bags=2"]
    assert full_words(VERBS["prune"], ["run=a", "seed=1"]) == ["prune.run=a", "seed=1"]
    assert full_words(VERBS["prune"], ["run=b", "prune.run=a"]) == ["run=b", "prune.run=a"], "what comes of it"
    assert full_words(VERBS["ensemble"], ["method=soft"]) == ["ensemble.method=soft"]
    assert full_words(VERBS["soup"], ["method=uniform"]) == ["soup.method=uniform"]
    assert full_words(VERBS["stack"], ["learner=ridge", "features=[x.npz]"]) == [
        "stack.learner=ridge",
        "stack.features=[x.npz]",
    ]
    assert full_words(VERBS["train"], ["run=b"]) == ["run=b"]


@pytest.mark.parametrize(
    ("verb", "word", "complaint"),
    [
        ("train", "ratio=1", "ratio: there is no such key of train; it is one of prune, in full prune.ratio"),
        ("ensemble", "learner=ridge", "learner: there is no such key of ensemble; it is one of stack, in full stack.l"),
        ("stack", "method=soft", "method: there is no such key of stack; it is one of ensemble and soup, in full ense"),
        ("stack", "metod=soft", "metod: there is no such key"),
    ],
)
def test_a_key_of_another_verb_is_answered_with_that_verb(verb: str, word: str, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        full_words(VERBS[verb], [word])
    assert str(error.value).startswith(complaint)


# ---- bases ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> dict:
    """A trained run, a soup and an ensemble of both, as given words that say where they are."""

    def write(run: str, **more: object) -> None:
        values = {**defaults(), "run": run, "epochs": 6.0, "fold": 1, **more}
        values["competition"] = {**values["competition"], "name": "mini", "root": "there"}
        values["model"] = {**values["model"], "name": "resnet34", "acnet": "prune" not in more}
        (tmp_path / run).mkdir()
        build(values)
        write_config(tmp_path / run / "config.yaml", values)

    write("a", prune={"run": "older", "ratio": 0.2}, time_budget="9s", resume="never")
    write("soup", runs=["a", "b"], method="uniform", teacher="t")  # as an older version wrote it
    write("both", runs=["soup", "a"], combined="ensemble")
    return {"paths": {"runs": str(tmp_path)}}


def changed(base: dict | None) -> dict:
    """The top-level keys of a base that are not at their defaults."""
    assert base is not None
    return {key: value for key, value in base.items() if value != defaults()[key]}


def test_a_run_is_predicted_with_its_own_configuration(runs: dict) -> None:
    base = run_of({**runs, "run": "soup"}, defaults())
    assert (base["run"], base["fold"], base["runs"], base["epochs"]) == ("soup", "all", ["a", "b"], 6.0)
    assert (base["combined"], base["soup"]["method"]) == ("soup", "uniform")
    base = sizes_of({**runs, "run": "soup"}, defaults())
    assert base["runs"] == []
    build(base)


def test_features_are_of_a_run_that_exists_or_of_a_backbone(runs: dict) -> None:
    assert network_of(runs, defaults()) is None and network_of({**runs, "run": "new"}, defaults()) is None
    base = network_of({**runs, "run": "a"}, defaults())
    assert base is not None and (base["tta"], base["model"]["name"]) == ("none", "resnet34")


@pytest.mark.parametrize("named", [["a", "soup"], "a"])
def test_members_bring_the_task_but_no_settings(runs: dict, named: object) -> None:
    assert members_of(runs, defaults()) is None, "features alone: the competition is on the command line"
    base = members_of({**runs, "runs": named}, defaults())
    assert changed(base).keys() == {"competition", "fold"}
    assert changed(base)["competition"]["name"] == "mini" and changed(base)["fold"] == "all"


def test_a_soup_has_the_network_of_its_members(runs: dict) -> None:
    assert network_of_members(runs, defaults()) is None
    base = network_of_members({**runs, "runs": ["soup", "a"]}, defaults())
    assert base is not None and (base["model"]["name"], base["epochs"]) == ("resnet34", 6.0)
    assert (base["run"], base["teacher"], base["fold"]) == (None, None, "all")


def test_a_student_is_trained_like_the_first_trained_member(runs: dict) -> None:
    base = student_of({**runs, "teacher": "both"}, defaults())
    assert (base["run"], base["fold"], base["epochs"]) == ("both-student", 0, 6.0)
    assert (base["prune"], base["runs"], base["time_budget"]) == (defaults()["prune"], [], "auto")
    assert base["resume"] == "auto"


def test_a_pruned_run_goes_on_for_a_third(runs: dict) -> None:
    base = pruned_of({**runs, "prune": {"run": "soup", "ratio": 0.3}}, defaults())
    assert (base["run"], base["fold"], base["epochs"]) == ("soup-pruned", "all", 2.0)
    assert base["prune"] == {"run": "soup", "ratio": defaults()["prune"]["ratio"]} and base["runs"] == []
    assert (base["combined"], base["soup"]) == (None, defaults()["soup"])
    assert base["model"] == {**base["model"], "name": "resnet34", "acnet": False}
    build(base)


@pytest.mark.parametrize(
    ("base", "given", "complaint"),
    [
        (run_of, {"run": "none"}, r"^run=none: no such run in .* \(a, both, soup\)"),
        (run_of, {}, r"^run: which run\? Give one in .* \(a, both, soup\)"),
        (members_of, {"runs": []}, r"^runs: which run\?"),
        (network_of_members, {"runs": ["none"]}, "^runs=none: no such run"),
        (student_of, {}, r"^teacher: which run\?"),
        (pruned_of, {}, r"^run: which run\?"),
        (pruned_of, {"prune": 3}, r"^run: which run\?"),
    ],
)
def test_a_run_that_is_not_there_is_answered_with_those_that_are(runs: dict, base, given: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        base({**runs, **given}, defaults())


@pytest.mark.parametrize("base", [run_of, sizes_of, network_of, members_of, network_of_members, student_of, pruned_of])
def test_bases_leave_their_arguments_alone(runs: dict, base) -> None:
    given = {**runs, "run": "a", "runs": ["a"], "teacher": "a", "prune": {"run": "a"}}
    values = defaults()
    base(given, values)
    assert values == defaults() and given == {**runs, "run": "a", "runs": ["a"], "teacher": "a", "prune": {"run": "a"}}


# ---- verbs without a configuration ----------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What a verb `doctor`, which has no configuration, is called with."""
    calls: list[tuple[str, ...]] = []
    module = ModuleType("src.recipes.doctor")
    module.doctor = lambda *words: calls.append(words)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "src.recipes.doctor", module)
    verb = Verb("doctor", "what this machine offers", ("doctor", "doctor"), base=None, words=None)
    monkeypatch.setitem(VERBS, "doctor", verb)
    return calls


@pytest.mark.parametrize("words", [[], ["epoch=3", "preset=nonsense"], ["run=/", "run=b", "--x", "loose"]])
def test_a_verb_without_a_configuration_runs_whatever_is_typed(words: list[str], asked: list) -> None:
    assert cli.main(["doctor", *words]) == 0
    assert asked == [tuple(words)]


def test_a_verb_without_a_configuration_runs_beside_a_broken_one(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text("defaults: [base\nepochs: {")
    for name, rows in (("mine", "1,cat\n2,dog\n"), ("truth", "1,cat\n2,eel\n")):
        (tmp_path / f"{name}.csv").write_text(f"id,label\n{rows}")

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "src.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    done = typed("score", "submission=mine.csv", "solution=truth.csv")
    assert (done.returncode, done.stdout) == (0, "accuracy 0.5000\n"), done.stderr
    done = typed("score", "submision=mine.csv")
    assert done.returncode == 2 and "did you mean 'submission'?" in done.stderr and done.stderr.count("\n") == 1
    done = typed("fold=0")  # needs it, and names the file
    assert done.returncode == 2 and "config.yaml" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_run_sh_keeps_the_tests_for_itself(capsys) -> None:
    assert cli.main(["test", "-k", "x"]) == 2
    assert "./run.sh test" in capsys.readouterr().err


def test_a_list_in_the_place_of_a_section_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the words are laid over the configuration of a run that is there, and by doctor, which goes on."""
    write_config(tmp_path / "runs" / "a" / "config.yaml", defaults())
    words = ["run=a", "schedule=[a,b]", f"paths.runs={tmp_path / 'runs'}"]
    assert cli.main(["predict", *words]) == 2
    assert capsys.readouterr().err == "error: schedule: Cannot merge DictConfig with ListConfig\n"
    assert cli.main(["doctor", *words]) == 2
    assert not capsys.readouterr().err
