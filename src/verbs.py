"""Every verb of `./run.sh`: its help, its recipe, and what its configuration starts from.

A base is a plain function (given, defaults) -> mapping, all of them nested mappings of keys: what the words of the
command line say, what every key is by default, and the configuration that the given words then change. Recipes are
named, not imported: torch takes seconds, and the command line is checked first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from src.config import migrate
from src.errors import UserError
from src.files import read_config
from src.runs.folder import Runs, runs_in
from src.search.tricks import WORDS

Values = Mapping[str, Any]
Base = Callable[[Values, Values], dict[str, Any] | None]

# ---- bases ----------------------------------------------------------------------------------------------------------


def from_configs(given: Values, defaults: Values) -> None:
    """Leave it to Hydra, which composes configs/ and the words."""


def run_of(given: Values, defaults: Values) -> dict[str, Any]:
    """The configuration of the run `run`, for all its finished folds."""
    return {**made_with(given.get("run"), "run", given, defaults), "fold": "all"}


def predicted_of(given: Values, defaults: Values) -> dict[str, Any]:
    """`run_of`, in the time of this session and not of the one that the run was trained in."""
    return {**run_of(given, defaults), "time_budget": defaults["time_budget"]}


def sizes_of(given: Values, defaults: Values) -> dict[str, Any]:
    """`run_of`, without what a soup was made of: `runs` are the runs that it is compared with."""
    return {**run_of(given, defaults), "runs": [], "combined": None}


def report_of(given: Values, defaults: Values) -> dict[str, Any]:
    """The configuration of the run `run`, or of the first of `runs`, for all its finished folds; `runs` are those that
    stand beside it, not those that it is made of."""
    if given.get("run") is None and "runs" in given:
        return {**first_member(given, defaults), "fold": "all", "run": None, "runs": [], "combined": None}
    return sizes_of(given, defaults)


def network_of(given: Values, defaults: Values) -> dict[str, Any] | None:
    """The configuration of the run `run` if there is one, one view; else Hydra's, for a backbone as it comes."""
    if not (runs_folder(given, defaults) / str(given.get("run")) / "config.yaml").is_file():
        return None
    return {**made_with(given["run"], "run", given, defaults), "tta": "none"}


def members_of(given: Values, defaults: Values) -> dict[str, Any] | None:
    """The defaults, with the competition, folds and places of the first of `runs`; Hydra's without `runs`."""
    if "runs" not in given:
        return None
    first = first_member(given, defaults)
    return {**defaults, **{name: first[name] for name in ("competition", "folds", "paths")}, "fold": "all"}


def network_of_members(given: Values, defaults: Values) -> dict[str, Any] | None:
    """The configuration of the first of `runs`, whose network is theirs; Hydra's without `runs`."""
    if "runs" not in given:
        return None
    return {**defaults, **first_member(given, defaults), "fold": "all", "run": None, "teacher": None}


def student_of(given: Values, defaults: Values) -> dict[str, Any]:
    """The configuration of the run `teacher`, or of its first member down to a trained run, not pruned."""
    base = made_with(given.get("teacher"), "teacher", given, defaults)
    while base.get("runs"):
        base = made_with(base["runs"][0], "teacher: runs", given, defaults)
    fresh = {"run": f"{given['teacher']}-student", "fold": 0, "resume": "auto", "time_budget": "auto"}
    return {**base, **fresh, "prune": defaults["prune"], "combined": None}


def pruned_of(given: Values, defaults: Values) -> dict[str, Any]:
    """The configuration of the run `prune.run`, for all its finished folds and a third of its epochs."""
    section = given.get("prune")
    source = section.get("run") if isinstance(section, Mapping) else None
    base = made_with(source, "run", given, defaults)
    return {
        **base,
        "run": f"{source}-pruned",
        "fold": "all",
        "resume": "auto",
        "time_budget": "auto",
        "epochs": base["epochs"] / 3,
        "least_steps": base.get("least_steps", 0) // 3,
        "model": {**base["model"], "acnet": False},  # its branches are fused in the weights
        "prune": {**defaults["prune"], "run": source},
        "runs": [],  # a soup is pruned like a trained run
        "combined": None,
        "soup": defaults["soup"],
    }


def made_with(name: object, key: str, given: Values, defaults: Values) -> dict[str, Any]:
    """What is in the config.yaml of the run of that name, its paths where they hold here; `key` is for the message that
    there is none."""
    runs = runs_folder(given, defaults)
    file = runs / str(name) / "config.yaml"
    if name is None or not file.is_file():
        there = runs.names()
        choices = f"in {runs} ({', '.join(there) or 'none yet'})"
        raise UserError(
            f"{key}: which run? Give one {choices}" if name is None else f"{key}={name}: no such run {choices}"
        )
    values = migrate(read_config(file))
    usual = defaults["paths"]
    recorded = values.get("paths") or {} if file.is_relative_to(runs.own) else {}  # of another session: none holds here
    return {**values, "paths": {**usual, **recorded, "runs": usual["runs"], "input": usual["input"]}}


def first_member(given: Values, defaults: Values) -> dict[str, Any]:
    names = given["runs"]
    return made_with((list(names) or [None])[0] if isinstance(names, list) else names, "runs", given, defaults)


def runs_folder(given: Values, defaults: Values) -> Runs:
    section = given.get("paths")
    folders = section if isinstance(section, Mapping) else {}
    # what is no text is refused when the configuration is built
    paths = {**defaults["paths"], **{name: folder for name, folder in folders.items() if isinstance(folder, str)}}
    return runs_in(Path(paths["runs"]), Path(paths["input"]))


