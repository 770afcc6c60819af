"""`./run.sh help WORD` and completion: every key and verb is explained, and every example can be typed."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
from omegaconf import OmegaConf

from src import cli
from src.config import build, defaults, keys
from src.errors import UserError
from src.help import COMMANDS, answer, choices, completion, example, meanings
from src.verbs import VERBS
from src.words import GROUPS, full_words

LEAVES = [key for key in keys() if not any(other.startswith(f"{key}.") for other in keys())]


def test_every_key_has_a_meaning_and_an_example_that_can_be_typed() -> None:
    for key in LEAVES:
        assert meanings()[key], key
        words = shlex.split(example(key))[1:]
        verb = VERBS[words.pop(0)] if "=" not in words[0] else VERBS["train"]
        given = cli.from_words(OmegaConf, full_words(verb, words))
        build(OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(defaults()), given)))  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_explained(verb: str) -> None:
    text = answer([verb])
    assert VERBS[verb].help in text and COMMANDS[verb] in text
    words = shlex.split(COMMANDS[verb])[1:]
    if verb != "train":
        assert words.pop(0) == verb
    own = VERBS[verb].words
    if own is not None:
        full_words(VERBS[verb], [word for word in words if word.partition("=")[0] not in (*own, "tricks", "seeds")])


def test_what_it_says_of_a_key() -> None:
    text = answer(["schedule.kind"])
    assert "default   cosine" in text and "one_cycle" in text and "./run.sh fold=0 schedule.kind=" in text
    assert "optimizer.lr" in answer(["lr"]), "people leave the section out"
    assert "model.name" in answer(["model"]) and "model.head" in answer(["model"])
    assert "finetune_vit" in answer(["preset"])
    assert "colour" in answer(["competition.alpha"]), "comments within and above"
    assert '"images/{label}' in answer(["competition.train_images"])
    with pytest.raises(UserError, match="did you mean 'mi"):
        answer(["mixupp"])


def test_choices() -> None:
    assert choices("model.head") == ["linear", "cosface", "arcface"]
    assert choices("augment.flip") == ["true", "false"]
    assert choices("epochs") == [] and choices("preset") == sorted(choices("preset"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_verbs_keys_values_and_runs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "runs" / "digits-a").mkdir(parents=True)
    lines = {
        "./run.sh pred": "predict",
        "./run.sh fold=0 model.hea": "model.head=",
        "./run.sh fold=0 model.head=arc": "arcface",
        "./run.sh ensemble method=cli": "climb",
        "./run.sh report run=dig": "digits-a",
        "./run.sh help ladd": "ladder",
        "./run.sh ensemble runs=[digits-a,dig": "[digits-a,digits-a",
        "./run.sh fold=0 preset=finetune_": "finetune_vit",
    }
    script = completion() + "\n" + "\n".join(
        f"COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=(); _kfold 2>/dev/null; "
        'echo "${COMPREPLY[*]}"'
        for line in lines
    )  # fmt: skip
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == list(lines.values()), done.stderr
    assert all(f"{group}=" in completion() or group in completion() for group in GROUPS)
