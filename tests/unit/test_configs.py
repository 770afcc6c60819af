"""Every shipped configuration composes, builds and says how it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from src import cli
from src.config import Config
from src.inference.tta import parse_views
from src.verbs import VERBS
from src.words import CONFIGS, GROUPS, full_words

SHIPPED = sorted(path for group in GROUPS for path in (CONFIGS / group).glob("*.yaml"))


def composed(*words: str) -> Config:
    found: list[Config] = []

    def keep(config: Config, began: float) -> int:
        found.append(config)
        return 0

    assert cli.compose(full_words(VERBS["train"], words), keep, 0.0) == 0
    return found[0]


def test_there_are_configurations() -> None:
    assert {path.parent.name for path in SHIPPED} == set(GROUPS)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_shipped_configuration_builds(path: Path) -> None:
    words = [f"{path.parent.name}={path.stem}", "competition.root=somewhere", "model.pretrained=never"]
    words += ["competition=folder"] * (path.parent.name != "competition")
    config = composed(*words)
    assert config.stages
    assert parse_views(config.tta)
    if path.parent.name != "preset" or path.stem != "auto":
        assert "./run.sh" in path.read_text(), "the header says how to run it"


def test_keys_of_the_command_line_win_over_the_chosen_preset(tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").touch()
    words = ["competition=folder", "competition.root=somewhere", f"paths.input={tmp_path}", "epochs=3"]
    config = composed(*words)
    assert (config.optimizer.name, config.epochs) == ("adamw", 3.0), "weights are attached: the preset for fine-tuning"
    assert composed(*words, "model.pretrained=never").model.pretrained == "never"
    assert composed(*words, "preset=scratch").epochs == 3.0


def test_the_folder_names_a_competition_that_has_no_name() -> None:
    config = composed("competition=folder", "competition.root=/some/where/birds", "preset=scratch")
    assert config.competition.name == "birds"


def test_a_model_option_needs_no_plus_sign() -> None:
    assert composed("model.options.output_stride=16").model.options == {"output_stride": 16}
