"""Which metrics a configuration means: weights by name, names that do not fit, what is reported beside."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.competition.kinds import task_of
from src.competition.kinds.multi import Multi
from src.competition.kinds.single import Single
from src.competition.sample import Sample
from src.config import Config
from src.errors import UserError
from src.runs.scoring import metric_of, reported, weights_of

TASK = Multi(np.array(["any", "epidural", "subdural"]))


def of(task: Any) -> Any:
    return SimpleNamespace(task=task, sample=Sample(("id", "x"), np.array(["a"]), "labels"))


def config(**keys: Any) -> Config:
    return dataclasses.replace(Config(), competition=dataclasses.replace(Config().competition, **keys))


def test_weights_by_name_the_others_1() -> None:
    assert weights_of({"any": 2}, TASK).tolist() == [2, 1, 1]
    assert weights_of({"a=b": 2}, Multi(np.array(["a=b", "c"]))).tolist() == [2, 1], "an = of its own"
    assert weights_of({"mark": 3}, task_of("targets", np.array(["root=a", "root=b", "mark=x"]))).tolist() == [1, 3]
    metric = metric_of(config(metric="log loss", metric_weights={"any": 2}), of(TASK))
    assert metric.name == "weighted_log_loss"
    y, pred = np.array([[True, False, True]]), np.array([[0.9, 0.2, 0.6]])
    assert metric.function(y, pred) == pytest.approx(-(2 * np.log(0.9) + np.log(0.8) + np.log(0.6)) / 4), "RSNA 2019"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"metric_weights": {"subdurl": 2}}, "there is no 'subdurl'; did you mean 'subdural'?"),
        ({"metric_weights": {"any": -1}}, "any=-1; a weight is a number from 0"),
        ({"metric_weights": {"any": 2}, "metric": "pf1"}, "pf1 takes no weights"),
        ({"metric": "weighted log loss"}, "whose weights? Give competition.metric_weights="),
        ({"metric": "f1_macor"}, "no metric 'f1_macor'; did you mean 'f1_macro'?"),
    ],
)
def test_mistakes(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        metric_of(config(**{"metric": "log_loss", **keys}), of(TASK))
    assert text in str(caught.value)


def test_two_classes() -> None:
    three = of(Single(np.array(["a", "b", "c"])))
    with pytest.raises(UserError, match="f1_binary is for 2 classes, but there are 3; use f1_macro"):
        metric_of(config(metric="F1"), three)


def test_what_is_reported_beside() -> None:
    names = [metric.name for metric in reported(config(metric="micro F1 of words"), of(TASK))]
    assert names == ["f1_micro", "accuracy", "f1_macro", "log_loss"]
    names = [metric.name for metric in reported(config(metric="Macro F1", metrics=("AUC", "f1_macro")), of(TASK))]
    assert names == ["f1_macro", "auc"], "once, the one that decides first"
