"""Every key with its default, and mistakes answered with the valid choices."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing

import pytest
import yaml

from src.config import (
    RUNTIME_KEYS,
    Config,
    StageConfig,
    build,
    defaults,
    difference,
    keys,
    migrate,
    refuse_secrets,
    unknown_key,
)
from src.errors import UserError
from src.runs.claims import run_name


def with_value(key: str, value: object) -> dict:
    values = defaults()
    section = values
    *path, leaf = key.split(".")
    for name in path:
        section = section[name]
    section[leaf] = value
    return values


def value_of(config: Config, key: str) -> object:
    found: object = config
    for name in key.split("."):
        found = getattr(found, name)
    return found


def leaves(values: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
    return found


# ---- defaults -------------------------------------------------------------------------------------------------------


def test_defaults_round_trip() -> None:
    assert build(defaults()) == Config()
    assert build({}) == Config()


def through_json(values: dict) -> dict:
    return json.loads(json.dumps(values))


def through_yaml(values: dict) -> dict:
    return yaml.safe_load(yaml.safe_dump(through_json(values)))


@pytest.mark.parametrize("through", [through_json, through_yaml])
def test_defaults_round_trip_through_files(through) -> None:
    assert build(through(defaults())) == Config()


@pytest.mark.parametrize("key", leaves(defaults()))
def test_each_key_alone(key: str) -> None:
    """A key given by itself, at its default, changes nothing."""
    *path, leaf = key.split(".")
    value: object = defaults()
    for name in key.split("."):
        value = value[name]
    values: object = {leaf: value}
    for name in reversed(path):
        values = {name: values}
    assert build(values) == Config()


def test_defaults_are_fresh_every_time() -> None:
    defaults()["model"]["options"]["depth"] = 3
    assert defaults()["model"]["options"] == {}


def test_keys_are_the_fields_of_all_sections() -> None:
    found = keys()
    assert len(set(found)) == len(found)
    assert set(leaves(defaults())) <= set(found)
    sections = {f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(getattr(Config(), f.name))}
    assert set(found) == set(leaves(defaults())) | sections
    promised = (
        "competition competition.root competition.solution fold folds.n run seed model model.weights stages epochs "
        "batch_size size device precision workers tta time_budget resume wandb.mode"
    )
    assert set(promised.split()) <= set(found)


def test_runtime_keys_exist() -> None:
    assert set(RUNTIME_KEYS) <= set(keys())


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("epochs", 3, 3.0),
        ("epochs", 0.5, 0.5),
        ("fold", 2, 2),
        ("fold", "all", "all"),
        ("run", None, None),
        ("run", "a", "a"),
        ("run", 7, "7"),  # a name that looks like a number
        ("workers", 4, 4),
        ("workers", "auto", "auto"),
        ("augment.crop_area", [0.5, 1], (0.5, 1.0)),
        ("schedule.drops", [0.5], (0.5,)),
        ("schedule.drops", [], ()),
        ("competition.metrics", ["auc"], ("auc",)),
        ("model.options", {"depth": 3}, {"depth": 3}),
        ("optimizer.clip", 1, 1.0),
        ("optimizer.clip", None, None),
        ("stages", [{}], (StageConfig(),)),
        ("stages", [{"length": 0.3, "size": 0.5}, {"rows": 1}], (StageConfig("0.3", 0.5), StageConfig())),
        ("augment.albumentations", [{"Blur": {"p": 1}}, "Transpose"], ({"Blur": {"p": 1}}, "Transpose")),
        ("tta", [{"flip": True}], [{"flip": True}]),
        ("tta", "d4", "d4"),
        ("competition.id_column", 3, "3"),
        ("schedule.warmup", 0.05, "0.05"),
        ("time_budget", 300, "300"),
    ],
)
def test_values_are_converted(key: str, given: object, expected: object) -> None:
    found = value_of(build(with_value(key, given)), key)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("epochs", "ten", "epochs='ten': expected float"),
        ("epochs", True, "epochs=True: expected float"),
        ("epochs", 10**400, r"epochs=10{19}…: too large a number"),
        ("epochs", None, "epochs=None"),
        ("epochs", 0, "epochs=0.0: must be above 0"),
        ("epochs", -1, "must be above 0"),
        ("size", 0, "size=0: must be above 0"),
        ("size", 64.5, "size=64.5: expected int"),
        ("batch_size", -4, "batch_size=-4: must be above 0"),
        ("fold", "first", "fold=first: give a fold number or all"),
        ("cache", "yes", "cache='yes': expected true or false"),
        ("cache", 1, "cache=1: expected true or false"),
        ("seed", "x", "seed='x': expected int"),
        ("run", ["a"], "run="),
        ("device", "gpu", "device=gpu: choose one of auto, cpu, cuda, mps, tpu"),
        ("device", None, "device=None: choose one of"),
        ("precision", "fp61", "precision=fp61: choose one of auto, fp32, fp16, bf16; did you mean 'fp16'"),
        ("schedule.kind", "cosin", "schedule.kind=cosin: choose one of cosine, .*; did you mean 'cosine'"),
        ("wandb.mode", False, "wandb.mode=False: choose one of"),
        ("resume", [], "resume=.*choose one of"),
        ("augment.crop_area", [0.5], r"augment.crop_area=\[0.5\]: expected a list of 2 values"),
        ("augment.crop_area", [0.1, 0.5, 1], "expected a list of 2 values"),
        ("augment.crop_area", 0.5, "expected a list of 2 values"),
        ("augment.crop_area", [0.5, "all"], r"augment.crop_area\[1\]='all': expected float"),
        ("augment.crop_area", "ab", "expected a list of 2 values"),
        ("schedule.drops", 0.5, "schedule.drops=0.5: expected a list$"),
        ("schedule.drops", ["a"], r"schedule.drops\[0\]='a'"),
        (
            "competition.metrics",
            "auc",
            r"competition.metrics='auc': expected a list, as in competition.metrics=\[auc\]",
        ),
        ("trackers", "tensorboard", r"trackers='tensorboard': expected a list, as in trackers=\[tensorboard\]"),
        ("trackers", ["tensorbord"], r"trackers\[0\]=tensorbord: choose one of tensorboard, mlflow; did you mean"),
        ("model.options", [1], "model.options=.*expected a mapping"),
        ("model", "resnet18", "model='resnet18': expected a section with name, pretrained"),
        ("stages", {}, "stages=.*expected a list"),
        ("stages", [], "stages: the list is empty"),
        ("stages", [{}, {"augment": "much"}], r"stages\[1\].augment='much': expected float"),
        ("stages", [3], r"stages\[0\]=3: expected a section with length, size"),
        ("augment.albumentations", [["Blur"]], r"augment.albumentations\[0\]=\['Blur'\]: expected"),
        ("tta", None, "tta=None"),
    ],
)
def test_bad_values(key: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(with_value(key, value))
    assert str(caught.value).startswith(key) and "\n" not in str(caught.value)


def test_every_choice_is_taken_and_no_other() -> None:
    """Each Literal of each section."""
    count = 0
    for key in keys():
        owner, _, leaf = key.rpartition(".")
        hint = typing.get_type_hints(type(value_of(Config(), owner)) if owner else Config)[leaf]
        if typing.get_origin(hint) is typing.Literal:
            count += 1
            for choice in typing.get_args(hint):
                values = with_value(key, choice)
                if key == "loss.name" and choice in ("mse", "mae", "huber"):  # of numbers
                    values["competition"] = {"kind": "number"}
                assert value_of(build(values), key) == choice
            with pytest.raises(UserError, match=f"{key}=nonsense: choose one of"):
                build(with_value(key, "nonsense"))
    assert count >= 7


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epoch": 3}, "^epoch: there is no such key; did you mean 'epochs'"),
        ({"lr": 3}, "^lr: there is no such key; did you mean 'optimizer.lr'"),
        ({"optimizer": {"momentun": 3}}, "^optimizer.momentun: .*did you mean 'optimizer.momentum'"),
        ({"stages": [{}, {"lenght": "3 epochs"}]}, r"^stages\[1\].lenght: .*did you mean 'stages\[1\].length'"),
        ({"optimiser": {}}, "did you mean 'optimizer'"),
        ({"zzzzzz": 1}, r"no such key \(src/config/schema.py lists them all\)"),
    ],
)
def test_unknown_keys(values: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(values)


def test_unknown_key_answers_a_bare_leaf() -> None:
    assert "did you mean 'optimizer.lr'" in str(unknown_key("lr", keys()))
    assert "did you mean 'schedule.warmup'" in str(unknown_key("optimizer.warmup", keys()))


def test_input_is_left_alone() -> None:
    values = defaults()
    before = copy.deepcopy(values)
    build(values)
    assert values == before


# ---- difference -----------------------------------------------------------------------------------------------------


def test_no_difference() -> None:
    assert difference(defaults(), defaults()) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", 3, ["epochs: 10.0 -> 3"]),
        ("optimizer.lr", 0.5, ["optimizer.lr: 0.1 -> 0.5"]),
        ("competition.metric", "auc", ["competition.metric: accuracy -> auc"]),
        ("competition.root", "/elsewhere", []),
        ("competition.solution", "x.csv", []),
        ("fold", 3, []),
        ("wandb.mode", "offline", []),
        ("paths.runs", "r", []),
        ("checkpoint.every", 5, []),
        ("workers", 8, []),
        ("run", "b", []),
        ("model.weights", "w.pth", ["model.weights: None -> w.pth"]),  # another start is another run
    ],
)
def test_difference(key: str, value: object, expected: list[str]) -> None:
    assert difference(defaults(), with_value(key, value)) == expected


def test_difference_of_all_keys_and_of_keys_on_one_side() -> None:
    new = with_value("paths.runs", "r")
    assert difference(defaults(), new, ignore=()) == ["paths.runs: runs -> r"]
    assert difference({"a": 1}, {"b": 2}) == ["a: 1 -> None", "b: None -> 2"]


def test_a_key_that_a_run_does_not_have_yet_has_its_default() -> None:
    """A run made before a key existed goes on under its name, also when that is said; only another value differs."""
    older = defaults()
    del older["stack"], older["ensemble"], older["epochs"]
    assert difference(older, defaults()) == difference(defaults(), older) == []
    assert difference(older, with_value("ensemble.method", "soft")) == ["ensemble.method: climb -> soft"]
    assert difference(older, with_value("epochs", 11.0)) == ["epochs: 10.0 -> 11.0"]
    assert difference(older, with_value("ensemble.bags", 5)) == ["ensemble.bags: 1 -> 5"]


# ---- names of older versions ----------------------------------------------------------------------------------------

MEMBERS = {"runs": ["a", "b"]}


def older(**values: object) -> dict:
    """As a run's config.yaml was written when `method`, `learner` and `features` stood at the top."""
    found = {key: value for key, value in defaults().items() if key not in ("combined", "soup", "stack")}
    found["ensemble"] = {"rounds": 50, "bags": 1}
    return {**found, "method": None, "learner": None, "features": [], **values}


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ({}, {}),
        (
            {**MEMBERS, "method": "climb"},
            {**MEMBERS, "combined": "ensemble", "ensemble.method": "climb"},
        ),
        (
            {**MEMBERS, "method": "soft", "ensemble": {"rounds": 9, "bags": 1}},
            {**MEMBERS, "combined": "ensemble", "ensemble.method": "soft", "ensemble.rounds": 9},
        ),
        ({**MEMBERS, "method": "uniform"}, {**MEMBERS, "combined": "soup", "soup.method": "uniform"}),
        ({**MEMBERS, "method": "greedy"}, {**MEMBERS, "combined": "soup"}),
        ({**MEMBERS, "learner": "logistic"}, {**MEMBERS, "combined": "stack"}),
        (
            {"learner": "ridge", "features": ["x.npz"]},
            {"combined": "stack", "stack.learner": "ridge", "stack.features": ["x.npz"]},
        ),
        ({"method": "soft"}, {"ensemble.method": "soft"}),  # typed by mistake: a trained run all the same
    ],
)
def test_a_configuration_of_an_older_version_is_read(old: dict, now: dict) -> None:
    values = defaults()
    for key, value in now.items():
        *path, leaf = key.split(".")
        (values[path[0]] if path else values)[leaf] = value
    assert build(older(**old)) == build(values)
    assert difference(older(**old), values) == difference(values, older(**old)) == []
    assert migrate(migrate(older(**old))) == migrate(older(**old))


