"""The words of `ablate` and `ladder`, and every trick that has a name."""

from __future__ import annotations

import dataclasses

import pytest
from omegaconf import OmegaConf

from src import cli
from src.config import Config, build, plain
from src.errors import UserError
from src.recipes import ablate
from src.search.effects import Effect
from src.search.study import Study, ordinary_run, refusal
from src.search.tricks import BASELINE, Pairing, folder_name, merged, named_tricks, pairing_of, words_of
from src.verbs import VERBS, Verb
from src.words import CONFIGS, GROUPS, full_words, key_of
from tests.unit.test_configs import composed

NAMED = named_tricks(CONFIGS / "tricks.yaml")
WORDS = ["competition=folder", "competition.root=somewhere", "preset=scratch"]


def full(words: list[str]) -> list[str]:
    return full_words(VERBS["ablate"], words)


@pytest.fixture(scope="module")
def baselines() -> list[Config]:
    return [composed(*WORDS), composed(*WORDS, "experiment=bare", "model=resnet18")]


def on_top(base: Config, words: list[str]) -> Config:
    """`base` with the words, as Hydra composes it in ten times the time; no trick brings a group."""
    assert not {key_of(word) for word in words} & set(GROUPS)
    return build(cli.to_plain(OmegaConf, OmegaConf.merge(plain(base), cli.from_words(OmegaConf, words))))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_trick_is_valid_and_changes_something(name: str, baselines: list[Config]) -> None:
    config = composed(*merged(full(WORDS), full(NAMED[name])))
    bare = on_top(baselines[1], full(NAMED[name]))
    assert config != baselines[0] or bare != baselines[1]
    assert folder_name(name) == name


def test_the_bare_baseline_has_none_of_the_techniques(baselines: list[Config]) -> None:
    for name in ("ema", "swa", "smoothing", "cosine", "no_bias_decay", "warmup", "clip", "tta_flip", "progressive"):
        assert on_top(baselines[1], full(NAMED[name])) != baselines[1], name
    words = merged(full([*WORDS, "experiment=bare", "model=resnet18"]), full(NAMED["swa"]))
    assert composed(*words) == on_top(baselines[1], full(NAMED["swa"]))


def test_the_words_of_the_verb_are_its_own() -> None:
    pairing, others = pairing_of(
        "ablate",
        ["tricks=[mixup,loss.name=focal loss.gamma=1]", "folds=[0,2]", "folds.n=4", "seeds=2", "epochs=3", "share=0.5"],
    )
    assert pairing == Pairing(("mixup", "loss.name=focal loss.gamma=1"), seeds=2, folds=(0, 2), share=0.5)
    assert others == ["folds.n=4", "epochs=3"], "the section folds is the configuration's"
    assert pairing_of("ablate", ["tricks=ema", "folds=1"])[0] == Pairing(("ema",), folds=(1,))
    assert pairing_of("ladder", ["tricks=[ema]", "rungs=[0.1,1]", "keep=0.3"])[0].rungs == (0.1, 1)


@pytest.mark.parametrize(("word", "complaint"), [
    ("seeds=0", "seeds=0: how many?"),
    ("seeds=two", "seeds=two: how many?"),
    ("folds=[0,0]", "expected fold numbers"),
    ("folds=[]", "expected fold numbers"),
    ("folds=[x]", "expected fold numbers"),
    ("mode=both", "choose add or remove"),
    ("equal=steps", "choose epochs or time"),
    ("share=2", "must be above 0, up to 1"),
    ("share=.nan", "must be above 0, up to 1"),
    ("tricks=[a,a]", "expected different names"),
    ("tricks=[1]", "expected different names"),
    ("tricks=[", "cannot be read"),
    ("tricks=[]", "which tricks?"),
])  # fmt: skip
def test_a_bad_word_is_answered_in_one_line(word: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint.replace("?", r"\?")):
        pairing_of("ablate", ["tricks=[ema]", word])


