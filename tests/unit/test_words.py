"""The words of a command line: text stays text, and no key counts twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src import cli
from src.config import Config, defaults, keys, kind_of
from src.errors import UserError
from src.files import write_config
from src.verbs import VERBS
from src.words import full_words
from tests.unit.test_configs import composed

WORDS = ["competition=folder", "competition.root=somewhere", "preset=scratch"]
NOT_TEXT = ["2024_01", "1e3", "no", "true", "Off", "1:30", "0x1f", ".5", "inf", "007", "-1", "1.0", "12"]


def train_words(*words: str) -> list[str]:
    return full_words(VERBS["train"], words)


# ---- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [text for text in NOT_TEXT if text[0] not in ".-"])
def test_a_name_arrives_as_it_was_typed(text: str, tmp_path: Path) -> None:
    """Through Hydra, and through a base, which YAML reads."""
    config = composed(*WORDS, f"run={text}", f"model.weights={text}", f"competition.metrics=[accuracy,{text}]")
    assert (config.run, config.model.weights, config.competition.metrics) == (text, text, ("accuracy", text))
    write_config(tmp_path / text / "config.yaml", {**defaults(), "run": text})
    for verb, words in (("predict", [f"run={text}"]), ("ensemble", [f"runs=[{text}, a]", f"run={text}"])):
        found = cli.configuration(VERBS[verb], full_words(VERBS[verb], [*words, f"paths.runs={tmp_path}"]))
        assert found is not None and found.run == text
        assert found.runs == ((text, "a") if verb == "ensemble" else ())


@pytest.mark.parametrize("key", [key for key in keys() if kind_of(key) in (str, str | None)])
@pytest.mark.parametrize("text", ["1e3", "no", "(a) b=c #d", "it's"])
def test_every_key_that_is_text_is_read_as_text(key: str, text: str) -> None:
    (word,) = train_words(f"{key}={text}")
    assert OverridesParser.create().parse_override(word).value() == text
    assert OmegaConf.select(OmegaConf.from_dotlist([word]), key) == text


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"], exclude_characters='"$\\,') | st.just(" "))
)
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_as_it_is(text: str) -> None:
    text = text.strip()
    assume(text and text.lower() not in ("null", "~") and text[0] not in "'[{" and not re.match(r"\w+\(", text))
    (word,) = train_words(f"run={text}")
    assert OverridesParser.create().parse_override(word).value() == text
    assert OmegaConf.from_dotlist([word]).run == text


@pytest.mark.parametrize(
    "word",
    [
        "run=null",
        "run=birds-2",
        "run=",
        "run='1e3'",
        'run="1e3"',
        "competition.root=/kaggle/input/x.y",
        "competition.root=${paths.input}/x",
        "model.name=choice(resnet18,resnet34)",
        "model.name=resnet18,resnet34",  # Hydra says what to do about it
        "competition.root=/data/a b, 1e3",
        "runs=[]",
        "runs=[a, b]",
        "runs=['1e3',b]",
        "seed=1",
        "fold=0,1",
        "optimizer.lr=1e-3",
        "stages=[{length: 3 epochs}]",
        "cache=no",
    ],
)
def test_what_is_no_text_or_text_already_is_left_alone(word: str) -> None:
    assert train_words(word) == [word]


def test_the_values_of_a_multirun_are_text_one_by_one() -> None:
    assert train_words("run=a,1e3,no", "fold=0,1", "-m") == ["run=a,'1e3','no'", "fold=0,1", "-m"]
    assert train_words("model=choice(a,b)", "--multirun")[0] == "model.name=choice(a,b)"
    found = OverridesParser.create().parse_override("run=a,'1e3','no'")
    assert list(found.sweep_string_iterator()) == ["a", "'1e3'", "'no'"]


def test_a_list_of_text() -> None:
    assert train_words("runs=[2024_01, no,a]") == ["runs=['2024_01','no',a]"]


def test_choices_are_text_too() -> None:
    """Or YAML's false is answered instead of what was typed."""
    with pytest.raises(UserError, match=r"^wandb\.mode=off: choose one of auto, online"):
        composed_from_words("wandb.mode=off")


def composed_from_words(*words: str) -> Config:
    from src.config import build

    values = OmegaConf.merge(OmegaConf.create(defaults()), cli.from_words(OmegaConf, train_words(*words)))
    return build(cli.to_plain(OmegaConf, values))


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\x7f"])
def test_control_characters_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^run=a b?: holds control characters; type it without them$"):
        train_words(f"run={text}")


# ---- twice ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["optimizer.lr=1", "optimizer.lr=2"], "optimizer.lr: given twice, optimizer.lr=1 and optimizer.lr=2; leave"),
        (["run=a", "seed=1", "run=a"], "run: given twice, run=a and run=a; leave one of them out"),
        (["model=a", "model.name=b"], "model.name: given twice, model=a and model.name=b"),
        (["seed=1", "++seed=2"], "seed: given twice, seed=1 and ++seed=2"),
        (["preset=scratch", "preset=finetune"], "preset: given twice"),
        (["ensemble", "runs=[a]", "method=soft", "ensemble.method=vote"], "ensemble.method: given twice, method=soft"),
        (["prune", "run=a", "run=b"], "prune.run: given twice, run=a and run=b"),
        (["predict", "run=a", "run=b"], "run: given twice"),
        (["ablate", "tricks=[ema]", "seeds=1", "seeds=2"], "seeds: given twice"),
        (["ablate", "tricks=[ema]", "size=32", "size=64"], "size: given twice"),
        (["ablate", "tricks=['size=32 size=64']"], "size: given twice"),
        (["optimizer={lr: 1}", "optimizer.lr=2"], "optimizer: given twice, optimizer={lr: 1} and optimizer.lr=2"),
        (["++model.options={}", "model.options.depth=1"], "model.options: given twice"),
        (["score", "submission=a", "submission=b"], "submission: given twice, submission=a and submission=b"),
    ],
)
def test_a_key_given_twice_is_refused(words: list[str], complaint: str, capsys, monkeypatch) -> None:
    for name, instead in (("compose", 0), ("configuration", None), ("recipe_of", lambda **_: 0)):  # nothing is trained
        monkeypatch.setattr(cli, name, lambda *_, instead=instead: instead)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {complaint}") and error.count("\n") == 1
    second = error.rpartition(" and ")[2].partition("; leave one of them out")[0]
    at = len(words) - 1 - words[::-1].index(second) if second in words else None
    assert cli.main([word.replace(f" {second}", "") for n, word in enumerate(words) if n != at]) == 0


def test_other_keys_of_one_section_are_not_twice() -> None:
    words = ["model.options.depth=1", "model.options.width=1", "model.drop_rate=0.1", "-m", "-m"]
    assert len(train_words(*words, "~model.options.x=1", "+model.options.x=2")) == 7