def test_older_names_are_checked_like_the_present_ones() -> None:
    with pytest.raises(UserError, match=r"^ensemble\.method=climp: choose one of .*did you mean 'climb'"):
        build(older(method="climp"))
    with pytest.raises(UserError, match=r"^ensemble=3: expected a section"):
        build({"method": "soft", "ensemble": 3})
    assert difference(older(**MEMBERS, method="climb"), older(**MEMBERS, method="vote")) == [
        "ensemble.method: climb -> vote"
    ]
    assert difference(older(**MEMBERS, method="climb"), older(**MEMBERS, learner="logistic")) == [
        "combined: ensemble -> stack"
    ]


def test_only_a_run_of_other_runs_is_combined() -> None:
    with pytest.raises(UserError, match=r"^combined: is set by \./run\.sh ensemble, stack and soup; leave it out"):
        build({"combined": "stack"})
    assert build({"combined": "stack", "stack": {"features": ["x.npz"]}}).combined == "stack"


def test_an_ignored_name_is_no_prefix() -> None:
    """`run` is ignored, `runs_more` and `folds` (beside `fold`) are not."""
    assert difference({"runs_more": 1, "folds": {"n": 5}}, {"runs_more": 2, "folds": {"n": 4}}) == [
        "folds.n: 5 -> 4",
        "runs_more: 1 -> 2",
    ]