@pytest.mark.parametrize(("words", "complaint"), [
    (["tricks=[mixpu]"], "did you mean 'mixup'?"),
    (["tricks=[ls.gamma=1]"], "ls.gamma: there is no such key"),
    (["tricks=[ema]", "epoch=1"], "did you mean 'epochs'?"),
    (["tricks=[ema]", "--cfg=job"], "of flags -m alone"),
    (["tricks=[ema]", "time_budget=60s"], "leave it out"),
    ([], "which tricks?"),
])  # fmt: skip
def test_a_mistake_ends_the_command_before_anything_is_trained(words: list[str], complaint: str, capsys) -> None:
    assert cli.main(["ablate", *WORDS, *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_a_written_out_trick_and_its_folder() -> None:
    assert words_of("loss.name=focal 'stages=[{length: 20%}, {}]'", NAMED) == [
        "loss.name=focal",
        "stages=[{length: 20%}, {}]",
    ]
    one, other = folder_name("loss.gamma=1"), folder_name("loss.gamma=-1")
    assert one != other and one.startswith("loss-gamma-1-") and "/" not in folder_name("model.weights=a/../b")


def test_a_later_word_takes_the_place_of_an_earlier_one() -> None:
    assert merged(["size=64", "epochs=3", "experiment=swa"], ["experiment=bare", "++size=32"]) == [
        "epochs=3", "experiment=bare", "++size=32",
    ]  # fmt: skip


def arms_of(*words: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, dict[str, Config | str]]:
    """The baseline and arms that the command line composes, in the place of the recipe."""
    found = []

    def keep(verb: Verb, config: Config, began: float, arms: dict[str, Config | str], pairing: Pairing) -> int:
        found.append((config, arms))
        return 0

    monkeypatch.setattr(cli, "start", keep)
    assert cli.main(["ablate", *WORDS[:2], *words]) == 0
    return found[0]


def test_arms_add_or_leave_out_one_trick_each(monkeypatch: pytest.MonkeyPatch) -> None:
    tricks = ["tricks=[mixup,ema,loss.smoothing=0.3]", "preset=scratch", "average.ema=0.9"]
    base, arms = arms_of(*tricks, monkeypatch=monkeypatch)
    assert arms["mixup"] == dataclasses.replace(base, mix=dataclasses.replace(base.mix, mixup=0.2))
    assert arms["ema"] == dataclasses.replace(base, average=dataclasses.replace(base.average, ema=0.999))
    assert base.wandb.mode == "disabled"
    base, arms = arms_of(*tricks, "mode=remove", "wandb.mode=offline", monkeypatch=monkeypatch)
    assert (base.mix.mixup, base.average.ema, base.loss.smoothing) == (0.2, 0.999, 0.3)
    assert arms["mixup"] == dataclasses.replace(base, mix=dataclasses.replace(base.mix, mixup=0.0))
    assert arms["ema"] == dataclasses.replace(base, average=dataclasses.replace(base.average, ema=0.9))
    assert base.wandb.mode == "offline"


def test_no_side_of_a_pair_is_scored_by_weights_that_its_rows_have_chosen(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, arms = arms_of("tricks=[ema,no_ema,no_swa]", "preset=scratch", "average.ema=0.9", monkeypatch=monkeypatch)
    assert base.average.swa and base.average.compare, "an ordinary run compares them"
    study = Study(tmp_path, {BASELINE: base, "no_swa": arms["no_swa"]}, Pairing(("no_swa",)))  # type: ignore[dict-item]
    assert [ordinary_run(study, cell).average.compare for cell in study.cells()] == [False] * 20
    # both sides would keep their SWA weights, and the EMA changes no others
    assert "both sides keep their SWA weights" in refusal(base, arms["ema"], "add")
    assert "both sides keep their SWA weights" in refusal(base, arms["no_ema"], "add")
    assert refusal(base, arms["no_swa"], "add") == ""
    without, arms = arms_of("tricks=[no_ema]", "preset=scratch", "average.swa=false", monkeypatch=monkeypatch)
    assert refusal(without, arms["no_ema"], "add") == ""


def test_the_rungs_of_a_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holm's correction is over all that started; the last rung has seeds that no rung before it had."""
    rungs = []

    def compare(place, base, arms, pairing: Pairing, started: int, patience: float) -> tuple[dict[str, Effect], int]:
        rungs.append((place.name, list(arms), pairing.share, pairing.first_seed, started))
        return {name: Effect(2, 2, worth) for worth, name in enumerate(arms)}, 0

    monkeypatch.setattr(ablate, "compare", compare)
    base, arms = arms_of("tricks=[mixup,cutmix,erase,gem]", monkeypatch=monkeypatch)
    ablate.ladder(base, arms, Pairing(tuple(arms), seeds=3))
    assert rungs == [
        ("rung1", ["mixup", "cutmix", "erase", "gem"], 0.25, 0, 4),
        ("rung2", ["gem", "erase"], 0.5, 0, 4),
        ("rung3", ["erase"], 1.0, 3, 4),
    ]
    rungs.clear()
    ablate.ladder(base, arms, Pairing(tuple(arms), rungs=(1.0,)))
    assert rungs == [("rung1", list(arms), 1.0, 0, 4)], "a single rung has nothing before it"


def test_a_study_is_on_all_folds_unless_some_are_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = arms_of("tricks=[mixup]", "folds.n=3", monkeypatch=monkeypatch)

    def cells(**words) -> set[tuple[int, int]]:
        return {(cell.fold, cell.seed) for cell in Study(tmp_path, {BASELINE: base}, Pairing((), **words)).cells()}

    assert cells() == {(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)}
    assert cells(folds=(2, 4), seeds=1, first_seed=5) == {(2, 5), (4, 5)}


def test_refused_arms_are_named_and_a_model_does_not_bring_its_own_preset(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resnet34.safetensors").touch()  # the baseline's weights; by itself the trick's model is for scratch
    base, arms = arms_of(
        "tricks=['model=test_resnet model.pretrained=never','loss.name=focal mix.mixup=0.2',planted_null]",
        "model=resnet34", f"paths.input={tmp_path}", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert isinstance(arms["loss.name=focal mix.mixup=0.2"], str)
    assert arms["planted_null"] == dataclasses.replace(base, seed=7919)
    changed = dataclasses.replace(base.model, name="test_resnet", pretrained="never")
    assert base.optimizer.scaling == "sqrt", "fine-tuning"
    assert arms["model=test_resnet model.pretrained=never"] == dataclasses.replace(base, model=changed)