# ---- verbs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    name: str
    help: str  # one line
    recipe: tuple[str, str] | None  # module of src/recipes and function in it; None: run.sh itself starts it
    base: Base | None = from_configs  # None: no configuration at all, so that a broken one cannot stop it
    preferred: tuple[str, ...] = ()  # what Hydra composes before the words that are given
    # one per fold: or per device, as the key `parallel` and the devices have it
    processes: Literal["one", "one per device", "one per fold"] = "one"
    section: str | None = None  # keys of its own, which may be given without its name: method= is ensemble.method=
    words: tuple[str, ...] | None = ()  # its own words, which are no keys; None: any, as they are typed
    compares: bool = False  # its words say which configurations are paired (src/search/tricks.py)
    timed: bool = False  # its recipe takes the time at which the command began, from which a time budget counts
    diagnoses: bool = False  # its recipe is told what is wrong with the words, instead of not being started


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "train",
            "train a fold, or all of them with fold=all (the default verb)",
            ("train", "train"),
            processes="one per fold",
            timed=True,
        ),
        Verb(
            "init",
            "look at an unknown folder and write its configuration: init data=DIR [metric=NAME]",
            ("init", "init"),
            base=None,
            words=("data", "metric", "name"),
        ),
        Verb(
            "predict",
            "predict the test rows that are there now with any run, ensemble or stack: predict run=NAME",
            ("predict", "predict_run"),
            predicted_of,
            processes="one per device",
            timed=True,
        ),
        Verb(
            "distill",
            "train a student of a run or an ensemble: distill teacher=NAME fold=all",
            ("distill", "distill"),
            student_of,
            processes="one per fold",
            section="distill",
            timed=True,
        ),
        Verb(
            "prune",
            "take channels out of a finished run and train on: prune run=NAME prune.ratio=0.5 epochs=5",
            ("prune", "prune"),
            pruned_of,
            processes="one per fold",
            section="prune",
            timed=True,
        ),
        Verb(
            "features",
            "pooled features of a backbone: features model=resnet50, or of a run's networks: features run=NAME",
            ("features", "extract_features"),
            network_of,
            preferred=("preset=finetune", "tta=none"),
        ),
        Verb(
            "ensemble",
            "combine runs: ensemble runs=[a,b,c] method=climb run=NAME",
            ("ensemble", "ensemble"),
            members_of,
            section="ensemble",
        ),
        Verb(
            "stack",
            "a second model on runs and features: stack runs=[a,b] features=[F] learner=logistic run=NAME",
            ("stack", "stack_runs"),
            members_of,
            preferred=("fold=all", "preset=scratch"),
            section="stack",
        ),
        Verb(
            "frozen",
            "the five-minute answer: a linear model on a backbone as it comes: frozen model=NAME size=96",
            ("frozen", "frozen"),
            preferred=("fold=all", "preset=finetune", "tta=flip"),
            section="stack",
        ),
        Verb(
            "prepare",
            "look at the data: rows, unreadable images, duplicates across folds and test, with pictures",
            ("prepare", "prepare"),
            preferred=("preset=scratch",),
        ),
        Verb(
            "lr_find",
            "learning-rate range test on the first stage: a picture and a suggestion",
            ("lr_find", "lr_find"),
        ),
        Verb(
            "sizes",
            "score against test size with a finished run: sizes run=NAME sizes=[96,112,128]",
            ("sizes", "score_sizes"),
            sizes_of,
        ),
        Verb(
            "soup",
            "average the weights of runs of one network: soup runs=[a,b,c] method=greedy run=NAME",
            ("soup", "soup"),
            network_of_members,
            section="soup",
        ),
        Verb(
            "ablate",
            "what is each technique worth: ablate tricks=[mixup,ema,loss.gamma=1] seeds=2",
            ("ablate", "ablate"),
            words=WORDS["ablate"],
            compares=True,
        ),
        Verb(
            "ladder",
            "ablate on growing shares of the rows, the better half going on: ladder tricks=[…] rungs=[0.25,0.5,1]",
            ("ablate", "ladder"),
            words=WORDS["ladder"],
            compares=True,
        ),
        Verb(
            "score",
            "grade a file: score submission=FILE solution=FILE [metric=NAME] [kind=number]",
            ("score", "score_submission"),
            base=None,
            words=("submission", "solution", "metric", "kind"),
        ),
        Verb(
            "doctor",
            "what this machine is, and what would go wrong on it: card, memory, disk, weights, internet …",
            ("doctor", "doctor"),
            diagnoses=True,
        ),
        Verb("smoke", "the whole path on a few images, under a minute", ("smoke", "smoke")),
        Verb(
            "runs",
            "a table of all runs: runs filter=model=resnet18 sort=test; side by side: runs diff=[a,b]",
            ("runs", "list_runs"),
            base=None,
            words=("filter", "sort", "diff", "paths.runs"),
        ),
        Verb(
            "report",
            "one HTML file about a run, or several side by side: report run=NAME, report runs=[a,b]",
            ("report", "report"),
            report_of,
        ),
        Verb(
            "bench",
            "measure against other libraries: bench loader|training|accuracy|inference|scale|gpu root=DIR",
            ("bench", "bench"),
            base=None,
            words=None,
        ),
        Verb(
            "kaggle",
            "notebooks for Kaggle: kaggle build competition=SLUG machine=gpu|t4x2|tpu …, then push, status, submit",
            ("kaggle", "kaggle"),
            base=None,
            words=None,
        ),
        Verb(
            "wheels",
            "the packages that a notebook without internet lacks, as a folder to attach: wheels DIR",
            ("wheels", "wheels"),
            base=None,
            words=None,
        ),
        Verb("test", "the test suite (arguments go to pytest)", None, base=None, words=None),
    )
}