def test_no_difference_after_a_file() -> None:
    """Or `./run.sh runs` lists settings that nobody changed."""
    assert difference(defaults(), through_yaml(defaults())) == []


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("hf-hub:timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("hf_hub:timm/resnet18", "resnet18"),
        ("timm/resnet18", "resnet18"),
        ("hf-hub:someone/net", "hf-hub:someone/net"),
        ("resnet18", "resnet18"),
    ],
)
def test_the_hubs_spelling_of_a_model(given: str, name: str) -> None:
    assert build({"model": {"name": given}}).model.name == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../elsewhere", "holds a slash"),
        ("a/b", "holds a slash"),
        (".hidden", "begins with '.'"),
        ("..", "begins with '.'"),
        ("-m", "begins with '-'"),
        ("a$HOME", r"holds \$"),
        ("a\nb", "holds control characters"),
        ("a\x85b", "holds control characters"),
        ("a\udcffb", "holds control characters"),  # a byte of the command line that is no UTF-8
        ("x" * 201, "is longer than 200 bytes"),
        ("é" * 101, "is longer than 200 bytes"),
    ],
)
def test_a_name_can_name_files(name: str, fault: str) -> None:
    for key, values in (("competition.name", {"competition": {"name": name}}), ("run", {"run": name})):
        with pytest.raises(UserError, match=f"^{key}=.*: {fault}; choose a plain name of .*, {key}=NAME$") as error:
            build(values)
        assert "\n" not in str(error.value) and len(str(error.value)) < 200
    with pytest.raises(UserError, match=f"^run=.*: {fault}|^competition.name"):
        run_name(dataclasses.replace(Config(), run=name))


def test_plain_names_are_taken() -> None:
    for name in ("x" * 200, "é" * 100, "2024_01", "1e3", "no", "a b", "a.b-c", "数字"):
        assert build({"run": name, "competition": {"name": name}}).run == name == run_name(build({"run": name}))


def test_the_name_that_a_run_has_by_itself_is_checked_too() -> None:
    config = build({"competition": {"name": "x" * 195}})
    with pytest.raises(UserError, match=r"^run=x+…: is longer than 200 bytes; .*run=NAME"):
        run_name(config)


def test_a_configuration_with_a_token_in_it_is_refused() -> None:
    values = {"run": "x", "wandb": {"project": "p-0123456789abcdef"}, "stages": [{"length": "5 steps"}]}
    refuse_secrets(values, {"HOME": "p-0123456789abcdef", "WANDB_API_KEY": "", "A_KEY": "x"})
    with pytest.raises(UserError, match=r"wandb.project: holds the value of \$WANDB_API_KEY") as error:
        refuse_secrets(values, {"WANDB_API_KEY": "0123456789abcdef"})
    assert "0123456789abcdef" not in str(error.value)
